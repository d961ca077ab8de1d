"""Lines that a terminal, a mail client or a paste has broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.parse.dress import Dress
from collector.parse.unwrap import Unwrap
from tests import lines

PREFIX = "[   12.345678] "


def unwrap(text: str) -> list[str]:
    dress, unwrap = Dress(), Unwrap()
    records = [record for line in text.split("\n") for record in unwrap.push(dress.undress(line.encode()))]
    return [record.text for record in [*records, *unwrap.flush()]]


@pytest.mark.parametrize("width", [60, 72, 80, 100, 132])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(lines.header(), id="header"),
        pytest.param(lines.summary(), id="summary"),
        pytest.param(lines.summary(oom_memcg=None), id="global summary"),
        pytest.param(lines.kill(), id="kill"),
        pytest.param(lines.kill("Web Content"), id="comm with a blank"),
        pytest.param(lines.group(), id="group"),
        pytest.param("Task in /docker/0f2b3f killed as a result of limit of /docker/0f2b3f", id="task in"),
    ],
)
def test_a_line_broken_at_the_width_of_a_terminal_is_whole_again(text: str, width: int) -> None:
    line = PREFIX + text
    pieces = [line[at : at + width] for at in range(0, len(line), width)]
    assert unwrap("\n".join(pieces)) == [text]


def test_a_task_dump_broken_at_the_width_of_a_terminal_is_whole_again() -> None:
    rows = [lines.DUMP_HEADER, lines.row(1, "init"), lines.row(257, "hog")]
    text = "\n".join(f"{PREFIX}{row}"[:78] + "\n" + f"{PREFIX}{row}"[78:] for row in rows)
    assert [row.split() for row in unwrap(text)] == [row.split() for row in rows]


def test_a_line_broken_at_blanks_is_whole_again() -> None:
    text = f"{PREFIX}Out of memory: Killed\nprocess 1968 (memkiller) total-vm:2099436kB, anon-rss:1971712kB,\n"
    text += "file-rss:1024kB, shmem-rss:0kB, UID:0 pgtables:3904kB oom_score_adj:0"
    (joined,) = unwrap(text)
    assert joined.startswith("Out of memory: Killed process 1968 (memkiller) total-vm:2099436kB")
    assert joined.endswith("UID:0 pgtables:3904kB oom_score_adj:0")


def test_a_path_broken_behind_its_slash_is_whole_again() -> None:
    text = f"{PREFIX}Task in /docker/0f2b3f\nkilled as a result of limit of /docker/\n0f2b3f"
    assert unwrap(text) == ["Task in /docker/0f2b3f killed as a result of limit of /docker/0f2b3f"]


def test_a_message_on_the_line_below_its_prefix_belongs_to_it() -> None:
    assert unwrap(f"{PREFIX}\n{lines.summary()}") == [lines.summary()]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"{PREFIX}Out of memory: Killed\n{PREFIX}{lines.kill()}", id="a prefix"),
        pytest.param(f"Out of memory: Killed\n{lines.kill()}", id="a beginning without a prefix"),
        pytest.param(f"{PREFIX}{lines.summary()[:120]}\n{lines.kill()}", id="a cut summary line"),
        pytest.param(f"{PREFIX}{lines.kill()}\nqemux86-64 login: root", id="a complete line"),
        pytest.param(f"{PREFIX}{lines.kill()[:90]}>\n{PREFIX}other", id="cut by a pager"),
        pytest.param(f"{lines.DUMP_HEADER}\n{lines.row()}\nlogin: root", id="a complete row"),
        pytest.param(f"{PREFIX}{lines.header()}\nTasks state (memory values in pages):", id="a complete header"),
    ],
)
def test_lines_that_are_whole_stay_apart(text: str) -> None:
    expected = [line.removeprefix(PREFIX) for line in text.split("\n")]
    assert unwrap(text) == expected


def test_a_line_feed_in_a_cgroups_name_makes_no_kill() -> None:
    # dmesg prints what follows a line feed below the message, further right.
    text = f"{PREFIX}{lines.summary(task_memcg='/a')[:-30]}\n               {lines.kill('init', 1)}"
    assert not any(text.startswith("Memory cgroup out of memory") for text in unwrap(text))
    assert unwrap(f"{PREFIX}Memory cgroup stats for /a:\n               anon 1") == [
        "Memory cgroup stats for /a:",
        "anon 1",
    ]


def test_another_programs_line_between_ends_a_broken_line() -> None:
    text = "Jun 20 03:23:46 h kernel: Out of memory: Killed\nJun 20 03:23:46 h app[1]: x\nprocess 5 (x) total-vm:4kB"
    assert unwrap(text) == ["Out of memory: Killed"]


@given(st.lists(st.sampled_from([*lines.report(), "", "file-rss:4kB", "0", PREFIX, "process 5 (x) total-vm:4kB"])))
def test_nothing_is_lost(texts: list[str]) -> None:
    squeezed = "".join("".join(texts).split())
    assert "".join("".join(unwrap("\n".join(texts))).split()) == squeezed.replace("".join(PREFIX.split()), "")
