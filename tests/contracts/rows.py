"""Rows to store: the smallest that say something."""

from datetime import UTC, datetime, timedelta
from typing import Any

from paddock.core.environment import Environment
from paddock.core.event import Event, Kind
from paddock.core.history import Transition
from paddock.core.host import Host
from paddock.core.lease import Lease

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def host(id: str, **rest: Any) -> Host:
    return Host(**{"id": id, "skills": ("local",), "since": NOW, **rest})


def event(id: str, position: int = 0, **rest: Any) -> Event:
    given = {"forge": "review", "session": "s1", "heard": NOW, "kind": Kind.COMMENT_ADDED, "type": "comment-added"}
    return Event(**{"id": id, "position": position, "raw": "{}", **given, **rest})


def environment(id: str, **rest: Any) -> Environment:
    return Environment(**{"id": id, "pool": "two", "host": "local", "since": NOW, **rest})


def lease(id: str, **rest: Any) -> Lease:
    return Lease(**{"id": id, "pool": "two", "holder": "anna", "asked": NOW, "ttl": timedelta(minutes=5), **rest})


def transition(id: str, *, noun: str = "leases", minutes: int = 0, **rest: Any) -> Transition:
    at = NOW + timedelta(minutes=minutes)
    return Transition(**{"noun": noun, "id": id, "at": at, "before": "a", "after": "b", "signal": "s", **rest})
