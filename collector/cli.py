"""The commands. Each imports what it needs when it runs: `analyze` on a laptop has no use for an HTTP server."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, cast

from collector import __version__
from collector.config import (
    SETTINGS,
    STATE_DIR,
    Setting,
    read_config,
    read_setting,
)
from collector.errors import CollectorError, ConfigError
from collector.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_RUN_TEXT = """\
Read this machine's kernel log, tell each OOM kill as one JSON line on standard output, and count it in /metrics.
Works without a cluster and without root: what cannot be read is said on standard error, and in /readyz.
Each option is also an environment variable; the option wins."""

_ANALYZE_TEXT = """\
Tell who was OOM-killed in kernel logs, in which pod and container, whose limit was hit and why. Reads the output of
dmesg and journalctl, /dev/kmsg records, syslog files and what was pasted from a ticket; .gz and .xz too. No cluster,
no root."""

_ANALYZE_EXAMPLES = """\
examples:
  dmesg | oom-collector analyze
  journalctl -k -o json | oom-collector analyze --output json
  oom-collector analyze /var/log/messages* --timezone Europe/Berlin --year 2026"""

_DIAGNOSE_TEXT = """\
Tell from the history of a container's memory why it was killed: at its start, by a limit that is too low, by a leak, by
a jump; or, where it lives, whether it will be. One sample a line, as JSON: time (seconds of any clock),
working_set_bytes, limit_bytes and, where known, anon_bytes, file_bytes, shmem_bytes, kernel_bytes, revision; event is
"start" on the first sample of a life and "oom_kill" on that of a kill, cause says whose limit it was."""

_DIAGNOSE_EXAMPLES = """\
examples:
  oom-collector diagnose history.jsonl
  zcat history.jsonl.gz | oom-collector diagnose --output json --limit 536870912"""

_CHECKED = {
    *("kernel_log", "kmsg_path", "cgroup_root", "proc_root", "state_dir"),
    *("kubernetes", "kubeconfig", "node_name", "pod_logs"),
}
_KILLS_TEXT = "List the OOM kills in the agent's journal, the newest first. Works beside a running agent."
_CHECK_TEXT = "Show what the agent can see on this machine with these privileges, and what to do about each 'no'."


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 where the command could not do its work, 2 for a wrong command line."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except ConfigError as error:
        print(f"oom-collector: {printable(str(error))}", file=sys.stderr)
        return 2
    except CollectorError as error:
        print(f"oom-collector: {printable(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read has seen enough. Python flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int:
    config = read_config(vars(options), os.environ)
    # aiohttp's lists in C++ bring the runtime of that language along, which is 1 MiB; in Python they do as well here.
    os.environ.setdefault("FROZENLIST_NO_EXTENSIONS", "1")
    import asyncio

    from collector.agent import configure_logging, run_agent

    configure_logging(config.log_level)
    asyncio.run(run_agent(config, stdout=sys.stdout.fileno()))
    return 0


def _analyze(options: argparse.Namespace) -> int:
    from collector.analyze import run_analyze

    return run_analyze(options.files, output=options.output, timezone=options.timezone, year=options.year)


def _diagnose(options: argparse.Namespace) -> int:
    from collector.diagnose import run_diagnose

    return run_diagnose(options.file, output=options.output, limit_bytes=options.limit)


def _check(options: argparse.Namespace) -> int:
    from collector.check.machine import check_machine, kernel_log_works, render

    rows = check_machine(read_config(vars(options), os.environ))
    if options.output == "json":
        print(json.dumps([row.as_dict() for row in rows], indent=2))
    else:
        print(render(rows))
    return 0 if kernel_log_works(rows) else 1


def _kills(options: argparse.Namespace) -> int:
    from collector.kills import manifests, table
    from collector.state.store import read_documents
    from collector.text import to_line

    documents = read_documents(cast("Path", read_setting(STATE_DIR, vars(options), os.environ)))
    match options.output:
        case "json":
            lines: Iterable[str] = map(to_line, documents)
        case "text":
            lines = table(documents)
        case kind:
            lines = list(manifests(documents, kind, options.workload))
            if not lines:
                print("oom-collector: no kill in the journal advises other memory settings", file=sys.stderr)
    for line in lines:
        print(line)
    sys.stdout.flush()
    return 0


def _version(_: argparse.Namespace) -> int:
    print(f"oom-collector {__version__}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="oom-collector", description="Who was OOM-killed on this node, whose limit was hit, and why."
    )
    parser.add_argument("--version", action="version", version=f"oom-collector {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = _command(commands, "run", "the node agent", _RUN_TEXT)
    _add_settings(run, SETTINGS)
    run.set_defaults(command=_run)

    analyze = _command(commands, "analyze", "explain the OOM kills in a kernel log", _ANALYZE_TEXT, _ANALYZE_EXAMPLES)
    analyze.add_argument("--output", choices=("text", "json"), default="text", help="default: text")
    analyze.add_argument("--timezone", metavar="TZ", help="of stamps that carry none, as Europe/Berlin or +02:00")
    analyze.add_argument("--year", metavar="N", type=_year, help="of stamps that carry none")
    analyze.add_argument("files", metavar="FILE", nargs="*", help="a log; - is standard input, and so is none at all")
    analyze.set_defaults(command=_analyze)

    diagnose = _command(
        commands, "diagnose", "tell a leak from a low limit in a memory history", _DIAGNOSE_TEXT, _DIAGNOSE_EXAMPLES
    )
    diagnose.add_argument("--output", choices=("text", "json"), default="text", help="default: text")
    diagnose.add_argument("--limit", metavar="BYTES", type=_size, help="of the container, whatever its samples say")
    diagnose.add_argument("file", metavar="FILE", nargs="?", help="a history; - is standard input, and so is none")
    diagnose.set_defaults(command=_diagnose)

    check = _command(commands, "check", "what this machine and these privileges allow", _CHECK_TEXT)
    check.add_argument("--output", choices=("text", "json"), default="text", help="default: text")
    _add_settings(check, [setting for setting in SETTINGS if setting.field in _CHECKED])
    check.set_defaults(command=_check)

    kills = _command(commands, "kills", "list the agent's journal", _KILLS_TEXT)
    kills.add_argument(
        "--output",
        choices=("text", "json", "patch", "vpa"),
        default="text",
        help="default: text; json: the documents; patch, vpa: what they advise for each container now, as YAML: a"
        " strategic merge patch for each workload, or its recommendation as a VerticalPodAutoscaler holds it",
    )
    kills.add_argument(
        "--workload",
        metavar="NAMESPACE/KIND/NAME",
        help="patch, vpa: of this one alone, as shop/Deployment/web; kubectl reads but the first patch of a file",
    )
    _add_settings(kills, (STATE_DIR,))
    kills.set_defaults(command=_kills)

    version = _command(commands, "version", "print the version", "Print the version.")
    version.set_defaults(command=_version)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, short: str, text: str, epilog: str = ""
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=short,
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_settings(parser: argparse.ArgumentParser, settings: Sequence[Setting]) -> None:
    for setting in settings:
        default = f"; default {setting.default}" if setting.default else ""
        parser.add_argument(setting.flag, metavar=setting.metavar, help=f"{setting.help} ({setting.variable}{default})")


def _year(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1970 <= int(text) <= 9999):
        raise argparse.ArgumentTypeError(f"{text!r} is no year")
    return int(text)


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 62):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes")
    return int(text)
