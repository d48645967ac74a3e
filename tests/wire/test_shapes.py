"""What the HTTP API says is written plainly and read strictly."""

import json

import pytest

from paddock.core.errors import Broken
from paddock.wire.shapes import Environment, Failure, Lease, Machine, Problem, Report, plain, read

LEASE = Lease(
    id="l1",
    pool="two",
    holder="anna",
    owner="anna",
    run="",
    state="granted",
    environment="two-1",
    fence=3,
    ttl=60.0,
    asked="2026-01-31T09:42:00.125Z",
    granted=None,
    deadline=None,
    ended=None,
    reason="",
)
ENVIRONMENT = Environment(
    id="two-1",
    pool="two",
    host="local",
    state="ready",
    since="2026-01-31T09:42:00.125Z",
    fence=3,
    lease="",
    machines=(Machine(name="one", agent="a1", address="127.0.0.2"),),
    held_by="",
    hold_until=None,
    retiring=False,
    reason="",
    created=None,
)


def there_and_back(shape: object) -> object:
    return read(type(shape), json.loads(json.dumps(plain(shape))))


def test_what_is_written_is_read_as_it_was() -> None:
    report = Report(
        round="7",
        forge="g",
        message="m",
        labels={"Verified": 1},
        state="sent",
        created=None,
        sent=None,
        attempts=1,
        reason="",
    )
    for shape in (LEASE, ENVIRONMENT, report, Failure(error=Problem(code="stale", message="m"))):
        assert there_and_back(shape) == shape


def test_a_later_server_may_say_more() -> None:
    assert read(Problem, {"code": "stale", "message": "m", "since": 4}) == Problem(code="stale", message="m")


def test_a_whole_number_of_seconds_is_a_duration() -> None:
    assert read(Lease, {**plain(LEASE), "ttl": 60}).ttl == 60.0  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "answer: Environment is an object, not list"),
        ({}, "answer.id: it is missing"),
        ({"id": 7}, "answer.id: it is str, not int"),
        ({**plain(ENVIRONMENT), "fence": True}, "answer.fence: it is int, not bool"),  # type: ignore[dict-item]
        ({**plain(ENVIRONMENT), "machines": {}}, "answer.machines: it is a list, not dict"),  # type: ignore[dict-item]
        ({**plain(ENVIRONMENT), "machines": [{}]}, "answer.machines[0].name: it is missing"),  # type: ignore[dict-item]
    ],
)
def test_what_does_not_fit_is_named_by_its_path(value: object, said: str) -> None:
    with pytest.raises(Broken) as caught:
        read(Environment, value)
    assert caught.value.message == said
