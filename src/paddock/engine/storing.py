"""Storing: what images and templates take of hosts' disks, as their agents count it.

Effects: idempotent (rows alone, in the transaction that takes what an agent says)
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeGuard

from paddock.core.agent import Kind
from paddock.core.host import Host, Stored
from paddock.ports import Tables

_MOST = 1 << 62


def believe(tables: Tables, host: Host, told: object) -> Host:
    """What its agent said last, whatever it is: what cannot be understood changes nothing."""
    stored = _read(told)
    return host if stored is None or stored == host.stored else tables.hosts.swap(host, replace(host, stored=stored))


def heard(tables: Tables, agent: str, result: Mapping[str, object]) -> None:
    """A command ended on a host, and its agent counted anew: booked at once, before anything else is.

    Ends are heard in any order, and again after a restart of the agent: what was counted earlier changes nothing.
    """
    told = result.get("stored")
    stored = _read(told)
    known = tables.agents.find(agent) if stored is not None else None
    if stored is None or known is None or known.kind is not Kind.HOST:
        return
    if _is_over(stored, _read(known.facts.get("stored"))):
        return
    host = tables.hosts.find(known.host)
    if host is None or host.agent != agent:
        return
    if known.facts.get("stored") != told:
        # Its facts are believed again and again: they must not bring back what it said in hello.
        tables.agents.swap(known, replace(known, facts={**known.facts, "stored": told}))
    believe(tables, host, told)


def _is_over(stored: Stored, last: Stored | None) -> bool:
    """Whether it was counted before what was heard last: that is a hello, or what its own counter counted since."""
    return last is not None and (stored.counter != last.counter or stored.number < last.number)


def _read(told: object) -> Stored | None:
    if not isinstance(told, Mapping):
        return None
    images, templates = told.get("images"), told.get("templates")
    counter, number = told.get("counter", ""), told.get("number", 0)
    if not (_is_count(images) and _is_count(templates) and _is_count(number) and isinstance(counter, str)):
        return None
    return Stored(images=images, templates=templates, counter=counter, number=number)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST
