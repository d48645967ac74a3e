"""What an answer means."""

import httpx
import pytest

from paddock.client import NotAllowed, Unreachable, answers, calls
from paddock.core.errors import Broken, Conflict, Missing, PaddockError, Refused, Stale
from paddock.wire.shapes import Whoami

REQUEST = httpx.Request("GET", "http://127.0.0.1:1/api/v1/whoami")


def answer(status: int, **rest: object) -> httpx.Response:
    return httpx.Response(status, request=REQUEST, **rest)  # type: ignore[arg-type]


def test_a_success_is_read_as_the_calls_shape() -> None:
    told = answers.read(calls.whoami(), answer(200, json={"name": "anna", "role": "person", "later": 1}))
    assert told == Whoami(name="anna", role="person")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("bad_input", Refused),
        ("no_token", NotAllowed),
        ("not_allowed", NotAllowed),
        ("missing", Missing),
        ("refused", Refused),
        ("conflict", Conflict),
        ("stale", Stale),
        ("broken", Broken),
        ("a_word_of_tomorrow", Broken),
    ],
)
def test_each_code_becomes_its_error_with_the_servers_words(code: str, kind: type[PaddockError]) -> None:
    body = {"error": {"code": code, "message": "lease 1: no", "hint": "ask again"}}
    with pytest.raises(kind) as caught:
        answers.read(calls.whoami(), answer(409, json=body))
    assert (caught.value.message, caught.value.hint) == ("lease 1: no", "ask again")


def test_a_proxy_without_a_server_behind_it_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="answers 502"):
        answers.read(calls.whoami(), answer(502, text="<h1>Bad Gateway</h1>"))


@pytest.mark.parametrize("status", [200, 404, 500])
def test_what_is_no_paddock_is_broken_and_named(status: int) -> None:
    with pytest.raises(Broken) as caught:
        answers.read(calls.whoami(), answer(status, text="<html>"))
    assert "Paddock server?" in caught.value.hint


def test_an_answer_nested_beyond_reason_is_broken_not_a_crash() -> None:
    with pytest.raises(Broken):
        answers.read(calls.whoami(), answer(200, content=b"[" * 100_000))


def test_a_field_of_another_type_is_named() -> None:
    with pytest.raises(Broken, match=r"answer\.role"):
        answers.read(calls.whoami(), answer(200, json={"name": "anna", "role": 7}))
