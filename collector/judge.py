"""One report, and what is known beside it, in; one incident out. Kernel lines and counters are judged alike."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from collector.attribute import attribute
from collector.classify import classify
from collector.explain import explain, headline
from collector.model import Incident

if TYPE_CHECKING:
    from datetime import datetime

    from collector.model import OomReport, Sighting


def judge(
    report: OomReport,
    sighting: Sighting | None,
    *,
    id: str,  # noqa: A002 - the name it has in the document
    time: datetime | None,
    boot_id: str | None,
    node: str | None,
) -> Incident:
    attribution = attribute(report, sighting)
    verdict = classify(report, sighting)
    return Incident(
        id=id,
        report=report,
        sighting=sighting,
        attribution=attribution,
        verdict=verdict,
        time=time,
        boot_id=boot_id,
        node=node,
        summary=explain(headline(report, attribution, verdict, sighting)),
    )


def judge_again(incident: Incident, sighting: Sighting | None) -> Incident:
    """With what became known of the victim since."""
    attribution = attribute(incident.report, sighting)
    verdict = classify(incident.report, sighting)
    return replace(
        incident,
        sighting=sighting,
        attribution=attribution,
        verdict=verdict,
        summary=explain(headline(incident.report, attribution, verdict, sighting)),
    )
