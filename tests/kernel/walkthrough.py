"""
python -m tests.kernel.walkthrough KEPT

Writes what the scenario `walkthrough` left in KEPT (its directory below that of --keep) between the marks of
docs/walkthrough.md.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from .payload import SOURCE

PAGE = SOURCE / "docs/walkthrough.md"
WIDTH = 130
_MARKED = re.compile(r"(<!-- (\w+): begin -->\n).*?(<!-- \2: end -->\n)", re.DOTALL)


def main() -> int:
    kept = Path(sys.argv[1])
    PAGE.write_text(_MARKED.sub(lambda found: found[1] + outputs(kept / found[2]) + found[3], PAGE.read_text()))
    return 0


def outputs(directory: Path) -> str:
    """The Event of the first kill of one example, the document of its last."""
    event = json.loads((directory / "events.json").read_text())[-1]
    document = json.loads((directory / "kill.json").read_text())
    told = json.dumps(_shown(document["diagnosis"]), indent=1, ensure_ascii=False)
    return "\n".join(
        (
            "",
            "The Event, as the API was given it:",
            "",
            _block("Warning  {reason}  {reportingController}".format_map(event), event["note"]),
            "",
            "`kills --output json`, its `fate` and `diagnosis` (numbers left out):",
            "",
            _block('"fate": "{fate}"'.format_map(document), told),
            "",
            "",
        )
    )


def _shown(diagnosis: dict[str, Any]) -> dict[str, Any]:
    shown = {key: diagnosis[key] for key in ("pattern", "confidence", "reasons")}
    shown["findings"] = [finding["text"] for finding in diagnosis["findings"]]
    kept = ("action", "text", "command")
    shown["advice"] = [{key: advice[key] for key in kept if advice[key]} for advice in diagnosis["advice"]]
    return shown


def _block(*texts: str) -> str:
    lines = [line for text in texts for line in text.split("\n")]
    wrapped = [
        part
        for line in lines
        for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    ]
    return "\n".join(f"    {line}" for line in wrapped)


if __name__ == "__main__":
    sys.exit(main())
