"""The pods of one node, kept up to date by one list and one watch."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from collector.errors import ParseError
from collector.kube.access import AccessError
from collector.kube.client import ApiError, ApiUnreachable, status_error
from collector.kube.items import ListItems, WatchEvents
from collector.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from collector.kube.client import KubeClient

_log = logging.getLogger(__name__)

_PODS = "/api/v1/pods"
_END_OF_LIST = "k8s.io/initial-events-end"
_LONGEST_WAIT = 600.0
_MUTE_WATCHES = 3
_LONGEST_VERSION = 128

# What no reader foresaw: in what the server sent, or in what somebody wrote into a pod. It is still there at the next
# start, so an agent that it ended would end at each, on every node that such a pod comes to.
_UNFORESEEN = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError)


class PodSink(Protocol):
    """
    Where pods go, one object at a time as the API sends it (metadata, spec, status); not to be changed.

    A list that breaks off has no end_list(): another begin_list() follows.
    """

    def begin_list(self) -> None:
        """All pods of the node follow; events of pods may come among them."""

    def put(self, pod: Mapping[str, object]) -> None: ...

    def end_list(self) -> None:
        """What was not put since begin_list() is gone."""

    def delete(self, pod: Mapping[str, object]) -> None: ...

    def state(self, up: bool, reason: str | None) -> None:
        """Once for each change. up: what was put is complete, and is kept so. reason: why not."""


class Timing(NamedTuple):
    """Seconds."""

    start_jitter: float = 5.0
    # The server ends a watch then. At random, so that a node's watch does not end with all the others.
    watch_least: int = 290
    watch_most: int = 590
    # Bookmarks come each minute, so a connection that is silent for that long is dead.
    idle: float = 150.0
    # For the mark that ends a streamed list. Without it, this server does not know how to.
    list_end: float = 60.0
    # A connection that lived for that long worked: back-off begins anew.
    healthy: float = 10.0
    # All nodes' watches break at once with their server: they come back over so long, which is less than a kill waits
    # for names.
    reconnect: float = 5.0
    backoff_first: float = 1.0
    backoff_most: float = 60.0
    # How often it is logged that the API is still down.
    remind: float = 600.0


class _NoStreamedListError(Exception):
    """The server ignores sendInitialEvents."""


class PodReflector:
    """
    List and watch are one request where the server can do that (sendInitialEvents; by default since 1.34): it goes on
    as the watch, and nobody holds a list. Others are asked for a list with resourceVersion=0, which comes from the API
    server's cache and costs etcd nothing.

    run() ends only when it is cancelled: whatever the API does is a reason to try again, ever more rarely.
    """

    def __init__(self, client: KubeClient, node: str, sink: PodSink, *, timing: Timing | None = None) -> None:
        self._client = client
        self._sink = sink
        self._timing = timing or Timing()
        self._selector = {"fieldSelector": f"spec.nodeName={node}"}
        self._report = _Report(sink, self._timing.remind)
        self._version: str | None = None  # up to here the sink knows all; None: to be listed
        self._streamed_list = True
        self._opened_at: float | None = None
        self._failures = 0
        self._mute = 0  # watches in a row that were opened and ended soon, without a word

    async def run(self) -> None:
        await asyncio.sleep(random.uniform(0, self._timing.start_jitter))
        while True:
            self._opened_at = None
            retry_after = await self._attempt()
            await asyncio.sleep(retry_after + random.uniform(0, self._back_off()))

    async def _attempt(self) -> float:
        """List and watch until that ends, however it does. For how many seconds the server wants to be left alone."""
        try:
            if self._version is None and not self._streamed_list:
                await self._list()
            await self._watch()
        except _NoStreamedListError:
            self._streamed_list = False
        except ApiError as error:
            if self._must_list(error):
                _log.info("pods: to be listed: %s", error)
            else:
                self._ended(str(error))
            return min(error.retry_after or 0.0, _LONGEST_WAIT)
        except (ApiUnreachable, AccessError, ParseError) as error:
            self._ended(str(error))
        except _UNFORESEEN as error:
            self._version = None
            self._report.down(f"what the API sent is not understood: {printable(repr(error))[:200]}", error)
        else:
            self._ended("the server ends each watch at once")
        return 0.0

    def _must_list(self, error: ApiError) -> bool:
        if self._version is None:
            refuses_stream = self._streamed_list and error.status in (400, 422)
            if refuses_stream:
                self._streamed_list = False
            return refuses_stream
        # Too old, or from the future of a server that was restored: what lies between will not be told.
        if error.status in (400, 410, 422, 504):
            self._version = None
        return self._version is None

    def _ended(self, reason: str) -> None:
        """A watch that ends is opened again. The API is down where that fails, or where it is of no use."""
        if self._lived() >= self._timing.healthy:
            self._mute = 0
        if self._opened_at is None or self._version is None or self._mute >= _MUTE_WATCHES:
            self._report.down(reason)

    def _back_off(self) -> float:
        timing = self._timing
        if self._lived() >= timing.healthy:
            self._failures = 0
            return timing.reconnect
        self._failures += 1
        return min(timing.backoff_most, timing.backoff_first * 2.0 ** min(self._failures, 32))

    def _lived(self) -> float:
        return 0.0 if self._opened_at is None else time.monotonic() - self._opened_at

    async def _list(self) -> None:
        items = ListItems()
        params = {**self._selector, "resourceVersion": "0"}
        async with self._client.stream(_PODS, params, idle_seconds=self._timing.idle) as chunks:
            self._sink.begin_list()
            async for chunk in chunks:
                for pod in items.feed(chunk):
                    self._sink.put(pod)
        for pod in items.close():
            self._sink.put(pod)
        version = _version(items.head)
        if version is None:
            raise ParseError("list", "no resourceVersion")
        self._listed(version)

    def _listed(self, version: str) -> None:
        self._sink.end_list()
        self._version = version
        self._report.up()

    async def _watch(self) -> None:
        timing, listing = self._timing, self._version is None
        params = {
            **self._selector,
            "watch": "true",
            "resourceVersion": self._version or "0",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(timing.watch_least, timing.watch_most)),
        }
        if listing:
            params |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        events = WatchEvents()
        async with self._client.stream(_PODS, params, idle_seconds=timing.idle) as chunks:
            self._opened(listing)
            try:
                async with asyncio.timeout(timing.list_end if listing else None) as limit:
                    async for chunk in chunks:
                        for event in events.feed(chunk):
                            self._take(event)
                        if self._version is not None:
                            limit.reschedule(None)
            except TimeoutError as error:
                raise _NoStreamedListError from error
        if self._version is None:
            raise ApiUnreachable("the list broke off")

    def _opened(self, listing: bool) -> None:
        self._opened_at = time.monotonic()
        if listing:
            self._sink.begin_list()
        elif self._mute < _MUTE_WATCHES:
            self._report.up()
        self._mute += 1

    def _take(self, event: Mapping[str, object]) -> None:
        kind, value = event.get("type"), event.get("object")
        if not isinstance(value, dict):
            raise ParseError("watch event", f"its object is of type {type(value).__name__}")
        if kind == "ERROR":
            raise status_error(value, 500, "watch error")
        if kind == "BOOKMARK":
            self._bookmark(value)
        elif kind == "DELETED":
            self._sink.delete(value)
        elif kind in ("ADDED", "MODIFIED"):
            self._sink.put(value)
        if self._version is not None:
            self._version = _version(value) or self._version
            self._mute = 0
            self._report.up()

    def _bookmark(self, value: Mapping[str, object]) -> None:
        version = _version(value)
        if self._version is not None or version is None:
            return
        metadata = value.get("metadata")
        annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
        if not isinstance(annotations, dict) or annotations.get(_END_OF_LIST) != "true":
            raise _NoStreamedListError
        self._listed(version)


def _version(value: Mapping[str, object]) -> str | None:
    metadata = value.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    # It is sent back within an address.
    usable = isinstance(version, str) and version.isascii() and 0 < len(version) <= _LONGEST_VERSION
    return version if usable else None


class _Report:
    """Tells the sink of each change, and the log of what a reader of it wants to know."""

    def __init__(self, sink: PodSink, remind_seconds: float) -> None:
        self._sink = sink
        self._remind_seconds = remind_seconds
        self._told: tuple[bool, str | None] | None = None
        self._logged_at = 0.0

    def up(self) -> None:
        if self._tell(True, None):
            _log.info("pods: names and states come from the API")

    def down(self, reason: str, error: BaseException | None = None) -> None:
        """error: whose traceback is worth a look."""
        was_down = self._told is not None and not self._told[0]
        self._tell(False, reason)
        if not was_down or time.monotonic() >= self._logged_at + self._remind_seconds:
            self._logged_at = time.monotonic()
            _log.warning("pods: not known from the API: %s", reason, exc_info=error)

    def _tell(self, up: bool, reason: str | None) -> bool:
        told, self._told = self._told, (up, reason)
        if told == self._told:
            return False
        self._sink.state(up, reason)
        return True
