"""The four shapes, read and written."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.wire.messages import (
    LARGEST_INTEGER,
    MEANINGS,
    Code,
    Command,
    Failure,
    Fatal,
    Malformed,
    Success,
    digest,
    encode,
    parse,
)

NAMES = st.text(min_size=1, max_size=200).filter(str.isprintable)
OBJECTS = st.dictionaries(st.text(max_size=5), st.integers(0, 9) | st.text(max_size=5) | st.none(), max_size=3)
COUNTS = st.none() | st.integers(0, LARGEST_INTEGER)
MESSAGES = (
    st.builds(Command, id=NAMES, method=NAMES, params=OBJECTS, seq=COUNTS, epoch=COUNTS)
    | st.builds(Success, id=NAMES, result=OBJECTS)
    | st.builds(Failure, id=NAMES, code=st.sampled_from(Code), msg=st.text(), details=st.just({"retry_after": 3}))
    | st.builds(Fatal, text=st.text())
)


@settings(max_examples=80, deadline=None)
@given(MESSAGES)
def test_every_message_reads_back_equal_from_one_line(message: object) -> None:
    text = encode(message)
    assert "\n" not in text
    assert parse(text) == message
    assert parse(text.encode()) == message


@settings(max_examples=40, deadline=None)
@given(MESSAGES, st.data())
def test_half_a_message_is_refused(message: object, data: st.DataObject) -> None:
    text = encode(message).encode()
    with pytest.raises(Malformed):
        parse(text[: data.draw(st.integers(0, len(text) - 1))])


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({}, "message"),
        ({"method": "ping", "result": {}}, "message"),
        ({"method": "ping", "fatal_error": "x"}, "message"),
        ({"method": "ping", "params": {}, "id": "a", "version": "2"}, "message.version"),
        ({"method": "ping", "params": {}, "id": "a", "version": 1}, "message.version"),
        ({"method": "ping", "params": {}, "id": "a", "version": None}, "message.version"),
        ({"method": "ping", "params": {}}, "message.id"),
        ({"method": "ping", "params": {}, "id": ""}, "message.id"),
        ({"method": "ping", "params": {}, "id": 7}, "message.id"),
        ({"method": "ping", "params": {}, "id": "x" * 201}, "message.id"),
        ({"method": "ping", "params": {}, "id": "a\0"}, "message.id"),
        ({"method": "ping", "params": {}, "id": "\x1b[2J"}, "message.id"),
        ({"method": 7, "params": {}, "id": "a"}, "message.method"),
        ({"method": "ping\n", "params": {}, "id": "a"}, "message.method"),
        ({"method": "ping", "params": [], "id": "a"}, "message.params"),
        ({"method": "ping", "id": "a"}, "message.params"),
        ({"method": "ping", "params": {}, "id": "a", "seq": -1}, "message.seq"),
        ({"method": "ping", "params": {}, "id": "a", "seq": True}, "message.seq"),
        ({"method": "ping", "params": {}, "id": "a", "seq": 1.0}, "message.seq"),
        ({"method": "ping", "params": {}, "id": "a", "epoch": 2**63}, "message.epoch"),
        ({"result": [], "id": "a"}, "message.result"),
        ({"error": "no", "id": "a"}, "message.error"),
        ({"error": {"code": "busy"}, "id": "a"}, "message.error.msg"),
        ({"fatal_error": {}}, "message.fatal_error"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(fields: dict, where: str) -> None:
    with pytest.raises(Malformed) as refusal:
        parse(json.dumps({"version": "1", **fields}))
    assert refusal.value.where == where


def test_unknown_fields_are_ignored() -> None:
    text = '{"version":"1","id":"a","method":"ping","params":{},"color":"blue"}'
    assert parse(text) == Command(id="a", method="ping", params={})


@pytest.mark.parametrize("code", ["a_newer_word", None, 7])
def test_an_error_with_a_strange_code_failed(code: object) -> None:
    text = json.dumps({"version": "1", "id": "a", "error": {"msg": "no", "code": code}})
    assert parse(text) == Failure(id="a", code=Code.FAILED, msg="no")


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Code)
    assert list(Code) == (
        "unknown_method bad_params refused stale busy interrupted cancelled expired timed_out failed unbuilt".split()
    )


def test_the_digest_names_what_is_asked_and_not_when_or_by_whom() -> None:
    asked = Command(id="a", method="script.run", params={"run": "true", "limit": 3}, seq=1, epoch=1)
    again = Command(id="b", method="script.run", params={"limit": 3, "run": "true"}, seq=9, epoch=4)
    other = Command(id="a", method="script.run", params={"run": "false", "limit": 3}, seq=1, epoch=1)
    renamed = Command(id="a", method="script.ran", params=asked.params, seq=1, epoch=1)
    assert digest(asked) == digest(again) == digest(parse(encode(asked)))
    assert len({digest(asked), digest(other), digest(renamed)}) == 3
    assert len(digest(asked)) == 64


def test_params_and_results_stay_out_of_logs() -> None:
    assert "s3cret" not in repr(Command(id="a", method="hello", params={"token": "s3cret"}))
    assert "s3cret" not in repr(Success(id="a", result={"token": "s3cret"}))
