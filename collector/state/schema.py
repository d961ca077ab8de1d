"""The tables of the state file, as they came about."""

from __future__ import annotations

# Each brings a file from the version before it to its own number.
VERSIONS = (
    """
CREATE TABLE incidents (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which they were first told
    id TEXT NOT NULL UNIQUE,
    boot_id TEXT,
    journalled_at REAL NOT NULL,
    cause TEXT NOT NULL,                    -- under which it was counted
    counted_processes INTEGER,              -- NULL: old when the agent first came to this node, never counted
    evidence INTEGER NOT NULL,              -- how many witnesses the document rests on
    settled INTEGER NOT NULL,
    printed INTEGER NOT NULL,
    document TEXT
);
CREATE INDEX unprinted ON incidents (seq) WHERE printed = 0;
CREATE TABLE counters (name TEXT, label TEXT, value INTEGER NOT NULL, PRIMARY KEY (name, label)) WITHOUT ROWID;
CREATE TABLE cursor (source TEXT PRIMARY KEY, boot_id TEXT, position TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
""",
    # kills: by the kernel's way of counting; negative: not yet counted off against the counters.
    # cgroups, from_counters and histories: of the boot in meta's counters_boot only.
    """
ALTER TABLE incidents ADD COLUMN kills INTEGER NOT NULL DEFAULT 1;
CREATE TABLE aliases (line_id TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cgroups (
    path TEXT PRIMARY KEY, inode INTEGER NOT NULL, told INTEGER NOT NULL, groups_told INTEGER NOT NULL,
    oom INTEGER NOT NULL, local_oom INTEGER
) WITHOUT ROWID;
CREATE TABLE from_counters (id TEXT PRIMARY KEY, path TEXT NOT NULL, at REAL NOT NULL, after REAL) WITHOUT ROWID;
CREATE TABLE histories (path TEXT PRIMARY KEY, history BLOB NOT NULL);
""",
    # documents: apart, so that what is looked at often does not lie behind hundreds of KiB; retention takes them first,
    # the id stays for as long as the boot. killed_at: seconds since 1970, journalled_at where it is not known.
    # late: see late.py. released: may be told. named: late has namespace and name of the pod. pending: names or fate
    # may still come. sinks: the remote ones that were ever to be told, outbox: that still are. evictions: pods whose
    # eviction is counted.
    """
CREATE TABLE documents (id TEXT PRIMARY KEY, document TEXT NOT NULL);
INSERT INTO documents SELECT id, document FROM incidents WHERE document IS NOT NULL;
ALTER TABLE incidents DROP COLUMN document;
ALTER TABLE incidents ADD COLUMN killed_at REAL;
ALTER TABLE incidents ADD COLUMN late TEXT;
ALTER TABLE incidents ADD COLUMN released INTEGER NOT NULL DEFAULT 0;
ALTER TABLE incidents ADD COLUMN named INTEGER NOT NULL DEFAULT 0;
ALTER TABLE incidents ADD COLUMN pending INTEGER NOT NULL DEFAULT 0;
ALTER TABLE incidents ADD COLUMN event_key TEXT;
ALTER TABLE incidents ADD COLUMN sinks TEXT NOT NULL DEFAULT '';
UPDATE incidents SET killed_at = journalled_at, released = settled OR counted_processes IS NULL;
UPDATE incidents SET pending = NOT released;
CREATE INDEX pending ON incidents (seq) WHERE pending = 1;
CREATE INDEX event_key ON incidents (event_key) WHERE event_key IS NOT NULL;
CREATE TABLE outbox (sink TEXT, id TEXT, PRIMARY KEY (sink, id)) WITHOUT ROWID;
CREATE TABLE evictions (pod_uid TEXT PRIMARY KEY, counted_at REAL NOT NULL) WITHOUT ROWID;
""",
    # container_kills: see batch.KillCount; all three names "": batch.NOBODY. placed: the incident is counted there.
    """
CREATE TABLE container_kills (
    namespace TEXT, pod TEXT, container TEXT, cause TEXT, kills INTEGER NOT NULL, since REAL NOT NULL,
    last_at REAL NOT NULL, PRIMARY KEY (namespace, pod, container, cause)
) WITHOUT ROWID;
ALTER TABLE incidents ADD COLUMN placed INTEGER NOT NULL DEFAULT 0;
""",
    # shown: how much of it a scrape has told: where the next process goes on. Which that was, nobody wrote down before.
    """
ALTER TABLE counters ADD COLUMN shown INTEGER NOT NULL DEFAULT 0;
UPDATE counters SET shown = value;
ALTER TABLE container_kills ADD COLUMN last_id TEXT;
ALTER TABLE container_kills ADD COLUMN shown INTEGER NOT NULL DEFAULT 0;
UPDATE container_kills SET shown = kills;
""",
    # workload: see late.workload_of(). revisions: see rollout.RevisionSeen. forecasts: Events that were sent.
    """
ALTER TABLE incidents ADD COLUMN workload TEXT;
CREATE INDEX workload ON incidents (workload, killed_at) WHERE workload IS NOT NULL;
CREATE TABLE revisions (
    workload TEXT, revision TEXT, image TEXT, first_at REAL NOT NULL, last_at REAL NOT NULL,
    observed_seconds REAL NOT NULL, growth_bytes_per_hour REAL, PRIMARY KEY (workload, revision)
) WITHOUT ROWID;
CREATE TABLE forecasts (key TEXT PRIMARY KEY, told_at REAL NOT NULL) WITHOUT ROWID;
""",
    # number, rolled_out_at: see rollout.RevisionSeen.
    """
ALTER TABLE revisions ADD COLUMN number INTEGER;
ALTER TABLE revisions ADD COLUMN rolled_out_at REAL;
""",
)
SCHEMA_VERSION = len(VERSIONS)
