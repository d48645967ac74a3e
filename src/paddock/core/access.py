"""Who may do what: roles, tokens, enrolment codes, and the one place that decides."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from paddock.core.errors import Refused


class Role(StrEnum):
    """Who is asking. `person` may lend and cancel; `operator` may do everything."""

    ANYONE = "anyone"
    AGENT = "agent"
    LAB = "lab"
    PERSON = "person"
    OPERATOR = "operator"


_INCLUDES = {
    Role.ANYONE: frozenset({Role.ANYONE}),
    Role.AGENT: frozenset({Role.ANYONE, Role.AGENT}),
    Role.LAB: frozenset({Role.ANYONE, Role.LAB}),
    Role.PERSON: frozenset({Role.ANYONE, Role.PERSON}),
    Role.OPERATOR: frozenset({Role.ANYONE, Role.LAB, Role.PERSON, Role.OPERATOR}),
}


@dataclass(frozen=True, kw_only=True)
class Token:
    """A person's, lab's or operator's right to ask. Its id is its name; only a digest of the secret is kept."""

    id: str
    role: Role
    digest: str
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    version: int = 0


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """A code with which one agent may become known, once, for a limited time. Its id is the code's digest."""

    id: str
    host: str
    created: datetime
    expires: datetime
    used: datetime | None = None
    version: int = 0


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a request comes from, once its token was checked."""

    name: str
    role: Role


NOBODY = Identity(name="", role=Role.ANYONE)


def digest(secret: str) -> str:
    """How a secret is kept: secrets are random and long, so one round of SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_allowed(role: Role, *, wants: Role) -> bool:
    """Whether someone of `role` may use what is there for `wants`."""
    return wants in _INCLUDES[role]


def is_valid(token: Token, *, now: datetime) -> bool:
    return token.revoked is None and (token.expires is None or now < token.expires)


def use(enrolment: Enrolment, *, now: datetime) -> None:
    """Refuse a code that was used or is over."""
    if enrolment.used is not None:
        raise Refused("enrolment: this code was used before", hint="make a new one: paddock host add NAME")
    if now >= enrolment.expires:
        raise Refused("enrolment: this code is over", hint="make a new one: paddock host add NAME")
