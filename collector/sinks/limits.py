"""Token buckets: a burst, then one in a while. Core: seconds of any steady clock come as an argument."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenBucket:
    burst: int
    refill_seconds: float
    """For one token."""
    tokens: float = field(init=False)
    _at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.tokens = float(self.burst)

    def wait(self, now: float) -> float:
        """Seconds until there is one; 0.0: now."""
        if now > self._at:
            self.tokens = min(self.burst, self.tokens + (now - self._at) / self.refill_seconds)
            self._at = now
        # Sums of fractions miss 1 by a hair: a wait that short would only spin.
        return 0.0 if self.tokens > 1 - 1e-6 else (1 - self.tokens) * self.refill_seconds

    def take(self) -> None:
        self.tokens -= 1

    def give_back(self) -> None:
        self.tokens = min(self.burst, self.tokens + 1)


class Limits:
    """
    How much may leave: of the node, and about one object. Sinks may share it.

    One more in five minutes about an object is what client-go's recorder of Events grants too.
    """

    def __init__(self, *, per_object: tuple[int, float] = (5, 300.0), per_node: tuple[int, float] = (25, 60.0)) -> None:
        """A burst, and the seconds after which there is one more."""
        self._per_object = per_object
        self._node = TokenBucket(*per_node)
        self._objects: dict[str, TokenBucket] = {}

    @property
    def objects(self) -> int:
        """How many are remembered: those told of lately."""
        return len(self._objects)

    def wait(self, name: str, now: float) -> float:
        """Seconds until one may go; 0.0: now."""
        bucket = self._objects.get(name)
        return max(self._node.wait(now), bucket.wait(now) if bucket else 0.0)

    def take(self, name: str, now: float) -> None:
        self._forget_full(now)
        bucket = self._objects.setdefault(name, TokenBucket(*self._per_object))
        bucket.wait(now)
        bucket.take()
        self._node.take()

    def give_back(self, name: str) -> None:
        """Nothing was done with it."""
        if name in self._objects:
            self._objects[name].give_back()
        self._node.give_back()

    def _forget_full(self, now: float) -> None:
        """A full bucket is one that was never used."""
        for name in [name for name, bucket in self._objects.items() if _is_full(bucket, now)]:
            del self._objects[name]


def _is_full(bucket: TokenBucket, now: float) -> bool:
    bucket.wait(now)
    return bucket.tokens >= bucket.burst
