"""A plain directory as cgroup tree: what is found, what is read, what is forgotten."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from collector.cgroups import files
from collector.cgroups import tree as tree_module
from collector.cgroups.tree import CgroupTree
from collector.model import Counters, MemcgPath, QosClass
from collector.parse.cgroup_path import CgroupDriver
from tests.cgroups.tree_maker import (
    CONTAINER_ID,
    EVENTS,
    UID,
    bump,
    flat,
    live_and_die,
    make_cgroup,
    make_container,
    make_pod,
    make_root,
    remove,
    write,
)

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "cgroup")


def read(tree: CgroupTree) -> dict[MemcgPath, Counters]:
    tree.scan()
    return {counters.path: counters for counters in tree.read_counters()}


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def paths(tree: CgroupTree) -> set[MemcgPath]:
    tree.scan()
    return {cgroup.path for cgroup in tree.counted()}


@pytest.mark.parametrize("driver", CgroupDriver)
@pytest.mark.parametrize("qos", QosClass)
@pytest.mark.parametrize("prefix", ["", "kubelet", "a-b"])
def test_pods_and_all_above_them_are_found(root: Path, driver: CgroupDriver, qos: QosClass, prefix: str) -> None:
    if prefix and driver is CgroupDriver.CGROUPFS:
        prefix = f"/{prefix.replace('-', '/')}"
    pod = make_pod(root, UID % 1, driver=driver, qos=qos, prefix=prefix)
    container = make_container(root, pod, CONTAINER_ID % 1)
    tree = CgroupTree(root)

    above = {"/"} | {MemcgPath(str(parent)) for parent in Path(container).parents} | {container}
    assert paths(tree) == above
    assert tree.containers() == [container]
    assert [cgroup.path for cgroup in tree.sampled()] == [pod, container]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(f"/docker/{CONTAINER_ID % 1}", True, id="docker, cgroupfs"),
        pytest.param(f"/system.slice/docker-{CONTAINER_ID % 1}.scope", True, id="docker, systemd"),
        pytest.param(f"/machine.slice/libpod-{CONTAINER_ID % 1}.scope", True, id="podman"),
        pytest.param(f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{CONTAINER_ID % 1}.scope", True, id="rootless"),
        pytest.param("/system.slice/a.service", False, id="service"),
        pytest.param("/system.slice/a.service/b/c", False, id="below a service"),
    ],
)  # fmt: skip
def test_outside_of_pods_containers_and_top_level_count(root: Path, path: str, expected: bool) -> None:
    make_cgroup(root, path)
    tree = CgroupTree(root)
    found = paths(tree)
    assert (path in found) is expected
    assert MemcgPath("/" + path.split("/")[1]) in found
    assert tree.containers() == ([path] if expected else [])
    if expected:
        assert {MemcgPath(str(parent)) for parent in Path(path).parents} < found


def test_what_a_workload_makes_is_its_own_and_cruns_container_is_not_the_workloads(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    scope = make_cgroup(root, f"{pod}/crio-{CONTAINER_ID % 1}.scope", limit=None)
    inner = make_cgroup(root, f"{scope}/container", limit=50 * MIB)
    make_cgroup(root, f"{inner}/init.scope")
    make_cgroup(root, f"{scope}/other")
    helper = make_cgroup(root, f"{pod}/crio-conmon-{CONTAINER_ID % 1}.scope")
    tree = CgroupTree(root)

    found = paths(tree)
    assert {path for path in found if path.startswith(pod)} == {pod, scope, inner, helper}
    assert tree.containers() == [scope]
    assert tree.limit_of(scope) == 50 * MIB


def test_the_first_reading_and_then_only_what_has_more_kills(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    container = make_container(root, pod, CONTAINER_ID % 1)
    tree = CgroupTree(root)
    first = read(tree)
    assert set(first) == paths(tree) - {"/"}
    assert {counters.after for counters in first.values()} == {None}
    assert read(tree) == {}

    bump(root, container, max=49)
    assert read(tree) == {}
    bump(root, container, oom=1, oom_kill=1, max=1)
    changed = read(tree)
    assert set(changed) == set(first)
    mine, pods = changed[container], changed[pod]
    assert (mine.oom, mine.oom_kill, mine.oom_group_kill, mine.local_oom, mine.group) == (1, 1, 0, 1, False)
    assert (pods.oom, pods.oom_kill, pods.local_oom) == (1, 1, 0)
    assert mine.inode == (root / container[1:]).stat().st_ino
    assert mine.after is not None
    assert first[container].at < mine.after < mine.at


def test_after_is_when_it_was_last_read_changed_or_not(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    tree = CgroupTree(root)
    tree.scan()
    tree.read_counters()
    first_unchanged = tree.read_counters()
    seen = tree.read_counters([pod])
    before = time.monotonic()
    tree.read_counters()
    bump(root, pod, oom_kill=1)
    (counters,) = tree.read_counters([pod])
    assert first_unchanged == seen == []
    assert counters.after is not None
    assert counters.after >= before


def test_oom_group_is_read_again_with_each_kill(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    tree = CgroupTree(root)
    assert read(tree)[pod].group is False
    write(root / pod[1:] / "memory.oom.group", "1\n")
    bump(root, pod, oom_kill=4, oom_group_kill=1)
    assert read(tree)[pod].group is True


def test_a_kernel_before_5_17(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    for name in ("memory.events", "memory.events.local"):
        write(root / pod[1:] / name, flat({key: EVENTS[key] for key in list(EVENTS)[:5]}))
    (root / pod[1:] / "memory.peak").unlink()
    tree = CgroupTree(root)
    assert read(tree)[pod].oom_group_kill is None
    (cgroup,) = tree.sampled()
    reading = tree.sample(cgroup, bounds=True)
    assert reading is not None
    assert reading.bounds is not None
    assert reading.bounds.peak is None


def test_damage_is_counted_once_and_the_next_good_reading_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    pod = make_pod(root, UID % 1)
    tree = CgroupTree(root)
    read(tree)
    write(root / pod[1:] / "memory.events", "low 0\nhigh 0\nmax 0\noom 1\noom_ki")
    assert read(tree) == {}
    assert read(tree) == {}
    assert tree.malformed == 1
    assert pod in caplog.text
    write(root / pod[1:] / "memory.events", flat({**EVENTS, "oom": 1, "oom_kill": 1}))
    assert read(tree)[pod].oom_kill == 1


def test_a_removed_pod_is_forgotten_children_first(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    container = make_container(root, pod, CONTAINER_ID % 1)
    tree = CgroupTree(root)
    gone: list[tuple[MemcgPath, int]] = []
    tree.on_gone = lambda path, inode: gone.append((path, inode))
    first = read(tree)
    descriptors = open_files()
    remove(root, pod)
    tree.scan()
    assert gone == [(container, first[container].inode), (pod, first[pod].inode)]
    assert pod not in tree
    assert open_files() == descriptors - 2
    assert tree.read_counters() == []


def test_one_made_anew_under_the_same_path_is_another(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    tree = CgroupTree(root)
    gone: list[tuple[MemcgPath, int]] = []
    tree.on_gone = lambda path, inode: gone.append((path, inode))
    bump(root, pod, oom_kill=3)
    old = read(tree)[pod]
    (root / "kept_inode").mkdir()  # else the file system may give the inode again
    (root / pod[1:]).rename(root / "kept_inode/old")
    make_pod(root, UID % 1)
    new = read(tree)
    assert gone == [(pod, old.inode)]
    assert (new[pod].oom_kill, new[pod].after) == (0, None)
    assert new[pod].inode != old.inode


def test_enodev_of_an_open_file_forgets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's answer for a removed cgroup, which no plain file gives."""
    pod = make_pod(root, UID % 1)
    tree = CgroupTree(root)
    read(tree)
    gone: list[MemcgPath] = []
    tree.on_gone = lambda path, inode: gone.append(path)

    def removed(fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(os, "pread", removed)
    assert tree.read_counters([pod]) == []
    assert gone == [pod]


def test_a_cgroup_that_gets_its_memory_controller_later(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    (root / pod[1:] / "memory.events").rename(root / "later")
    tree = CgroupTree(root)
    assert pod not in read(tree)
    (root / "later").rename(root / pod[1:] / "memory.events")
    assert read(tree)[pod].after is None


def test_a_view_whose_root_is_a_cgroup_itself_counts_it(root: Path) -> None:
    write(root / "memory.events", flat({**EVENTS, "oom_kill": 7}))
    tree = CgroupTree(root)
    assert not tree.is_whole
    assert read(tree)[MemcgPath("/")].oom_kill == 7


def test_the_root_of_this_machines_own_hierarchy_is_whole() -> None:
    root = Path("/sys/fs/cgroup")
    if not root.exists() or root.stat().st_ino != 1:
        pytest.skip("no cgroup file system here, or only a part of one")
    assert CgroupTree(root).is_whole


def test_what_vanishes_while_it_is_read_is_forgotten_and_nothing_is_raised(root: Path) -> None:
    make_pod(root, UID % 1)
    tree = CgroupTree(root)
    at_rest = paths(tree)
    churn = threading.Thread(target=live_and_die, args=(root, 100))
    churn.start()
    while churn.is_alive():
        tree.scan()
        tree.read_counters()
        for cgroup in tree.sampled():
            tree.sample(cgroup, bounds=True)
    churn.join()
    assert paths(tree) == at_rest
    assert tree.malformed == 0


# Samples


def test_a_sample(root: Path) -> None:
    container = make_container(root, make_pod(root, UID % 1), CONTAINER_ID % 1, limit=50 * MIB)
    tree = CgroupTree(root)
    tree.scan()
    cgroup = tree.sampled()[1]
    first = tree.sample(cgroup, bounds=False)
    assert first is not None
    sample, bounds = first.sample, first.bounds
    assert (first.path, first.inode) == (container, cgroup.inode)
    assert (sample.current, sample.working_set, sample.anon) == (5308416, 5304320, 5033984)
    assert (sample.file, sample.shmem, sample.kernel, sample.swap) == (12288, 8192, 262144 + 4096, 0)
    assert bounds == (50 * MIB, 6291456, 1.5)  # the first time, asked for or not

    again = tree.sample(cgroup, bounds=False)
    assert again is not None
    assert again.sample is sample
    assert again.bounds is None

    write(root / container[1:] / "memory.current", "9000000\n")
    write(root / container[1:] / "memory.swap.current", "4096\n")
    changed = tree.sample(cgroup, bounds=True)
    assert changed is not None
    assert (changed.sample.current, changed.sample.anon, changed.sample.swap) == (9000000, 5033984, 4096)


def test_limit_and_use_are_known_for_a_while_after_removal(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    container = make_container(root, pod, CONTAINER_ID % 1, limit=50 * MIB)
    tree = CgroupTree(root)
    tree.scan()
    assert (tree.limit_of(container), tree.limit_of(pod), tree.memory_of(container)) == (50 * MIB, None, None)
    for cgroup in tree.sampled():
        tree.sample(cgroup, bounds=False)
    write(root / container[1:] / "memory.max", f"{60 * MIB}\n")
    assert tree.limit_of(container) == 60 * MIB
    tree.read_counters()
    bump(root, container, oom=1, oom_kill=1)
    tree.read_counters()
    remove(root, pod)
    tree.scan()
    use = tree.memory_of(container)
    assert use is not None
    assert (use.usage_bytes, use.limit_bytes, use.stat["anon"]) == (5308416, 60 * MIB, 5033984)
    assert tree.limit_of(container) == 60 * MIB


def test_a_cgroup_that_goes_before_it_is_sampled_is_no_error(root: Path) -> None:
    pod = make_pod(root, UID % 1)
    tree = CgroupTree(root)
    tree.scan()
    (cgroup,) = tree.sampled()
    remove(root, pod)
    assert tree.sample(cgroup, bounds=True) is None
    assert pod not in tree


# What there may be instead


@pytest.mark.parametrize(
    ("made", "version", "problem"),
    [
        pytest.param(["memory", "cpu"], 1, "cgroup v1: kernel log only", id="v1"),
        pytest.param(["systemd", "unified"], 1, "cgroup v1: kernel log only", id="hybrid"),
        pytest.param(["some"], None, "no cgroup file system", id="something else"),
        pytest.param(None, None, "No such file or directory", id="missing"),
    ],
)
def test_without_v2_nothing_is_read(tmp_path: Path, made: list[str] | None, version: int | None, problem: str) -> None:
    root = tmp_path / "cgroup"
    for name in made or ():
        (root / name).mkdir(parents=True)
    tree = CgroupTree(root)
    assert tree.version == version
    assert tree.problem is not None
    assert problem in tree.problem
    tree.scan()
    assert (tree.counted(), tree.read_counters(), tree.containers()) == ([], [], [])


def test_v2_without_a_memory_controller(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io\n")
    tree = CgroupTree(tmp_path)
    assert tree.version == 2
    assert tree.problem is not None


# Limits


def test_without_descriptors_to_spare_files_are_opened_for_each_reading(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "_RESERVED", 10**9)
    pod = make_pod(root, UID % 1)
    container = make_container(root, pod, CONTAINER_ID % 1)
    tree = CgroupTree(root)
    descriptors = open_files()
    read(tree)
    for cgroup in tree.sampled():
        assert tree.sample(cgroup, bounds=True) is not None
    assert open_files() == descriptors
    assert caplog.text.count("open files are allowed") == 1
    bump(root, container, oom_kill=1)
    assert container in read(tree)

    gone: list[MemcgPath] = []
    tree.on_gone = lambda path, inode: gone.append(path)
    (root / pod[1:]).rename(root / "kept_inode")
    bump(root, make_pod(root, UID % 1), oom_kill=5)
    assert tree.read_counters([pod]) == []  # another one: not this one's counters
    assert gone == [container, pod]


def test_others_cgroups_cannot_fill_us(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tree_module, "MAX_CGROUPS", 20)
    for number in range(30):
        make_cgroup(root, f"/user.slice/{number}")
    make_cgroup(root, "/user.slice/0" + "/x" * 30)
    tree = CgroupTree(root)
    tree.scan()
    tree.scan()
    assert len(tree._cgroups) == 20
    assert caplog.text.count("more than 20 cgroups") == 1


def test_a_missing_root_comes_back(root: Path) -> None:
    make_pod(root, UID % 1)
    tree = CgroupTree(root)
    tree.scan()
    shutil.rmtree(root)
    tree.scan()
    assert tree.counted() == []
    pod = make_pod(make_root(root), UID % 2)
    assert pod in read(tree)


def test_two_names_that_are_shown_alike_stop_nothing(tmp_path: Path) -> None:
    root = make_root(tmp_path / "cgroup")
    make_cgroup(root, "/user.slice")
    directories = [root / "user.slice" / os.fsdecode(b"a" + end) for end in (b"\xff", b"\xfe")]
    for directory in directories:
        directory.mkdir()
    tree = CgroupTree(root)
    tree.scan()
    for directory in directories:
        directory.rmdir()
    tree.scan()
    assert "/user.slice" in tree
    tree.close()
