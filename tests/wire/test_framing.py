"""What may stand on the wire, and how a stream of bytes is cut into lines."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.wire.framing import DEPTH_LIMIT, MESSAGE_LIMIT, Lines, Malformed, dump, load, size, too_deep

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def nested(levels: int) -> str:
    """An object of so many levels, itself included."""
    return '{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def padded(length: int) -> str:
    return '{"a":"' + "x" * (length - 8) + '"}'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("{} {}", "not JSON"),
        ("\ufeff{}", "not JSON"),
        ('{"a":"\n"}', "not JSON"),
        ("[]", "not an object"),
        ("null", "not an object"),
        ('"text"', "not an object"),
        ('{"a":1,"a":1}', "the key 'a' stands twice"),
        ('{"b":{"a":1,"\\u0061":2}}', "the key 'a' stands twice"),
        ('{"a":NaN}', "NaN is not JSON"),
        ('{"a":Infinity}', "Infinity is not JSON"),
        ('{"a":-Infinity}', "-Infinity is not JSON"),
        ('{"a":1e999}', "a number is out of range"),
        ('{"a":-1e999}', "a number is out of range"),
        ('{"a":' + "9" * 5000 + "}", "a number is too long"),
        ('{"a":"\\ud800"}', "a lone surrogate"),
        ('{"\\uDFFF":1}', "a lone surrogate"),
        ('{"a":"\\udc00\\ud800"}', "a lone surrogate"),
        ('{"a":"\ud800"}', "invalid UTF-8 at character 6"),
        (b'{"a":"\xff"}', "invalid UTF-8 at byte 6"),
        (b'{"a":"\xed\xa0\x80"}', "invalid UTF-8 at byte 6"),
        (b'{"a":"\xc0\x80"}', "invalid UTF-8 at byte 6"),
        (nested(DEPTH_LIMIT + 1), "more than 64 levels"),
        ('{"a":' * 200_000, "more than 64 levels"),
        ("[" * MESSAGE_LIMIT, "more than 64 levels"),
        (padded(MESSAGE_LIMIT + 1), f"{MESSAGE_LIMIT + 1} bytes"),
        (padded(MESSAGE_LIMIT + 1).encode(), f"{MESSAGE_LIMIT + 1} bytes"),
        ('{"a":"' + "é" * (MESSAGE_LIMIT // 2) + '"}', f"{MESSAGE_LIMIT + 8} bytes"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_message_is_refused_with_its_own_words(text: str | bytes, why: str) -> None:
    with pytest.raises(Malformed, match=r"^message: ") as refusal:
        load(text)
    assert why in refusal.value.why


@pytest.mark.parametrize("text", [padded(MESSAGE_LIMIT), padded(MESSAGE_LIMIT).encode(), nested(DEPTH_LIMIT)], ids=len)
def test_the_limits_themselves_are_allowed(text: str | bytes) -> None:
    assert "a" in load(text)


def test_brackets_in_strings_are_not_levels() -> None:
    text = json.dumps({"a": '[{"\\' * 1000, "b": ["[" * 100, '\\"[' * 100]})
    assert load(text)["a"] == '[{"\\' * 1000


def test_many_brackets_side_by_side_are_not_levels() -> None:
    assert len(load(json.dumps({"times": [[n, "x"] for n in range(10_000)]}))["times"]) == 10_000


def test_an_escaped_pair_of_surrogates_is_one_character() -> None:
    assert load('{"a":"\\ud83d\\ude00"}') == {"a": "😀"}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"a": float("nan")}, "not JSON"),
        ({"a": float("inf")}, "not JSON"),
        ({"a": "\ud800"}, "a lone surrogate"),
        ({"a": b"bytes"}, "not JSON"),
        ({"a": "x" * MESSAGE_LIMIT}, "bytes, the limit is"),
        (json.loads(nested(DEPTH_LIMIT + 1)), "more than 64 levels"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_nothing_is_written_that_the_other_side_would_refuse(value: dict, why: str) -> None:
    with pytest.raises(Malformed) as refusal:
        dump(value)
    assert why in refusal.value.why


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_what_is_written_is_one_line_and_reads_back_equal(value: dict) -> None:
    text = dump(value)
    assert "\n" not in text
    assert load(text) == value
    assert load(text.encode()) == value
    assert size(text) == len(text.encode())


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0d8 \n1e-N', max_size=60))
def test_garbage_is_refused_and_never_crashes(text: str | bytes) -> None:
    try:
        value = load(text)
    except Malformed:
        return
    assert value == json.loads(text)


@settings(max_examples=80, deadline=None)
@given(JSON, st.integers(0, 70))
def test_depth_is_counted_as_the_parser_would(value: object, levels: int) -> None:
    def depth(found: object) -> int:
        if isinstance(found, dict):
            return 1 + max(map(depth, found.values()), default=0)
        return 1 + max(map(depth, found), default=0) if isinstance(found, list) else 0

    for _ in range(levels):
        value = [value]
    assert too_deep(json.dumps(value)) == (depth(value) > DEPTH_LIMIT)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.binary(max_size=8).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.data())
def test_a_stream_cut_anywhere_gives_the_same_lines(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter = Lines(limit=8)
    found: list[bytes] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:cut])
        stream = stream[cut:]
    assert found == [line for line in lines if line]


def test_half_a_line_is_kept_until_its_end_comes() -> None:
    lines = Lines()
    assert lines.feed(b'{"a"') == []
    assert lines.feed(b":1}") == []
    assert lines.feed(b"\nnext") == [b'{"a":1}']


def test_a_line_of_the_limit_passes_and_one_byte_more_is_refused() -> None:
    assert Lines(limit=4).feed(b"1234\n") == [b"1234"]
    with pytest.raises(Malformed, match="line: longer than 4 bytes"):
        Lines(limit=4).feed(b"12345\n")
    with pytest.raises(Malformed):
        Lines(limit=4).feed(b"12345")


def test_lines_before_one_that_is_too_long_are_handed_out_first() -> None:
    lines = Lines(limit=4)
    assert lines.feed(b"1\n2\n12345\n3\n") == [b"1", b"2"]
    for _ in range(2):
        with pytest.raises(Malformed):
            lines.feed(b"")


def test_a_line_without_end_takes_bounded_memory() -> None:
    lines = Lines(limit=100, serial=True)
    for _ in range(1000):
        assert lines.feed(b"x" * 1000) == []
        assert len(lines._rest) <= 100
    assert lines.feed(b"\n\nhello\n") == [b"", b"hello"]


def test_a_refused_connection_keeps_nothing() -> None:
    lines = Lines(limit=4)
    for _ in range(3):
        with pytest.raises(Malformed):
            lines.feed(b"x" * 100)
    assert not lines._rest


def test_a_serial_line_says_nothing_before_its_first_session() -> None:
    lines = Lines(serial=True)
    assert lines.feed(b'noise\nhalf a mess{"a') == []
    assert lines.feed(b"\n") == []
    assert lines.feed(b"\n{}\n") == [b"", b"{}"]


def test_a_serial_session_throws_away_what_came_before_it() -> None:
    lines = Lines(serial=True)
    assert lines.feed(b"\n1\n2\nhalf\n\n3\n") == [b"", b"3"]
    assert lines.feed(b"4\n") == [b"4"]


def test_resync_waits_for_the_next_session() -> None:
    lines = Lines(serial=True)
    assert lines.feed(b"\n1\n") == [b"", b"1"]
    lines.resync()
    assert lines.feed(b"2\nhalf") == []
    assert lines.feed(b"\n\n3\n") == [b"", b"3"]


def test_a_serial_line_goes_on_with_the_session_after_a_line_too_long() -> None:
    lines = Lines(limit=4, serial=True)
    assert lines.feed(b"\n1\n") == [b"", b"1"]
    with pytest.raises(Malformed):
        lines.feed(b"123456789")
    assert lines.feed(b"123\n2\n") == []
    assert lines.feed(b"\n3\n") == [b"", b"3"]


def test_nothing_fed_is_lost_when_a_held_back_refusal_is_raised() -> None:
    lines = Lines(limit=4, serial=True)
    assert lines.feed(b"\n1\n12345\n") == [b"", b"1"]
    with pytest.raises(Malformed):
        lines.feed(b"\n2\n")
    assert lines.feed(b"") == [b"", b"2"]
