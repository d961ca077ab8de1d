"""Text that other people chose, made safe to show."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# C0 and C1 controls and DEL drive terminals; line and paragraph separators break lines; bidirectional marks,
# embeddings, overrides and isolates make text read otherwise than it is; characters without width make two names look
# the same; lone surrogates cannot be encoded.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""`text` on one line, with what a terminal would act on as \xNN or \uNNNN."""
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def to_line(document: Mapping[str, object]) -> str:
    """One line of ASCII without its end: nothing in it drives a terminal, whatever a process calls itself."""
    return json.dumps(document, separators=(",", ":")).replace("\x7f", "\\u007f")
