"""The sentence for a person: verdict first, every name of it from the report."""

from __future__ import annotations

import pytest

from collector.units import human_bytes
from tests import lines
from tests.lines import CONTAINER, CONTAINER_ID, POD
from tests.test_classify import GLOBAL, judge, memcg_kill

UID = "0f9c1d2e-3b4a-4c5d-8e6f-000000000001"
SHORT = CONTAINER_ID[:12]


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        pytest.param(
            lines.report(),
            f"Container {SHORT} of pod {UID} reached its memory limit of 48 MiB: the kernel killed hog (pid 257, using 40 MiB).",
            id="container",
        ),
        pytest.param(
            memcg_kill(POD),
            f"Pod {UID} reached its memory limit: the kernel killed hog (pid 257, using 40 MiB) in container {SHORT}.",
            id="pod",
        ),
        pytest.param(
            memcg_kill(f"{CONTAINER}/inner", f"{CONTAINER}/inner"),
            f"A cgroup that container {SHORT} of pod {UID} made for itself reached its memory limit: "
            "the kernel killed hog (pid 257, using 40 MiB).",
            id="nested",
        ),
        pytest.param(
            memcg_kill("/kubepods.slice"),
            "The node is short of memory: its pods together reached what is allocatable to them: "
            f"the kernel killed hog (pid 257, using 40 MiB) in container {SHORT} of pod {UID}.",
            id="allocatable",
        ),
        pytest.param(
            (lines.summary(oom_memcg=None, task_memcg="/system.slice/a.service"), lines.kill(prefix=GLOBAL)),
            "The node ran out of memory: the kernel killed hog (pid 257, using 40 MiB).",
            id="host process",
        ),
        pytest.param(
            (lines.kill(),),
            "A memory cgroup reached its limit, the log does not say which: the kernel killed hog (pid 257, using 40 MiB).",
            id="unknown",
        ),
        pytest.param(
            (f"Task in {CONTAINER} killed as a result of limit of {POD}",),
            f"Pod {UID} reached its memory limit: the kernel killed a process that the log does not name in container {SHORT}.",
            id="no victim named",
        ),
        pytest.param(
            (*lines.report(), lines.group(), lines.kill(pid=300), lines.kill(pid=301)),
            f"Container {SHORT} of pod {UID} reached its memory limit of 48 MiB: "
            "the kernel killed hog (pid 257, using 40 MiB) and 2 more processes of its group.",
            id="group",
        ),
    ],
)
def test_sentence(texts: tuple[str, ...], sentence: str) -> None:
    assert judge(*texts).summary == sentence


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (536870912, "512 MiB"), (50233344, "47.9 MiB"), (1048575, "1 MiB"), (1 << 60, "1048576 TiB")],
)  # fmt: skip
def test_human_bytes(size: int, words: str) -> None:
    assert human_bytes(size) == words
