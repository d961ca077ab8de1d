"""A Prometheus, asked for what the memory of a workload was before the agent and on other nodes."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from collector.diagnosis.cadvisor import (
    NOWHERE,
    RANGE_SECONDS,
    STEP_SECONDS,
    Past,
    Series,
    parse,
    pods_of_revisions,
    query,
    see,
)
from collector.diagnosis.rollout import RevisionSeen, either
from collector.errors import CollectorError, ConfigError
from collector.late import workload_of_pod
from collector.pace import Pace
from collector.sinks.delivery import UnavailableError
from collector.sinks.http_post import open_session, parse_target, why
from collector.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from collector.model import Names

# No kill is told later than this because of us; and for so long one request may last.
ANSWER_SECONDS = 5.0
MAX_ANSWER_BYTES = 2**20
# The kills of a crash loop ask once.
KEPT_SECONDS = 600.0
MAX_KEPT = 50
# A Prometheus that fails is left alone for so long: of its failures, one in a minute costs time.
PAUSE_SECONDS = 60.0
# Of a node full of kills, so many are asked for at a time, and so many more may wait for that.
MAX_ASKING = 4
MAX_WAITING = 32
SLICE_SECONDS = 0.005

_TOKEN = re.compile(r"[!-~]+", re.ASCII)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Asked:
    """`at`: of the steady clock. `past`: None: no answer yet."""

    at: float
    past: Past | None = None


class PrometheusHistory:
    """
    Whatever goes wrong there, the diagnosis is made without it: the gauge and one line of the log say so.

    Raises ConfigError for an address that is none.
    """

    def __init__(
        self, url: str, *, token_file: Path | None = None, user_agent: str, on_state: Callable[[bool], None]
    ) -> None:
        base = parse_target("--prometheus-url", url)
        if token_file is not None and base.user is not None:
            raise ConfigError("--prometheus-token-file: --prometheus-url has a user already; one of them has to go")
        self._target = (base / "api/v1/query_range").with_query(base.query)
        self._place = f"{base.scheme}://{base.host}:{base.port}"
        self._token_file = token_file
        self._session = open_session(user_agent)
        self._on_state = on_state
        self._asked: dict[tuple[str, str, str], _Asked] = {}  # the longest not asked for first
        self._tasks: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(MAX_ASKING)
        self._pause_until = float("-inf")
        self._said: str | None = None

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    def is_ready(self, names: Names) -> bool:
        """
        Asks, the first time. False: the answer is still to come, within ANSWER_SECONDS. True where too many ask, or
        nobody answers: then the diagnosis is made without.
        """
        asked = self._ask(names)
        return asked is None or asked.past is not None or time.monotonic() >= asked.at + ANSWER_SECONDS

    def past(self, names: Names) -> Past:
        """As far as it is known by now."""
        asked = self._asked.get((names.namespace, names.pod, names.container or ""))
        return NOWHERE if asked is None else asked.past or NOWHERE

    def _ask(self, names: Names) -> _Asked | None:
        if names.container is None:
            return None
        key, now = (names.namespace, names.pod, names.container), time.monotonic()
        asked = self._asked.get(key)
        if asked is not None and now < asked.at + KEPT_SECONDS:
            return asked
        if now < self._pause_until or len(self._tasks) >= MAX_WAITING:
            return None
        self._asked.pop(key, None)
        asked = self._asked[key] = _Asked(now)
        if len(self._asked) > MAX_KEPT:
            del self._asked[next(iter(self._asked))]
        task = asyncio.create_task(self._answer(asked, names, names.container), name=f"history of {names.pod}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return asked

    async def _answer(self, asked: _Asked, names: Names, container: str) -> None:
        async with self._free:
            asked.past = NOWHERE if time.monotonic() < self._pause_until else await self._look(names, container)

    async def _look(self, names: Names, container: str) -> Past:
        until = time.time()
        since = until - RANGE_SECONDS
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._get(query(names, container), since, until)
            series = parse(answer, since=since - 1, until=until + 1)
        except CollectorError as error:
            self._say(str(error))
        # RuntimeError: on a node without a pid to spare, the resolver cannot start its thread.
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            self._say(why(error))
        else:
            self._say(None)
            own = tuple(one for one in series if one.pod == names.pod)
            return Past(own=own, revisions=await _revisions(names, container, series, since))
        self._pause_until = time.monotonic() + PAUSE_SECONDS
        return NOWHERE

    async def _get(self, promql: str, since: float, until: float) -> object:
        """By GET: what may only read is often allowed nothing else. Raises UnavailableError and what aiohttp raises."""
        times = {"start": f"{since:.3f}", "end": f"{until:.3f}", "step": str(STEP_SECONDS)}
        target = self._target.extend_query(query=promql, **times)
        async with self._session.get(target, headers=self._headers(), allow_redirects=False) as answer:
            if answer.status != 200:
                raise UnavailableError(f"it answers {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise UnavailableError(f"it answers with more than {MAX_ANSWER_BYTES} bytes")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise UnavailableError("its answer is no JSON") from error

    def _headers(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            token = self._token_file.read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise UnavailableError(f"{self._token_file}: {error.strerror}") from error
        if not _TOKEN.fullmatch(token):
            raise UnavailableError(f"{self._token_file}: is no token")
        return {"Authorization": f"Bearer {token}"}

    def _say(self, problem: str | None) -> None:
        self._on_state(problem is None)
        if problem != self._said and problem is not None:
            _log.warning(
                "Prometheus at %s: %s; diagnoses are made from what this node knows", self._place, printable(problem)
            )
        elif problem is None and self._said is not None:
            _log.info("Prometheus at %s: answers again", self._place)
        self._said = problem


async def _revisions(names: Names, container: str, series: Iterable[Series], since: float) -> tuple[RevisionSeen, ...]:
    """To judge a day of memory takes milliseconds: in slices."""
    workload = workload_of_pod(names.namespace, names.owner, names.pod, container)
    seen: dict[str, RevisionSeen] = {}
    pace = Pace(SLICE_SECONDS)
    for revision, one in pods_of_revisions(names, series):
        seen[revision] = either(seen.get(revision), see(workload, revision, one, since=since))
        await pace.rest()
    return tuple(seen.values())
