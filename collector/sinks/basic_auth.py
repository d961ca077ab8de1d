"""Basic auth against bcrypt hashes, which are slow by design: who sends wrong passwords must not slow the agent."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import secrets
from enum import Enum, auto
from typing import TYPE_CHECKING

import bcrypt

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_WAITING = 32
# After a wrong password nothing is checked for so many times as long: at most a tenth of one CPU goes into these.
REST = 9
# bcrypt looks at no more; its package refuses a longer one.
_PASSWORD_BYTES = 72


class Answer(Enum):
    YES = auto()
    NO = auto()
    BUSY = auto()


class BasicAuth:
    """
    One password is checked at a time, on another thread; one that was right is known again without that. A client waits
    for one check at most, so that many requests of one do not keep the others out.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting: set[str | None] = set()
        self._secret = secrets.token_bytes(32)
        # By user and bcrypt hash, a keyed hash of the password: nothing that could be used elsewhere.
        self._known: dict[tuple[str, str], bytes] = {}

    async def check(self, header: str | None, users: Mapping[str, str], client: str | None) -> Answer:
        """header: of Authorization. users: name -> bcrypt hash, at least one. client: its address."""
        credentials = _credentials(header)
        if credentials is None:
            return Answer.NO
        user, password = credentials
        proof = hmac.digest(self._secret, password, "sha256")
        # A name that nobody has takes as long as one that somebody has.
        hashed = users.get(user) or _decoy(users)
        if hmac.compare_digest(self._known.get((user, hashed), b""), proof):
            return Answer.YES
        if client in self._waiting or len(self._waiting) >= MAX_WAITING:
            return Answer.BUSY
        self._waiting.add(client)
        try:
            right = await self._compare(password, hashed)
        finally:
            self._waiting.discard(client)
        if not right or user not in users:
            return Answer.NO
        self._known = {key: seen for key, seen in self._known.items() if key in users.items()}
        self._known[user, hashed] = proof
        return Answer.YES

    async def _compare(self, password: bytes, hashed: str) -> bool:
        loop = asyncio.get_running_loop()
        async with self._turn:
            start = loop.time()
            right = await asyncio.to_thread(bcrypt.checkpw, password, hashed.encode("ascii"))
            if not right:
                await asyncio.sleep(REST * (loop.time() - start))
        return right


def _credentials(header: str | None) -> tuple[str, bytes] | None:
    scheme, _, encoded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode(), password[:_PASSWORD_BYTES]) if colon else None
    except (binascii.Error, ValueError):
        return None


def _decoy(users: Mapping[str, str]) -> str:
    """A hash that no password has, as slow as theirs."""
    slowest = max(hashed[4:6] for hashed in users.values())
    return f"$2b${slowest}${'.' * 53}"
