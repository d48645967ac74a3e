"""Who may do what, and for how long: deny unless it is said."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from paddock.core import access
from paddock.core.access import Enrolment, Role, Token, digest, is_allowed, is_valid
from paddock.core.errors import Refused

T0 = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
TOKEN = Token(id="anna", role=Role.PERSON, digest="d", created=T0, expires=T0 + timedelta(days=1))
CODE = Enrolment(id="d", host="local", created=T0, expires=T0 + timedelta(hours=1))

ALLOWED = {
    Role.ANYONE: {Role.ANYONE},
    Role.AGENT: {Role.ANYONE, Role.AGENT},
    Role.LAB: {Role.ANYONE, Role.LAB},
    Role.PERSON: {Role.ANYONE, Role.PERSON},
    Role.OPERATOR: {Role.ANYONE, Role.LAB, Role.PERSON, Role.OPERATOR},
}


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("wants", list(Role))
def test_each_role_may_use_what_is_listed_for_it_and_nothing_else(role: Role, wants: Role) -> None:
    assert is_allowed(role, wants=wants) == (wants in ALLOWED[role])


def test_not_even_an_operator_is_an_agent() -> None:
    assert not is_allowed(Role.OPERATOR, wants=Role.AGENT)


def test_a_token_is_valid_until_its_end() -> None:
    assert is_valid(TOKEN, now=T0 + timedelta(hours=23))
    assert not is_valid(TOKEN, now=T0 + timedelta(days=1))


def test_a_token_without_an_end_is_valid_until_it_is_revoked() -> None:
    lasting = replace(TOKEN, expires=None)
    assert is_valid(lasting, now=T0 + timedelta(days=4000))
    assert not is_valid(replace(lasting, revoked=T0), now=T0)


def test_a_code_is_good_once() -> None:
    access.use(CODE, now=T0)
    with pytest.raises(Refused, match="this code was used before"):
        access.use(replace(CODE, used=T0), now=T0)


def test_a_code_is_good_for_its_time() -> None:
    with pytest.raises(Refused, match="this code is over"):
        access.use(CODE, now=T0 + timedelta(hours=1))


def test_secrets_are_kept_as_digests_that_differ() -> None:
    assert digest("a") != digest("b")
    assert len(digest("a")) == 64
