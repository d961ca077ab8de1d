"""Records in, incidents out: the stages in their order. The agent, `analyze` and the tests all run this."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

from collector.identity import file_id, live_id, time_key
from collector.judge import judge
from collector.model import Cause, Incident, KernelRecord, OomReport, Sighting
from collector.parse.oom_draft import SETTLE_SECONDS
from collector.parse.oom_lines import tells_of_oom_kill
from collector.parse.oom_report import OomReportAssembler


class Pipeline:
    """
    What push() and flush() return counts: an unsettled incident only where its cause and its container are proven
    already, and every settled one. Both carry the same id.

    node, boot_id: of this machine, where the records do not say. boot_time: wall time at monotonic 0, for records
    without one. kill_line_seconds: how long a summary line waits for its kill line; a file can be waited for longer.
    sight: what this machine knows of a victim besides; asked when the kill line comes, and again when it is settled.
    Memory is bounded by the assembler's bounds, and by one number for each incident of a log without boot id.
    """

    def __init__(
        self,
        *,
        node: str | None = None,
        boot_id: str | None = None,
        boot_time: datetime | None = None,
        kill_line_seconds: float = SETTLE_SECONDS,
        sight: Callable[[OomReport], Sighting | None] | None = None,
    ) -> None:
        self._node = node
        self._sight = sight
        self._boot_id = boot_id
        self._boot_time = boot_time
        self._assembler = OomReportAssembler(kill_line_seconds=kill_line_seconds)
        self._equal: Counter[str] = Counter()
        self._arrivals: dict[str, datetime] = {}
        self.forged = 0
        """Records with the words of an OOM kill whose facility is not the kernel's."""

    @property
    def busy(self) -> bool:
        return self._assembler.busy

    def push(self, record: KernelRecord, *, at: float | None, time: datetime | None = None) -> list[Incident]:
        """
        Take the next record of the log.

        at: seconds of any steady clock, for settling; None where the log has none.
        time: the record's wall time where it is known better than the record itself knows it.
        """
        if record.facility:  # neither 0, the kernel's, nor None
            self.forged += tells_of_oom_kill(record.text)
            return []
        reports = self._assembler.push(record, at)
        return self._tell(reports, time) if reports else []

    def flush(self, at: float | None) -> list[Incident]:
        """Settle what is old enough at `at`; None: everything, at the end of a log."""
        return self._tell(self._assembler.flush(at), None)

    def _tell(self, reports: list[OomReport], time: datetime | None) -> list[Incident]:
        incidents = [self._judge(report, time) for report in reports]
        return [incident for incident in incidents if incident.settled or _is_proven(incident)]

    def _judge(self, report: OomReport, arrival: datetime | None) -> Incident:
        boot_id = report.kill_moment.boot_id or self._boot_id
        identity = self._identify(report, boot_id)
        return judge(
            report,
            self._sight(report) if self._sight is not None else None,
            id=identity,
            time=self._time(report, identity, arrival),
            boot_id=boot_id,
            node=report.kill_moment.host or self._node,
        )

    def _identify(self, report: OomReport, boot_id: str | None) -> str:
        usec = report.kill_moment.monotonic_usec
        if boot_id is not None and usec is not None:
            return live_id(boot_id, usec, report.victim.pid)
        key = f"{time_key(report)} {report.kill_text}"
        ordinal = self._equal[key]
        self._equal[key] += report.settled
        return file_id(report, ordinal)

    def _time(self, report: OomReport, identity: str, arrival: datetime | None) -> datetime | None:
        """A live kill's time is its arrival: printk's clock drifts by milliseconds an hour against every other."""
        if not report.settled and arrival is not None:
            self._arrivals[identity] = arrival
        arrived = self._arrivals.pop(identity, None) if report.settled else arrival
        if arrived is not None or report.kill_moment.time is not None:
            return arrived or report.kill_moment.time
        usec = report.kill_moment.monotonic_usec
        if self._boot_time is None or usec is None:
            return None
        return self._boot_time + timedelta(microseconds=usec)


def _is_proven(incident: Incident) -> bool:
    """Whether nothing that can still come will change the cause or the container."""
    return incident.verdict.cause is not Cause.UNKNOWN and incident.report.task_memcg is not None
