from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import ParseError
from collector.kube import items
from collector.kube.items import ListItems, WatchEvents

if TYPE_CHECKING:
    from collections.abc import Iterator

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=6), values, max_size=4)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def read_list(data: bytes, size: int) -> tuple[list[dict[str, object]], dict[str, object]]:
    reader = ListItems()
    found = [item for chunk in cut(data, size) for item in reader.feed(chunk)]
    return [*found, *reader.close()], reader.head


@given(st.lists(objects, max_size=5), st.integers(1, 40), st.sampled_from([None, 2]), st.booleans())
def test_a_list_is_the_same_however_it_is_cut(
    pods: list[dict[str, object]], size: int, indent: int | None, ascii_only: bool
) -> None:
    whole = {"kind": "PodList", "metadata": {"resourceVersion": "7", "remainingItemCount": 12}, "items": pods, "end": 1}
    data = json.dumps(whole, indent=indent, ensure_ascii=ascii_only).encode() + b"\n"
    del whole["items"]
    assert read_list(data, size) == (pods, whole)


@given(st.lists(objects, max_size=5), st.integers(1, 40))
def test_watch_events_are_the_same_however_they_are_cut(events: list[dict[str, object]], size: int) -> None:
    reader = WatchEvents()
    data = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    assert [event for chunk in cut(data, size) for event in reader.feed(chunk)] == events


@given(st.lists(objects, max_size=3), st.data())
def test_a_list_that_breaks_off_is_no_list(pods: list[dict[str, object]], data: st.DataObject) -> None:
    whole = json.dumps({"metadata": {}, "items": pods}).encode()
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ParseError):
        read_list(whole[:length], 16)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("<html>" + "Bad Gateway " * 100, id="a proxy's page"),
        pytest.param('{"items":["pod"]}', id="items that are no objects"),
        pytest.param('{"items":[{} {}]}' + " " * 300, id="no comma"),
        pytest.param("\udcff", id="no UTF-8"),
        pytest.param('{"items":[' + "[" * 100_000, id="nested too deep"),
        pytest.param('{"items":[{"a":' + "1" * 5000 + "}]}", id="a number without end"),
        pytest.param("", id="nothing"),
        pytest.param('{"kind":"PodList","items":[{"a":"' + "x" * 50, id="within a string"),
    ],
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        read_list(text.encode(errors="surrogateescape"), 1000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('{"metadata":{},"items":null}', [], id="null, as Go writes a nil slice"),
        pytest.param('{"metadata":{},"items":[ ]}', [], id="empty"),
        pytest.param('{"items":[{"a":1}],"metadata":{}}', [{"a": 1}], id="items first"),
    ],
)
def test_forms_of_a_list(text: str, expected: list[object]) -> None:
    assert read_list(text.encode(), 3)[0] == expected


@pytest.mark.parametrize("line", ["nonsense", "[1]", "[" * 100_000, "\udcff", '{"a":' + "1" * 5000 + "}"])
def test_a_line_that_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(ParseError, match="watch event"):
        list(WatchEvents().feed(line.encode(errors="surrogateescape") + b"\n"))


def test_objects_are_bounded() -> None:
    with pytest.raises(ParseError, match="more than 1000"):
        list(WatchEvents(limit=1000).feed(b"x" * 1001))
    with pytest.raises(ParseError, match="more than 1000"):
        list(ListItems(limit=1000).feed(b'{"items":[{"a":"' + b"x" * 1001))


def test_a_large_object_in_small_pieces_is_read_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'{"metadata":{},"items":[{"a":"' + b"x" * 300_000 + b'"}]}'
    read = 0
    decode = items._decode

    def counting(text: str, start: int) -> tuple[object, int]:
        nonlocal read
        read += len(text) - start
        return decode(text, start)

    monkeypatch.setattr(items, "_decode", counting)
    assert len(read_list(data, 100)[0]) == 1
    assert read < 4 * len(data)
