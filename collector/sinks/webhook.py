"""
Each incident as a CloudEvent 1.0 in structured JSON, to an address of the operator's choice.

With a secret, each request is signed: `X-OOM-Signature-256: sha256=<hex>` is the HMAC-SHA256 of the timestamp in
`X-OOM-Timestamp` (seconds since 1970), a full stop, and the body. A receiver that refuses timestamps of minutes ago
cannot be fed a recorded request. An incident may come twice; its `id` is the same then.

Source: the CloudEvents specification 1.0.2 and its JSON format.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from collector.sinks.delivery import UnavailableError
from collector.sinks.http_post import post
from collector.sinks.kube_event import micro_time
from collector.sinks.words import part, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import aiohttp
    from yarl import URL

    from collector.sinks.letter import Letter
    from collector.sinks.words import Document

WEBHOOK = "webhook"
TYPE = "oom-collector.kill.v1"


class Webhook:
    """
    secret_file: read for each request, which costs nothing beside it, so that a new secret needs no restart. whole: the
    same letter with all that its document has.
    """

    name = WEBHOOK

    def __init__(
        self,
        session: aiohttp.ClientSession,
        target: URL,
        *,
        secret_file: Path | None = None,
        whole: Callable[[Letter], Letter] = lambda letter: letter,
        time_now: Callable[[], float] = time.time,
    ) -> None:
        self._session = session
        self._target = target
        self._secret_file = secret_file
        self._whole = whole
        self._time_now = time_now

    def object_of(self, letter: Letter) -> str:
        return letter.key

    async def send(self, letter: Letter) -> None:
        body = json.dumps(cloud_event(self._whole(letter)), separators=(",", ":")).encode("ascii")
        headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
        if self._secret_file is not None:
            headers |= signature(_read_secret(self._secret_file), int(self._time_now()), body)
        await post(self._session, self._target, body, headers)


def cloud_event(letter: Letter) -> dict[str, object]:
    document = letter.document
    node = text(document, "node")
    return {
        "specversion": "1.0",
        "id": document["id"],
        "source": f"/oom-collector/nodes/{quote(node, safe='')}" if node else "/oom-collector",
        "type": TYPE,
        "time": text(document, "time") or micro_time(letter.last_at),
        "datacontenttype": "application/json",
        "data": document,
    } | _subject(document)


def _subject(document: Document) -> dict[str, object]:
    """`namespace/pod/container`, as much of it as is known; else the victim's cgroup."""
    pod, container = part(document, "pod"), part(document, "container")
    name = text(pod, "name")
    if name is None:
        memcg = text(document, "task_memcg")
        return {} if memcg is None else {"subject": memcg}
    known = [text(pod, "namespace"), name, text(container, "name")]
    return {"subject": "/".join(word for word in known if word)}


def signature(secret: bytes, timestamp: int, body: bytes) -> dict[str, str]:
    digest = hmac.new(secret, b"%d.%s" % (timestamp, body), hashlib.sha256).hexdigest()
    return {"X-OOM-Timestamp": str(timestamp), "X-OOM-Signature-256": f"sha256={digest}"}


def _read_secret(path: Path) -> bytes:
    """Raises UnavailableError: without its secret nothing is sent, as a receiver could not tell it from a forgery."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise UnavailableError(f"the secret {path} cannot be read: {error.strerror}") from error
    if not secret:
        raise UnavailableError(f"the secret {path} is empty")
    return secret
