"""`oom-collector run` as a process: a file as kernel log, real signals, real HTTP."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from importlib.resources import files
from typing import TYPE_CHECKING

import jsonschema
import pytest

from tests import lines
from tests.agent_process import AgentProcess, Log

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = json.loads(files("collector").joinpath("schema/kill-record.schema.json").read_text())


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "kernel.log")


def start(tmp_path: Path, log: Log, *arguments: str, **options: object) -> AgentProcess:
    settings = ("--kernel-log", f"file:{log.path}", "--state-dir", str(tmp_path / "state"), "--metrics-hold", "0")
    return AgentProcess(*settings, *arguments, directory=tmp_path, **options)  # type: ignore[arg-type]


def test_old_kills_are_journalled_new_ones_counted_and_told_and_those_of_the_downtime_too(
    tmp_path: Path, log: Log
) -> None:
    log.write(lines.report(pid=11))
    with start(tmp_path, log, "--node-name", "node-7") as agent:
        agent.until(agent.ready)
        assert agent.kills() == 0
        log.write(lines.report(pid=12))
        agent.until(lambda: agent.kills() == 1)
        agent.until(lambda: len(agent.incidents) == 1)
        assert agent.metric("oom_collector_kill_to_metric_seconds_count") == 1
        assert agent.metric('oom_collector_sink_deliveries_total{outcome="delivered",sink="stdout"}') == 1
        assert agent.stop() < 5
    log.write(lines.report(pid=13))
    with start(tmp_path, log) as agent:
        agent.until(lambda: agent.kills() == 2)
        agent.until(lambda: len(agent.incidents) == 2)
        assert agent.metric("oom_collector_kill_to_metric_seconds_count") == 0
        agent.stop()
    first, second = agent.incidents
    jsonschema.validate(first, SCHEMA)
    assert (first["victim"]["pid"], first["node"]) == (12, "node-7")
    assert (second["victim"]["pid"], second["node"]) == (13, None)
    assert len({first["id"], second["id"]}) == 2
    assert kills(tmp_path / "state") == [13, 12, 11]


def kills(state: Path) -> list[int]:
    command = [sys.executable, "-m", "collector", "kills", "--output", "json", "--state-dir", str(state)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line)["victim"]["pid"] for line in out.splitlines()]


def test_the_kills_of_the_downtime_are_shown_after_the_hold(tmp_path: Path, log: Log) -> None:
    with start(tmp_path, log) as agent:
        agent.until(agent.ready)
        log.write(lines.report(pid=12))
        agent.until(lambda: agent.kills() == 1)
        assert agent.ready()  # what it has shown is written when that is sent, and before it answers again
        agent.kill()
    log.write(lines.report(pid=13))
    with start(tmp_path, log, "--metrics-hold", "2") as agent:
        agent.until(agent.ready)
        assert agent.kills() == 1
        log.write(lines.report(pid=14))
        agent.until(lambda: agent.kills() == 2)
        agent.until(lambda: agent.kills() == 3)


def test_a_kill_that_no_scrape_saw_before_the_end_of_the_agent_is_shown_after_the_hold(
    tmp_path: Path, log: Log
) -> None:
    with start(tmp_path, log) as agent:
        agent.until(agent.ready)
        assert agent.kills() == 0
        log.write(lines.report(pid=12))
        agent.until(lambda: len(agent.incidents) == 1)
        agent.kill()
    with start(tmp_path, log, "--metrics-hold", "1") as agent:
        agent.until(agent.ready)
        assert agent.kills() == 0
        agent.until(lambda: agent.kills() == 1)
        assert agent.ready()
        agent.kill()
    with start(tmp_path, log, "--metrics-hold", "60") as agent:
        assert agent.kills() == 1


def test_killed_in_the_middle_of_a_report_it_counts_once_and_tells_all_of_it(tmp_path: Path, log: Log) -> None:
    with start(tmp_path, log) as agent:
        agent.until(agent.ready)
        log.write([*lines.report(pid=12), lines.group(), lines.kill(pid=12)])
        agent.until(lambda: agent.kills() == 1)
        agent.kill()
    log.write([lines.kill(pid=31), lines.kill(pid=32)])
    with start(tmp_path, log) as agent:
        agent.until(lambda: agent.metric('oom_killed_processes_total{cause="container_limit"}') == 3)
        agent.until(lambda: len(agent.incidents) == 1)
        assert agent.kills() == 1
        (told,) = agent.incidents
        assert [process["pid"] for process in told["also_killed"]] == [31, 32]
        assert told["group_kill"]


def test_killed_at_any_instant_it_counts_each_kill_once_and_tells_all(tmp_path: Path, log: Log) -> None:
    with start(tmp_path, log) as agent:
        agent.until(agent.ready)
    pids = iter(range(1000, 2000))
    written = []
    for _ in range(6):
        with start(tmp_path, log) as agent:
            until = time.monotonic() + random.uniform(0.0, 0.3)
            while time.monotonic() < until:
                pid = next(pids)
                written.append(pid)
                log.write([*lines.report(pid=pid), lines.group(), lines.kill(pid=pid), lines.kill(pid=pid + 1000)])
                time.sleep(0.01)
            agent.kill()
    with start(tmp_path, log) as agent:
        agent.until(lambda: agent.kills() == len(written))
        agent.until(lambda: {incident["victim"]["pid"] for incident in agent.incidents} == set(written))
        assert agent.kills() == len(written)
        assert agent.metric('oom_killed_processes_total{cause="container_limit"}') == 2 * len(written)
    assert all(
        [process["pid"] for process in told["also_killed"]] == [told["victim"]["pid"] + 1000]
        for told in agent.incidents
    )
    assert sorted(kills(tmp_path / "state")) == written


def test_stopped_in_the_middle_of_a_report_it_leaves_it_to_the_next_start(tmp_path: Path, log: Log) -> None:
    with start(tmp_path, log) as agent:
        agent.until(agent.ready)
        log.write(lines.report(pid=12))
        agent.until(lambda: agent.kills() == 1)
        agent.stop()
        assert agent.incidents == []
    with start(tmp_path, log) as agent:
        agent.until(lambda: len(agent.incidents) == 1)
        assert agent.kills() == 1


def test_without_a_state_on_disk_it_runs_and_tells_what_it_knows_when_it_stops(tmp_path: Path, log: Log) -> None:
    (tmp_path / "state").write_text("in the way")
    with start(tmp_path, log) as agent:
        agent.until(agent.ready)
        assert agent.metric("oom_collector_state_persistent") == 0
        log.write(lines.report(pid=12))
        agent.until(lambda: agent.kills() == 1)
        agent.stop()
        assert "level=error" in agent.log
        assert "state is in memory" in agent.log
    assert [incident["victim"]["pid"] for incident in agent.incidents] == [12]


def test_a_reader_that_does_not_read_stdout_stops_nothing(tmp_path: Path, log: Log) -> None:
    reading, writing = os.pipe()
    with start(tmp_path, log, stdout=writing) as agent:
        os.close(writing)
        agent.until(agent.ready)
        # More than the 64 KiB that a pipe holds.
        for pid in range(100, 160):
            log.write(lines.report(pid=pid, neighbours=20))
        agent.until(lambda: agent.kills() == 60)
        delivered = 'oom_collector_sink_deliveries_total{outcome="delivered",sink="stdout"}'
        agent.until(lambda: agent.metric(delivered) > 3)
        assert agent.metric(delivered) < 60
        assert agent.get("/healthz") == (200, "ok\n")
        assert agent.stop() < 5
        assert "stdout is not read" in agent.log
    os.close(reading)
    with start(tmp_path, log) as agent:
        agent.until(lambda: len(agent.incidents) > 0 and agent.incidents[-1]["victim"]["pid"] == 159)
        assert agent.kills() == 60


def test_a_reader_that_is_gone_is_counted(tmp_path: Path, log: Log) -> None:
    reading, writing = os.pipe()
    with start(tmp_path, log, stdout=writing) as agent:
        os.close(writing)
        os.close(reading)
        agent.until(agent.ready)
        log.write(lines.report(pid=12))
        failed = 'oom_collector_sink_deliveries_total{outcome="failed",sink="stdout"}'
        agent.until(lambda: agent.metric(failed) == 1)
        assert agent.kills() == 1
        agent.stop()
    with start(tmp_path, log) as agent:
        agent.until(lambda: len(agent.incidents) == 1)


def test_no_kernel_log_is_said_everywhere(tmp_path: Path, log: Log) -> None:
    log.path.unlink()
    with start(tmp_path, log) as agent:
        agent.until(lambda: "no kernel log can be read" in agent.log)
        assert agent.get("/healthz")[0] == 200
        status, reason = agent.get("/readyz")
        assert (status, "No such file" in reason) == (503, True)
        assert agent.metric('oom_collector_source_up{source="file"}') == 0
        log.path.touch()
        agent.until(agent.ready)
        assert agent.metric('oom_collector_source_up{source="file"}') == 1


def test_user_space_is_not_believed(tmp_path: Path, log: Log) -> None:
    with start(tmp_path, log) as agent:
        agent.until(agent.ready)
        log.write(lines.report(pid=12), priority=14)
        agent.until(lambda: agent.metric("oom_collector_forged_records_total") > 0)
        assert agent.kills() == 0


def test_a_kill_without_a_cgroup_is_counted_as_such_when_it_has_settled(tmp_path: Path, log: Log) -> None:
    with start(tmp_path, log) as agent:
        agent.until(agent.ready)
        log.write([lines.kill(pid=12)])
        agent.until(lambda: agent.kills("unknown") == 1)
        assert agent.metric('oom_collector_unattributed_kills_total{reason="no_cgroup"}') == 1


def test_a_port_that_is_taken_is_an_error_that_names_the_flag(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "collector", "run", "--listen", address, "--state-dir", str(tmp_path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    assert done.returncode == 2
    assert f"--listen {address} (OOM_COLLECTOR_LISTEN): " in done.stderr
    assert "Traceback" not in done.stderr


def test_it_listens_on_ipv6(tmp_path: Path, log: Log) -> None:
    if not socket.has_ipv6 or not _has_ipv6_loopback():
        pytest.skip("no IPv6 loopback here")
    with start(tmp_path, log, "--listen", "[::1]:0") as agent:
        assert agent.url.startswith("http://[::1]:")
        agent.until(agent.ready)


def _has_ipv6_loopback() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_idle_it_does_not_wake_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with AgentProcess(
        "--kernel-log", f"file:{tmp_path}/pipe", "--state-dir", str(tmp_path), directory=tmp_path
    ) as agent:
        agent.until(agent.ready)
        before = _voluntary_switches(agent.pid)
        time.sleep(1)
        # Each wake-up of the event loop is one.
        assert _voluntary_switches(agent.pid) - before <= 2


def _voluntary_switches(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:  # noqa: PTH123 - of another process, for a moment
        return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
