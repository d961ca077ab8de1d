"""Lines against counters: every kill once, each where it can be proved, through losses, restarts and removals."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.counted import POD_GONE
from collector.document import to_document
from collector.model import AttributionMethod, Cause, Evidence, Incident, MemcgPath, Process, Sighting
from collector.reconcile import AMBIGUOUS, NO_CGROUP
from tests.simulated_kernel import BURSTABLE, KUBEPODS, Agent, Kernel, Stored, container, parents, pod

ONE, TWO, OTHER = container(1, 1), container(1, 2), container(2, 1)


@pytest.fixture
def kernel() -> Kernel:
    kernel = Kernel()
    for path in (ONE, TWO, OTHER, MemcgPath("/system.slice")):
        kernel.make(path)
    return kernel


@pytest.fixture
def agent(kernel: Kernel) -> Agent:
    return Agent(kernel, Stored())


def container_of(incident: Incident) -> str | None:
    found = incident.attribution.container
    return None if found is None else found.id


def id_of(path: MemcgPath) -> str:
    return path.rpartition("-")[2].removesuffix(".scope")


def test_a_line_and_its_counter_are_one_kill(kernel: Kernel, agent: Agent) -> None:
    agent.line(kernel.kill(ONE, limited=ONE))
    assert agent.settle() == []
    assert len(agent.stored.incidents) == 1


def test_a_kill_without_a_line_is_told_by_its_counter(kernel: Kernel, agent: Agent) -> None:
    kernel.kill(ONE, limited=ONE)
    (taken,) = agent.settle()
    incident = taken.incident
    assert container_of(incident) == id_of(ONE)
    assert incident.verdict.evidence == (Evidence.MEMORY_EVENTS,)
    assert incident.verdict.cause is Cause.CONTAINER_LIMIT
    assert incident.attribution.method is AttributionMethod.MEMORY_EVENTS
    assert incident.report.victim.pid is None
    assert agent.settle() == []


@pytest.mark.parametrize(
    ("limited", "cause"),
    [
        pytest.param(pod(1), Cause.POD_LIMIT, id="pod"),
        pytest.param(BURSTABLE, Cause.QOS_LIMIT, id="qos"),
        pytest.param(KUBEPODS, Cause.NODE_ALLOCATABLE, id="allocatable"),
        pytest.param(None, Cause.NODE, id="no limit at all"),
    ],
)
def test_the_one_limit_that_was_hit_is_the_cause(
    kernel: Kernel, agent: Agent, limited: MemcgPath | None, cause: Cause
) -> None:
    kernel.kill(ONE, limited=limited)
    (taken,) = agent.settle()
    assert (taken.incident.verdict.cause, container_of(taken.incident)) == (cause, id_of(ONE))


def test_the_limit_is_the_lower_of_container_and_pod(kernel: Kernel, agent: Agent) -> None:
    agent.limits = {ONE: 512, pod(1): 256, BURSTABLE: 128}
    taken = agent.line(kernel.kill(ONE, limited=ONE))
    assert taken is not None
    assert taken.incident.sighting is not None
    assert taken.incident.sighting.limit_bytes == 256


@pytest.mark.parametrize("first_start", [True, False], ids=["first start", "restart"])
def test_a_limit_that_was_hit_before_the_start_is_not_the_cause(
    kernel: Kernel, agent: Agent, first_start: bool
) -> None:
    agent.line(kernel.kill(ONE, limited=ONE))
    agent = Agent(kernel, Stored() if first_start else agent.stored)
    kernel.kill(ONE)
    (taken,) = agent.settle()
    assert taken.incident.verdict.cause is Cause.NODE


def test_two_limits_hit_at_once_prove_none(kernel: Kernel, agent: Agent) -> None:
    kernel.kill(ONE, limited=ONE)
    kernel.kill(ONE, limited=pod(1))
    assert {taken.incident.verdict.cause for taken in agent.settle()} == {Cause.UNKNOWN}


def test_a_bare_line_is_placed_by_the_only_counter_that_moved(kernel: Kernel, agent: Agent) -> None:
    taken = agent.line(kernel.kill(ONE, limited=ONE, bare=True))
    assert taken is not None
    assert container_of(taken.incident) == id_of(ONE)
    assert taken.incident.verdict.cause is Cause.CONTAINER_LIMIT
    assert taken.unattributed is None
    assert agent.settle() == []


def test_a_bare_line_is_placed_by_the_process_index_in_a_storm(kernel: Kernel, agent: Agent) -> None:
    first, second = kernel.kill(ONE, limited=ONE, bare=True), kernel.kill(OTHER, limited=OTHER, bare=True)
    for incident, path in ((first, ONE), (second, OTHER)):
        taken = agent.line(incident, sighting=Sighting(method=AttributionMethod.PROCESS_INDEX, memcg=path))
        assert taken is not None
        assert container_of(taken.incident) == id_of(path)
        assert Evidence.PROCESS_INDEX in taken.incident.verdict.evidence
        assert taken.incident.verdict.cause is Cause.CONTAINER_LIMIT
    assert agent.settle() == []


def test_several_counters_moved_for_bare_lines_nobody_is_blamed(kernel: Kernel, agent: Agent) -> None:
    lines = [kernel.kill(ONE, limited=ONE, bare=True), kernel.kill(OTHER, limited=OTHER, bare=True)]
    first = agent.line(lines[0])
    assert first is not None
    assert (first.unattributed, container_of(first.incident)) == (AMBIGUOUS, None)
    agent.line(lines[1])
    assert agent.settle() == []
    assert len(agent.stored.incidents) == 2


def test_a_bare_line_without_any_counter_is_said_to_be_unattributed(kernel: Kernel, agent: Agent) -> None:
    taken = agent.line(kernel.kill(MemcgPath("/"), bare=True))
    assert taken is not None
    assert taken.unattributed == NO_CGROUP
    assert agent.settle() == []


def test_a_late_line_completes_what_the_counter_told(kernel: Kernel, agent: Agent) -> None:
    late = kernel.kill(ONE, limited=ONE)
    (told,) = agent.settle()
    taken = agent.line(late)
    assert taken is not None
    assert taken.incident.id == told.incident.id
    assert taken.line_id == late.id
    assert taken.incident.report.victim.pid is not None
    agent = Agent(kernel, agent.stored)
    again = agent.line(late)
    assert again is not None
    assert again.incident.id == told.incident.id
    assert len(agent.stored.incidents) == 1


def test_a_late_line_without_a_cgroup_takes_no_container_away(kernel: Kernel, agent: Agent) -> None:
    late = kernel.kill(ONE, limited=ONE, bare=True)
    (told,) = agent.settle()
    taken = agent.line(late)
    assert taken is not None
    assert taken.incident.id == told.incident.id
    assert container_of(taken.incident) == id_of(ONE)
    assert taken.incident.verdict.cause is Cause.CONTAINER_LIMIT
    assert taken.incident.report.victim.pid is not None
    assert taken.unattributed is None


def test_a_late_line_without_a_cgroup_is_not_placed_where_several_died(kernel: Kernel, agent: Agent) -> None:
    late = kernel.kill(OTHER, limited=OTHER, bare=True)
    kernel.kill(ONE, limited=ONE)
    agent.settle()
    taken = agent.line(late)
    assert taken is not None
    assert container_of(taken.incident) is None
    assert len(agent.stored.incidents) == 2


def test_a_late_line_that_names_only_the_pod_is_that_of_its_container(kernel: Kernel, agent: Agent) -> None:
    late = kernel.kill(ONE, limited=pod(1))
    (told,) = agent.settle()
    taken = agent.line(replace(late, report=replace(late.report, task_memcg=None)))
    assert taken is not None
    assert taken.incident.id == told.incident.id
    assert container_of(taken.incident) == id_of(ONE)
    assert taken.incident.verdict.cause is Cause.POD_LIMIT
    assert len(agent.stored.incidents) == 1


def test_a_line_long_after_is_another_kill(kernel: Kernel, agent: Agent) -> None:
    kernel.kill(ONE, limited=ONE)
    agent.settle()
    agent.line(kernel.kill(ONE, limited=ONE))
    assert len(agent.stored.incidents) == 2


def test_a_container_that_is_gone_left_its_kill_in_its_pod(kernel: Kernel, agent: Agent) -> None:
    late = container(1, 3)
    kernel.make(late)
    kernel.kill(late, limited=late)
    kernel.remove(late)
    (taken,) = agent.settle()
    assert taken.incident.attribution.pod is not None
    assert container_of(taken.incident) is None
    assert taken.unattributed is None


def test_a_container_that_goes_with_its_kill_untold_is_still_named(kernel: Kernel, agent: Agent) -> None:
    kernel.kill(ONE, limited=ONE)
    agent.look()
    kernel.remove(ONE)
    (taken,) = agent.settle()
    assert container_of(taken.incident) == id_of(ONE)
    agent.settle()
    assert ONE not in agent.ledger


def test_a_pod_that_is_gone_left_its_kill_in_its_slice(kernel: Kernel, agent: Agent) -> None:
    path = container(3, 1)
    kernel.make(path)
    kernel.kill(path, limited=path)
    kernel.remove(pod(3))
    (taken,) = agent.settle()
    assert (taken.incident.attribution.pod, taken.unattributed) == (None, POD_GONE)


def test_a_cgroup_that_is_found_after_its_line_owes_nothing(kernel: Kernel, agent: Agent) -> None:
    path = container(3, 1)
    kernel.make(path)
    agent.line(kernel.kill(path, limited=path))
    assert agent.settle() == []


def test_a_pod_cgroup_made_anew_counts_from_zero(kernel: Kernel, agent: Agent) -> None:
    agent.line(kernel.kill(ONE, limited=ONE))
    kernel.remove(pod(1))
    kernel.make(ONE)
    assert agent.settle() == []
    kernel.kill(ONE, limited=ONE)
    (taken,) = agent.settle()
    assert container_of(taken.incident) == id_of(ONE)


@pytest.mark.parametrize("groups_counted", [True, False], ids=["5.17 and later", "before 5.17"])
def test_a_group_kill_is_one_incident_whoever_tells_it(groups_counted: bool) -> None:
    kernel = Kernel(groups_counted=groups_counted)
    kernel.make(ONE, group=True)
    agent = Agent(kernel, Stored())
    kernel.kill(ONE, limited=ONE, members=89)
    (taken,) = agent.settle()
    assert taken.incident.process_count == 90
    assert taken.incident.report.group_memcg == ONE
    line = kernel.kill(ONE, limited=ONE, members=3)
    agent.line(line)
    assert agent.settle() == []
    assert len(agent.stored.incidents) == 2


@pytest.mark.parametrize("groups_counted", [True, False], ids=["5.17 and later", "before 5.17"])
@pytest.mark.parametrize("printed", [1, 2, 5], ids=["first line", "first line twice", "three members"])
def test_members_whose_lines_were_lost_are_processes_of_their_group_kill(groups_counted: bool, printed: int) -> None:
    kernel = Kernel(groups_counted=groups_counted)
    kernel.make(ONE, group=True)
    agent = Agent(kernel, Stored())
    incident = kernel.kill(ONE, limited=ONE, members=9)
    report = incident.report
    printed_members = report.also_killed[: max(0, printed - 2)]
    agent.line(replace(incident, report=replace(report, also_killed=printed_members, kill_lines=printed)))
    (taken,) = agent.settle()
    assert taken.incident.id == incident.id
    assert taken.incident.process_count == 10
    assert taken.incident.report.also_killed[: len(printed_members)] == printed_members
    assert Evidence.MEMORY_EVENTS in taken.incident.verdict.evidence
    assert agent.settle() == []
    assert len(agent.stored.incidents) == 1


def test_members_that_are_counted_later_are_processes_too() -> None:
    kernel = Kernel()
    kernel.make(ONE, group=True)
    agent = Agent(kernel, Stored())
    incident = kernel.kill(ONE, limited=ONE, members=1)
    agent.line(incident)
    for _ in range(2):
        for path in (ONE, pod(1), BURSTABLE, KUBEPODS):
            kernel.cgroups[path].oom_kill += 1
        agent.settle()
    assert agent.stored.incidents[incident.id].process_count == 4


def test_members_below_what_is_watched_are_of_their_group_kill(kernel: Kernel, agent: Agent) -> None:
    incident = kernel.kill(MemcgPath("/system.slice/db.service"), members=9)
    agent.line(replace(incident, report=replace(incident.report, also_killed=(), kill_lines=1)))
    (taken,) = agent.settle()
    assert (taken.incident.id, taken.incident.process_count) == (incident.id, 10)


@pytest.mark.parametrize(
    ("groups_counted", "seconds"),
    [pytest.param(True, 0, id="5.17 and later, at once"), pytest.param(False, 100, id="before 5.17, later")],
)
def test_the_next_group_kill_is_another(groups_counted: bool, seconds: float) -> None:
    kernel = Kernel(groups_counted=groups_counted)
    kernel.make(ONE, group=True)
    agent = Agent(kernel, Stored())
    agent.line(kernel.kill(ONE, limited=ONE, members=3))
    kernel.now += seconds
    agent.look()
    kernel.kill(ONE, limited=ONE, members=5)
    (taken,) = agent.settle()
    assert (len(agent.stored.incidents), taken.incident.process_count) == (2, 6)


def test_two_group_kills_without_lines_are_two(kernel: Kernel) -> None:
    kernel.make(ONE, group=True)
    agent = Agent(kernel, Stored())
    for _ in range(2):
        kernel.kill(ONE, limited=ONE, members=3)
    assert [taken.incident.process_count for taken in agent.settle()] == [4, 4]


def test_members_of_a_group_kill_that_a_former_process_told_are_no_incident(kernel: Kernel) -> None:
    kernel.make(ONE, group=True)
    agent = Agent(kernel, Stored())
    incident = kernel.kill(ONE, limited=ONE, members=3)
    agent.line(replace(incident, report=replace(incident.report, also_killed=(), kill_lines=1)))
    agent = Agent(kernel, agent.stored)
    assert agent.settle() == []
    assert len(agent.stored.incidents) == 1


def test_processes_that_died_with_pid_1_are_mentioned_and_not_counted(kernel: Kernel, agent: Agent) -> None:
    agent.died_along = (Process(pid=7, comm="child"),)
    taken = agent.line(kernel.kill(ONE, limited=ONE))
    assert taken is not None
    assert taken.incident.process_count == 1
    document = to_document(taken.incident)
    assert [process["pid"] for process in document["collateral"]] == [7]  # type: ignore[attr-defined]


@pytest.mark.parametrize("groups_counted", [True, False], ids=["5.17 and later", "before 5.17"])
@pytest.mark.parametrize("group_line", [True, False], ids=["group named", "group line lost"])
def test_a_group_kill_whose_last_lines_are_lost_is_one(groups_counted: bool, group_line: bool) -> None:
    kernel = Kernel(groups_counted=groups_counted)
    kernel.make(ONE, group=True)
    agent = Agent(kernel, Stored())
    whole = kernel.kill(ONE, limited=ONE, members=3)
    torn = replace(whole.report, also_killed=(), kill_lines=1, group_memcg=None)
    agent.line(replace(whole, report=replace(torn, settled=False)))
    agent.line(replace(whole, report=replace(torn, group_memcg=ONE if group_line else None)))
    (taken,) = agent.settle()
    assert (taken.incident.id, taken.incident.process_count) == (whole.id, 4)
    assert agent.settle() == []
    assert len(agent.stored.incidents) == 1


def test_a_late_group_kill_stands_for_no_other(kernel: Kernel) -> None:
    kernel.make(ONE, group=True)
    agent = Agent(kernel, Stored())
    late = kernel.kill(ONE, limited=ONE, members=3)
    agent.settle()
    kernel.kill(TWO, limited=TWO)
    agent.look()
    torn = replace(late.report, settled=False, group_memcg=None, also_killed=(), kill_lines=1)
    agent.line(replace(late, report=torn))
    agent.line(late)
    (taken,) = agent.settle()
    assert container_of(taken.incident) == id_of(TWO)


def test_a_bare_line_that_no_counter_knows_stands_for_no_later_kill(kernel: Kernel) -> None:
    old = kernel.kill(ONE, limited=ONE, bare=True)
    agent = Agent(kernel, Stored())  # its first reading has it
    agent.line(old)
    kernel.now += 36_000
    kernel.kill(OTHER, limited=OTHER)
    (taken,) = agent.settle()
    assert container_of(taken.incident) == id_of(OTHER)


def test_bare_lines_of_a_long_downtime_are_what_the_counters_miss(kernel: Kernel, agent: Agent) -> None:
    lines = [kernel.kill(ONE, limited=ONE, bare=True), kernel.kill(OTHER, limited=OTHER, bare=True)]
    kernel.now += 36_000
    agent = Agent(kernel, agent.stored)
    for line in lines:
        agent.line(line)
    assert agent.settle() == []
    assert len(agent.stored.incidents) == 2


def test_a_line_that_was_counted_off_before_its_counter_was_read_makes_no_bare_line_too_old(
    kernel: Kernel, agent: Agent
) -> None:
    """In a storm: its place is taken by the kill before it, and its own counter seems to be the one without a line."""

    def count(by: int) -> None:
        for path in (*parents(ONE), ONE):
            kernel.cgroups[path].oom_kill += by

    bare = kernel.kill(ONE, limited=ONE, bare=True)
    agent.look()
    kernel.now += 20
    line = kernel.kill(ONE, limited=ONE)
    count(-1)
    agent.line(line)
    agent.look()
    count(+1)
    kernel.now += 1
    kernel.kill(OTHER, limited=OTHER)
    agent.look()
    agent.line(bare)
    assert len(agent.settle()) == 1
    assert len(agent.stored.incidents) == 3


def test_a_bare_line_stands_for_no_kill_that_came_after_it(kernel: Kernel, agent: Agent) -> None:
    for path in (ONE, OTHER):
        kernel.kill(path, limited=path)
    agent.settle()
    nowhere = kernel.kill(MemcgPath("/"), bare=True)
    kernel.now += 60
    agent.look()
    for path in (ONE, OTHER):
        kernel.kill(path, limited=path)
    agent.line(nowhere)
    assert len(agent.settle()) == 2


def test_a_kill_told_above_its_container_is_not_blamed_on_it_again(kernel: Kernel, agent: Agent) -> None:
    kill = kernel.kill(ONE, limited=pod(1))
    agent.line(replace(kill, report=replace(kill.report, task_memcg=None)))
    assert agent.settle() == []
    unseen = container(1, 9)
    kernel.make(unseen)
    kernel.kill(unseen, limited=unseen)
    kernel.remove(unseen)
    (taken,) = agent.settle()
    assert container_of(taken.incident) is None


def test_a_limit_that_was_hit_long_before_a_slow_report_is_no_node_pressure(kernel: Kernel, agent: Agent) -> None:
    kernel.cgroups[ONE].oom += 1
    kernel.cgroups[ONE].local_oom += 1
    for path in (pod(1), BURSTABLE, KUBEPODS):
        kernel.cgroups[path].oom += 1
    agent.look()
    kernel.now += 20
    agent.look()
    kernel.kill(ONE)
    (taken,) = agent.settle()
    assert taken.incident.verdict.cause is Cause.UNKNOWN


def test_many_kills_at_once_are_told_in_portions(kernel: Kernel, agent: Agent) -> None:
    for _ in range(100):
        kernel.kill(ONE, limited=ONE)
    portions = [len(agent.settle()) for _ in range(8)]
    assert sum(portions) == 100
    assert max(portions) <= 20


def test_oom_is_not_a_number_of_kills(kernel: Kernel, agent: Agent) -> None:
    kernel.cgroups[ONE].oom = kernel.cgroups[ONE].local_oom = kernel.cgroups[pod(1)].oom = 8795
    assert agent.settle() == []


def test_first_start_what_counters_show_is_old(kernel: Kernel) -> None:
    kernel.kill(ONE, limited=ONE)
    agent = Agent(kernel, Stored())
    assert agent.settle() == []
    kernel.kill(ONE, limited=ONE)
    assert len(agent.settle()) == 1


def test_kills_of_a_downtime_whose_lines_are_lost(kernel: Kernel, agent: Agent) -> None:
    new = container(3, 1)
    kernel.make(new)
    for path in (ONE, ONE, OTHER, new):
        kernel.kill(path, limited=path)
    kernel.remove(OTHER)
    agent = Agent(kernel, agent.stored)
    told = agent.settle()
    assert sorted(str(container_of(taken.incident)) for taken in told) == sorted(
        [id_of(ONE), id_of(ONE), id_of(new), "None"]
    )
    assert all(taken.incident.verdict.cause is not Cause.NODE for taken in told)
    assert all(taken.incident.time is None for taken in told)


def test_kind_other_nodes_kills_are_foreign() -> None:
    """The prefix is learned from the first of our pods; before that, the counter of our root tells."""
    kernel = Kernel(prefix="/docker/node-a")
    kernel.make(MemcgPath("/x"))  # the root of our part has a memory.events of its own
    kernel.cgroups[MemcgPath("/")] = kernel.cgroups.pop(MemcgPath("/x"))
    kernel.make(ONE)
    agent = Agent(kernel, Stored(), whole=False)
    elsewhere = Kernel(prefix="/docker/node-b", pid=5000)
    elsewhere.make(OTHER)
    assert agent.line(elsewhere.kill(OTHER, limited=OTHER)) is None
    assert agent.line(elsewhere.kill(OTHER, limited=OTHER, bare=True)) is None
    ours = kernel.kill(ONE, limited=ONE)
    kernel.cgroups[MemcgPath("/")].oom_kill += 1
    taken = agent.line(ours)
    assert taken is not None
    assert container_of(taken.incident) == id_of(ONE)
    assert agent.line(elsewhere.kill(OTHER, limited=OTHER)) is None
    assert agent.settle() == []


@pytest.mark.parametrize("torn", [False, True], ids=["one victim", "members without lines"])
def test_a_node_in_a_pod_names_the_pod_inside(torn: bool) -> None:
    kernel = Kernel(prefix=container(9, 9))
    kernel.make(ONE, group=torn)
    agent = Agent(kernel, Stored(), whole=False)
    kill = kernel.kill(ONE, limited=pod(1), members=3 if torn else 0)
    agent.line(replace(kill, report=replace(kill.report, also_killed=(), kill_lines=1)))
    agent.settle()
    (incident,) = agent.stored.incidents.values()
    assert (container_of(incident), incident.verdict.cause) == (id_of(ONE), Cause.POD_LIMIT)
    assert incident.process_count == (4 if torn else 1)
    assert incident.report.task_memcg == kernel.prefix + ONE


def test_in_a_part_of_the_tree_no_limit_that_was_hit_proves_nothing(kernel: Kernel) -> None:
    agent = Agent(kernel, Stored(), whole=False)
    kernel.kill(ONE)
    (taken,) = agent.settle()
    assert taken.incident.verdict.cause is Cause.UNKNOWN


PATHS = [container(pod_number, number) for pod_number in (1, 2) for number in (1, 2)]
GROUPS = [container(3, number) for number in (1, 2)]

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("kill"),
            st.sampled_from(PATHS),
            st.sampled_from(["path", "bare", "index", "lost", "late", "late bare"]),
        ),
        st.tuples(st.just("group"), st.sampled_from(PATHS), st.sampled_from(["path", "lost"])),
        st.tuples(st.just("torn"), st.sampled_from(GROUPS), st.sampled_from(["1", "2", "3", "4", "5"])),
        st.tuples(st.just("remove"), st.sampled_from([*PATHS, pod(1), pod(2), pod(3)]), st.just("")),
        st.tuples(st.just("restart"), st.just(PATHS[0]), st.just("")),
        st.tuples(st.just("crash"), st.sampled_from(PATHS), st.sampled_from(["path", "lost"])),
        st.tuples(st.just("look"), st.just(PATHS[0]), st.just("")),
        st.tuples(st.just("settle"), st.just(PATHS[0]), st.just("")),
    ),
    max_size=40,
)


class Story:
    """A kernel and its agents, and what an outsider knows of the kills."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.kernel.make(KUBEPODS)
        self.agent = Agent(self.kernel, Stored())
        self.kills = 0
        self.processes = 0
        self.of_lines: dict[str, MemcgPath] = {}
        self.late: list[Incident] = []

    def happens(self, step: str, path: MemcgPath, how: str) -> None:
        if step in ("kill", "group", "crash"):
            self._kill(step, path, how)
        elif step == "torn":
            self._group_kill_with_lines_lost(path, printed=int(how))
        elif step == "remove":
            self.kernel.remove(path)
        elif step == "restart":
            self._restart()
        elif step == "look":
            self.agent.look()
        else:
            self.end()

    def end(self) -> None:
        self.agent.settle()
        for incident in self.late:
            self.agent.line(incident)
        self.late.clear()

    def _restart(self) -> None:
        self.agent = Agent(self.kernel, self.agent.stored)

    def _kill(self, step: str, path: MemcgPath, how: str) -> None:
        if path not in self.kernel.cgroups:
            self.kernel.make(path)
            if how != "path":
                self.agent.look()
        members = 3 if step == "group" else 0
        incident = self.kernel.kill(path, limited=path, members=members, bare=how in ("bare", "index", "late bare"))
        self.kills += 1
        self.processes += 1 + members
        if step == "crash":
            self._restart()  # between the kill and the commit: the line is read again, or lost
        if how in ("path", "bare"):
            self.agent.line(incident)
        elif how == "index":
            self.agent.line(incident, sighting=Sighting(method=AttributionMethod.PROCESS_INDEX, memcg=path))
        elif how in ("late", "late bare"):
            self.late.append(incident)
        if how in ("path", "index"):
            self.of_lines[incident.id] = path
        if how in ("bare", "lost", "late", "late bare"):
            self.agent.settle()

    def _group_kill_with_lines_lost(self, path: MemcgPath, *, printed: int) -> None:
        self.kernel.make(path, group=True)
        self.agent.look()
        incident = self.kernel.kill(path, limited=path, members=3)
        self.kills += 1
        self.processes += 4
        members = incident.report.also_killed[: max(0, printed - 2)]
        self.agent.line(replace(incident, report=replace(incident.report, also_killed=members, kill_lines=printed)))
        self.agent.settle()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps)
def test_every_kill_is_told_once_whatever_happens(steps: list[tuple[str, MemcgPath, str]]) -> None:
    story = Story()
    for step in steps:
        story.happens(*step)
    story.end()
    stored = story.agent.stored
    assert story.agent.settle() == []
    assert len(stored.incidents) == story.kills
    assert sum(incident.process_count for incident in stored.incidents.values()) == story.processes
    for line_id, path in story.of_lines.items():
        told = stored.told(line_id)
        assert told is not None
        assert container_of(stored.incidents[told.id]) == id_of(path)
