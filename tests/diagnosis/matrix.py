"""
Measures the diagnosis on histories that its rules were not written by: `python -m tests.diagnosis.matrix`.

--write keeps it in docs/diagnosis.md, between the marks.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

from tests.diagnosis import calm_days
from tests.diagnosis import scores as scoring
from tests.diagnosis.asking import ask, ask_prefixes
from tests.diagnosis.calm_days import Look, container_days, per_thousand
from tests.diagnosis.held_out import FRESH, SHAPES
from tests.diagnosis.held_out.shape import HOUR, Case, Shape
from tests.diagnosis.scores import Score, precision, quantile, recall, seconds, share

PAGE = Path("docs/diagnosis.md")
SEEDS = 50
CONTAINERS = 1200
_MARKS = re.compile(r"(?<=<!-- measured: begin -->\n).*(?=<!-- measured: end -->)", re.DOTALL)
_LEAD_LOOKS = 20
_LEAD_SEEDS = 10
"""Of each shape: twenty more questions each."""
_CALM_SEEDS = 20
"""Of each shape: some dozens of questions for each day."""


# Measuring


def score_shape(shape: Shape, seeds: Sequence[int]) -> list[Score]:
    scores = []
    for seed in seeds:
        case = shape.case(seed)
        scored = scoring.score(shape, seed, case, ask(case.samples))
        scores.append(_with_lead(scored, case) if seed < _LEAD_SEEDS else scored)
    return scores


def _with_lead(scored: Score, case: Case) -> Score:
    since, samples = case.truth.growth_since, case.samples
    if scored.expected != "leak" or since is None or samples[-1].get("event") != "oom_kill":
        return scored
    begin = next(index for index, sample in enumerate(samples) if seconds(sample) >= since.least)
    ends = [begin + max(1, (len(samples) - 1 - begin) * part // _LEAD_LOOKS) for part in range(1, _LEAD_LOOKS + 1)]
    kill, told_at = seconds(samples[-1]), None
    for end, told in zip(reversed(ends), reversed(list(ask_prefixes(samples, ends))), strict=True):
        if told.pattern != "leak":
            break
        told_at = seconds(samples[end - 1])
    lead = 0.0 if told_at is None else kill - told_at
    return replace(scored, lead_hours=lead / HOUR, lead_share=lead / (kill - since.least))


def score_all(shapes: Sequence[Shape], seeds: Sequence[int]) -> list[Score]:
    with _pool() as pool:
        return list(chain.from_iterable(pool.map(partial(score_shape, seeds=seeds), shapes)))


def look_at_all(containers: Sequence[int], hours: Sequence[int]) -> list[Look]:
    with _pool() as pool:
        look = partial(calm_days.look, hours=hours)
        return list(chain.from_iterable(pool.map(look, containers, chunksize=20)))


def look_at_shapes(shapes: Sequence[Shape], seeds: Sequence[int]) -> list[Look]:
    with _pool() as pool:
        return list(chain.from_iterable(pool.map(partial(calm_days.look_at_shape, seeds=seeds), shapes)))


def _pool() -> ProcessPoolExecutor:
    # spawn: whoever asks may have threads.
    return ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"))


# Telling


def report(first: Sequence[Score], fresh: Sequence[Score], fleet: Sequence[Look], calm: Sequence[Look]) -> str:
    sections = (
        ("The first shapes", _matrix(first)),
        ("The fresh shapes", _matrix(fresh)),
        ("Days of the calm fleet", _table(("what", "measured"), list(_alarms(fleet)))),
        (
            "Days of the calm shapes, first and fresh",
            "\n\n".join((_table(("what", "measured"), list(_alarms(calm))), _alarming(calm))),
        ),
    )
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in sections)


def _matrix(scores: Sequence[Score]) -> str:
    return "\n\n".join((_summary(scores), _confusion(scores), _families(scores), failures(scores)))


def _summary(scores: Sequence[Score]) -> str:
    slopes = [abs(score.growth_off) for score in scores if score.growth_off is not None]
    lead_shares = [score.lead_share for score in scores if score.lead_share is not None]
    lead_hours = [score.lead_hours for score in scores if score.lead_hours is not None]
    rows = [
        ("shapes x seeds", f"{len({score.shape for score in scores})} x {len({score.seed for score in scores})}"),
        ("told right, of all", _percent(share(score.right for score in scores))),
        ("leak: precision", f"{precision(scores):.4f}"),
        ("leak: recall", f"{recall(scores):.4f}"),
        ("slope of a leak within 20 %", _percent(share(score.growth_right for score in scores))),
        ("slope, off by: median, 90 %, 99 %", ", ".join(_percent(quantile(slopes, at)) for at in (0.5, 0.9, 0.99))),
        ("onset of a leak within 15 % of its age", _percent(share(score.since_right for score in scores))),
        ("time to the limit within 20 %", _percent(share(score.to_limit_right for score in scores))),
        (
            "leak first told, before the kill: 10 %, median of the leaks",
            f"{_percent(quantile(lead_shares, 0.1))}, {_percent(quantile(lead_shares, 0.5))} of the time from onset to "
            f"kill; {quantile(lead_hours, 0.1):.1f} h, {quantile(lead_hours, 0.5):.1f} h",
        ),
    ]
    return _table(("what", "measured"), rows)


def _alarms(looks: Sequence[Look]) -> Iterator[tuple[str, str]]:
    yield "calm container-days, looked at hourly for twelve hours, then each two", f"{container_days(looks):,}"
    for what, alarm in (
        ("agent, at any look: growth told", lambda look: look.agent),
        ("agent, at any look: limit met within 6 h, an Event", lambda look: look.announced),
        ("`diagnose`, at the end of each day: leak, however far its limit", lambda look: look.leak_at_the_end_of_a_day),
    ):
        counted, bound = per_thousand(looks, alarm)
        yield f"{what}, of 1,000 container-days", f"{counted:.2f}; at most {bound:.2f} (95 %)"
    of = len({look.container for look in looks})
    for what, told in (
        ("at any look of its first 12 hours", [look for look in looks if look.leak and look.hour <= 12]),
        ("at any look after them", [look for look in looks if look.leak and look.hour > 12]),
    ):
        containers = len({look.container for look in told})
        surest = max((look.leak or 0.0 for look in told), default=None)
        confidence = "" if surest is None else f"; with a confidence of at most {surest:.2f}"
        yield f"`diagnose`, leak told of a calm container {what}", f"{containers} of {of:,}{confidence}"


def _alarming(looks: Sequence[Look]) -> str:
    """The shapes of which the agent told a growth, the worst first."""
    growth, announced, of = (
        Counter(
            shape for shape, _, _ in {(look.container.rpartition(",")[0], look.container, look.day) for look in some}
        )
        for some in (
            [look for look in looks if look.agent],
            [look for look in looks if look.announced],
            looks,
        )
    )
    return _table(
        ("shapes that the agent told a growth of", "days", "with growth told", "with an Event"),
        [(name, str(of[name]), str(count), str(announced[name] or "")) for name, count in growth.most_common()],
    )


def _confusion(scores: Sequence[Score]) -> str:
    counts = Counter((score.expected, score.told) for score in scores)
    told = sorted({score.told for score in scores})
    expected = sorted({score.expected for score in scores})
    rows = [(right, *(str(counts[right, name] or "") for name in told)) for right in expected]
    return _table(("true, below; told, right", *told), rows)


def _families(scores: Sequence[Score]) -> str:
    rows = []
    for family in dict.fromkeys(score.family for score in scores):
        of = [score for score in scores if score.family == family]
        figures = (
            share(score.growth_right for score in of),
            share(score.since_right for score in of),
            share(score.to_limit_right for score in of),
        )
        shapes = str(len({score.name for score in of}))
        rows.append((family, shapes, _percent(share(score.right for score in of)), *map(_percent, figures)))
    return _table(("family", "shapes", "told right", "slope", "onset", "time to limit"), rows)


def failures(scores: Sequence[Score]) -> str:
    """The worst first; none: all right."""
    rows = []
    for shape in dict.fromkeys(score.shape for score in scores):
        of = [score for score in scores if score.shape == shape]
        if wrong := Counter(score.told for score in of if not score.right):
            told = ", ".join(f"{name} {count}" for name, count in wrong.most_common())
            rows.append((wrong.total() / len(of), (shape, of[0].expected, _percent(1 - wrong.total() / len(of)), told)))
    rows.sort(key=lambda row: -row[0])
    return _table(
        ("shapes that were not always told right", "true", "told right", "else told"), [row for _, row in rows]
    )


def details(scores: Sequence[Score], looks: Sequence[Look]) -> Iterator[str]:
    """Each case that is wrong in anything, to be made again by its seed."""
    for scored in scores:
        wrong = [
            name
            for name, right in (
                (f"told {scored.told}", scored.right),
                (f"slope {scored.growth_off or 0:+.0%}", scored.growth_right),
                ("onset", scored.since_right),
                ("time to limit", scored.to_limit_right),
            )
            if right is False
        ]
        if wrong:
            yield f"{scored.shape}, seed {scored.seed} ({scored.expected}): {', '.join(wrong)}"
    for look in looks:
        if look.leak is not None or look.agent:
            confidence = "" if look.leak is None else f"leak, confidence {look.leak:.2f}"
            agent = "agent: announced" if look.announced else "agent: growth told" if look.agent else ""
            yield f"calm container {look.container}, hour {look.hour}: {', '.join(filter(None, (confidence, agent)))}"


def _percent(part: float | None) -> str:
    return "" if part is None else f"{part:.1%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (" | ".join(row) for row in (head, ["---"] * len(head), *rows))
    return "\n".join(f"| {line} |" for line in lines)


def _write(text: str) -> None:
    PAGE.write_text(_MARKS.sub(lambda _: f"\n{text}\n\n", PAGE.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.diagnosis.matrix", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"of each shape (default {SEEDS})")
    parser.add_argument("--containers", type=int, default=CONTAINERS, help=f"calm, of 3 days (default {CONTAINERS})")
    parser.add_argument("--details", action="store_true", help="each case that is wrong in anything")
    parser.add_argument("--write", action="store_true", help=f"keep it in {PAGE}")
    options = parser.parse_args()
    began = time.monotonic()
    seeds = range(options.seeds)
    first, fresh = score_all(SHAPES, seeds), score_all(FRESH, seeds)
    fleet = look_at_all(range(options.containers), calm_days.looks(calm_days.DAYS))
    calm = look_at_shapes((*SHAPES, *FRESH), range(min(_CALM_SEEDS, options.seeds)))
    text = report(first, fresh, fleet, calm)
    print(text)
    if options.details:
        print("", *details([*first, *fresh], [*fleet, *calm]), sep="\n")
    if options.write:
        _write(text)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
