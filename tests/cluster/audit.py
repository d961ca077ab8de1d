"""An API server's audit log, held against RBAC rules: what was asked for outside of them, and what was refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.kube.api_server import Attributes, allowed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Rules = Sequence[Mapping[str, Sequence[str]]]


def requests_of(user: str, lines: Iterable[str]) -> list[dict[str, Any]]:
    """Each request once, at the last of its stages that is in the log. A line without an end is still being written."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line.endswith("\n") and user in line:
            entry = json.loads(line)
            if entry["user"]["username"] == user:
                found[entry["auditID"]] = entry
    return list(found.values())


def outside(rules: Rules, requests: Iterable[Mapping[str, Any]]) -> list[str]:
    """Requests that these rules do not allow, as lines for people."""
    return [
        f"{request['verb']} {request['requestURI']}" for request in requests if not allowed(rules, attributes(request))
    ]


def attributes(request: Mapping[str, Any]) -> Attributes:
    """Without a resource (/version, discovery): what no rule about resources allows."""
    about = request.get("objectRef", {})
    resource = "/".join(filter(None, (about.get("resource", ""), about.get("subresource", ""))))
    return Attributes(
        request["verb"], about.get("apiGroup", ""), resource, about.get("namespace", ""), about.get("name", "")
    )
