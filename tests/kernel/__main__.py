"""`tests/kernel/run [KERNEL...]`: boot each kernel, run the scenarios in it, print scenario x kernel."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from . import fixtures, payload, vm
from .guest.scenarios import ON_REQUEST, SCENARIOS

ALL = ["5.10", "6.1", "6.12", "newest"]
DEFAULT = ["6.1"]
SCHEMA = payload.SOURCE / "collector/schema/kill-record.schema.json"
COLUMNS = ("vmstat", "memory_events", "lines", "processes", "incidents")


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one kernel's run gave; `results` by scenario, as the guest printed them."""

    image: vm.Image
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    node: dict[str, Any] = field(default_factory=dict)

    def on_line(self, line: str) -> None:
        """Take one line that the guest printed; anything but our JSON is passed on."""
        try:
            event = json.loads(line)
            kind = event.pop("kind")
        except (ValueError, KeyError, AttributeError, TypeError):
            print(f"[{self.image.series}] {line}", flush=True)
            return
        if kind == "node":
            self.node = event
            print(f"[{self.image.series}] {event}", flush=True)
        elif kind == "latency":
            print(f"[{self.image.series}] {describe_latency(event)}", flush=True)
        else:
            self.results[event["name"]] = event
            self.print_result(event)

    def print_result(self, result: dict[str, Any]) -> None:
        counts = "".join(f"{result.get(column, '-'):>9}" for column in COLUMNS)
        verdict = "FAIL" if result["problems"] else "ok"
        print(
            f"[{self.image.series}] {verdict:<5}{result['name']:<20}{counts}{result.get('seconds', '-'):>9} s",
            flush=True,
        )
        notes = [*result["problems"], *describe_figures(result)]
        for note in notes:
            print(f"[{self.image.series}]      {note}", flush=True)

    def check_schema(self, into: Path, names: list[str]) -> None:
        """One more result: every document of this run against the shipped schema."""
        validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
        problems = []
        for name in names:
            path = into / name / "incidents.jsonl"
            for line in path.read_text().splitlines() if path.exists() else ():
                problems += [
                    f"{name}: {error.json_path}: {error.message}" for error in validator.iter_errors(json.loads(line))
                ]
        self.results["schema"] = {"name": "schema", "problems": problems[:5]}
        self.print_result(self.results["schema"])


def describe_figures(result: dict[str, Any]) -> list[str]:
    return [f"{name}: {value}" for name, value in result.get("figures", {}).items()]


def describe_latency(event: dict[str, Any]) -> str:
    ratios = [event[f"metric_{p}"] / event[f"reader_{p}"] for p in ("p50", "p99")]
    return (
        f"kill record -> counter on /metrics, {event['kills']} kills: "
        f"p50 {event['metric_p50']} ms, p99 {event['metric_p99']} ms; "
        f"bare reader p50 {event['reader_p50']} ms, p99 {event['reader_p99']} ms; "
        f"ratio {ratios[0]:.1f} / {ratios[1]:.1f}; one scrape alone p50 {event['scrape_p50']} ms"
    )


def run_kernel(image: vm.Image, packed: Path, into: Path, scenarios: list[str]) -> Outcome:
    outcome = Outcome(image=image)
    print(f"[{image.series}]      {'':<20}{''.join(f'{column[:8]:>9}' for column in COLUMNS)}", flush=True)
    try:
        vm.run(image, packed, into, outcome.on_line)
        outcome.check_schema(into, scenarios)
    except vm.VmError as error:
        print(f"[{image.series}] {error}", flush=True)
    for name in (*scenarios, "totals", "schema"):
        outcome.results.setdefault(name, {"name": name, "problems": ["did not run"]})
    return outcome


def print_table(outcomes: list[Outcome]) -> None:
    """Scenario x kernel; in each cell the kernel's own count of kills (vmstat) and our processes / incidents."""
    print("\nkernel's oom_kill : our processes / incidents")
    print(f"{'':<20}" + "".join(f"{outcome.image.release:>30}" for outcome in outcomes))
    for name in outcomes[0].results:
        cells = [cell(outcome.results[name]) for outcome in outcomes]
        print(f"{name:<20}" + "".join(f"{text:>30}" for text in cells))
    print("\nfigures of this machine")
    for name in outcomes[0].results:
        for outcome in outcomes:
            if figures := describe_figures(outcome.results[name]):
                print(f"{name:<20}{outcome.image.release}: {'; '.join(figures)}")
    print()
    for outcome in outcomes:
        print(f"{outcome.image.release}: {outcome.node.get('version', 'did not run')}")


def cell(result: dict[str, Any]) -> str:
    verdict = "FAIL" if result["problems"] else "ok"
    counts = f" {result['vmstat']} : {result['processes']} / {result['incidents']}" if "vmstat" in result else ""
    return verdict + counts


def main() -> int:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(
        prog="tests/kernel/run", description="Run the agent in virtual machines on real kernels."
    )
    parser.add_argument(
        "kernel", nargs="*", default=DEFAULT, help=f"5.10, 6.1, ... newest, or all (default: {DEFAULT[0]})"
    )
    parser.add_argument(
        "--scenario",
        action="append",
        choices=[*names, *(scenario.name for scenario in ON_REQUEST)],
        help="only this one; may be given again",
    )
    parser.add_argument("--fixtures", action="store_true", help="write the raw captures to fixtures/")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep captures, incidents and logs here")
    options = parser.parse_args()
    scenarios = options.scenario or names

    with tempfile.TemporaryDirectory(prefix="oom-collector-kernel-") as directory:
        work = Path(directory)
        try:
            images = vm.build_images(ALL if options.kernel == ["all"] else options.kernel)
        except vm.VmError as error:
            print(f"{error}\n0 passed, 1 failed")
            return 1
        packed = payload.build(work, scenarios)
        outcomes = []
        for image in images:
            into = (options.keep or work / "out") / image.series
            outcomes.append(run_kernel(image, packed, into, scenarios))
            if options.fixtures:
                fixtures.write(outcomes[-1].node, image.series, into)
    print_table(outcomes)
    failed = sum(bool(result["problems"]) for outcome in outcomes for result in outcome.results.values())
    print(f"\n{sum(len(outcome.results) for outcome in outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
