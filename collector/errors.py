"""The few exceptions that are raised on purpose."""

from __future__ import annotations


class CollectorError(Exception):
    """Base of all: its text is written for the person who runs the command."""


class ParseError(CollectorError):
    """Text that we claim to understand but cannot read."""

    def __init__(self, source: str, text: str) -> None:
        super().__init__(f"{source}: cannot read {text[:200]!r}")


class SourceError(CollectorError):
    """A kernel log that cannot be opened, or that ended."""


class ConfigError(CollectorError):
    """A setting that cannot be used."""
