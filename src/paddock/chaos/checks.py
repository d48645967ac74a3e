"""What has to be true in the end: each check, with the first cases against it."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from paddock.chaos.giving import Given
from paddock.chaos.orders import UNCOUNTED, Kind, content
from paddock.wire.messages import Code

_SHOWN = 5
_REFUSALS = (Code.BUSY, Code.EXPIRED, Code.REFUSED, Code.STALE)
_MARK = re.compile(rb"\n?\[paddock: ")


@dataclass(frozen=True, kw_only=True)
class Check:
    """A sentence, how many cases were looked at, and what speaks against it: all of them are counted, some shown."""

    name: str
    looked_at: int
    against: int
    shown: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return self.against == 0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was counted, after everything was healed and had settled.

    `witness` is the victim's own count: how often each id has begun. `printed` says of each output that the server has
    what is wrong with it, `files` is what the victim has of those that were put. `said_again` are the ids that the
    proxy repeated by itself. `troubles` are the moments (begin, end) of acts after which a command may be interrupted.
    `left` names what should not be there.
    """

    given: Mapping[str, Given]
    witness: Mapping[str, int]
    unknown: frozenset[str]
    unsettled: Sequence[str]
    refused: Sequence[str]
    said_again: frozenset[str]
    printed: Mapping[str, str]
    files: Mapping[str, bytes]
    troubles: Sequence[tuple[float, float]]
    processes: Sequence[str]
    left: Sequence[str]


def checked(found: Evidence) -> list[Check]:
    """All checks, the important ones first."""
    given = found.given.values()
    return [
        _check("every id was executed at most once", len(found.given), _twice(found)),
        _check("every id has one final state, and keeps it", len(found.given), _unended(found)),
        _check("what is complete was executed, exactly once", _count(given, "complete"), _unproven(found)),
        _check("what was refused was not executed", _count(given, "failed"), _refused_and_run(found)),
        _check("nothing that was accepted was lost without a cause", len(found.given), _lost(found)),
        _check(
            "no byte of output is missing, none is invented",
            len(found.printed),
            (f"{id}: {why}" for id, why in found.printed.items() if why),
        ),
        _check("no file that was put is missing or half", len(found.files), _misput(found)),
        _check("nothing runs that should not", len(found.given), found.processes),
        _check("no file and no descriptor is left behind", len(found.given), found.left),
    ]


def _check(name: str, looked_at: int, against: Iterable[str]) -> Check:
    cases = list(against)
    return Check(name=name, looked_at=looked_at, against=len(cases), shown=tuple(cases[:_SHOWN]))


def states(given: Iterable[Given]) -> Counter[str]:
    """How many ended how: `complete`, `failed (busy)`, ..."""
    return Counter(_state(one) for one in given)


def _state(one: Given) -> str:
    if one.end is None:
        return "no end"
    return "complete" if one.end["state"] == "complete" else f"failed ({one.end['code']})"


def _count(given: Iterable[Given], state: str) -> int:
    return sum(1 for one in given if one.end is not None and one.end["state"] == state)


def _twice(found: Evidence) -> Iterator[str]:
    for id, count in found.witness.items():
        if count > 1:
            yield f"{id}: {count} times"
        if id not in found.given:
            yield f"{id}: executed, and never given"


def _unended(found: Evidence) -> Iterator[str]:
    yield from (f"{id}: not over" for id in found.unsettled)
    yield from (f"{id}: the server does not know it" for id in sorted(found.unknown))
    yield from found.refused
    for id, one in found.given.items():
        yield from (f"{id}: {change}" for change in one.changes)
        if one.end is None and id not in found.unsettled and id not in found.unknown:
            yield f"{id}: has no end"


def _unproven(found: Evidence) -> Iterator[str]:
    for id, one in found.given.items():
        if one.end is None or one.end["state"] != "complete" or not one.order.is_script:
            continue
        count = found.witness.get(id, 0)
        if count != 1 and not (count == 0 and one.end["exit"] == UNCOUNTED):
            yield f"{id}: complete with exit {one.end['exit']}, executed {count} times"
        elif count == 1 and one.order.kind in (Kind.LATE, Kind.CANCELLED):
            yield f"{id}: complete, though it sleeps for longer than it may"
        elif count == 1 and one.end["exit"] != one.order.exit:
            yield f"{id}: exit {one.end['exit']} instead of {one.order.exit}"


def _refused_and_run(found: Evidence) -> Iterator[str]:
    for id, one in found.given.items():
        # A refusal is recorded nowhere: who says the command again, which no server does, asks again.
        if id in found.said_again:
            continue
        if one.end is not None and one.end["code"] in _REFUSALS and found.witness.get(id, 0):
            yield f"{id}: {one.end['code']}, and executed: {one.end['message']}"


def _lost(found: Evidence) -> Iterator[str]:
    """Busy and expired were never accepted, the order's own ends are meant, after a trouble nobody knows."""
    for id, one in found.given.items():
        if one.end is None or one.end["state"] == "complete":
            continue
        code = one.end["code"]
        if code in (Code.BUSY, Code.EXPIRED) or code in one.order.may_fail_as:
            continue
        if code == Code.INTERRUPTED and any(_met(one, trouble) for trouble in found.troubles):
            continue
        yield f"{id} ({one.order.kind}): {code}: {one.end['message']}"


def _met(one: Given, trouble: tuple[float, float]) -> bool:
    begin, end = trouble
    return one.given <= end and (one.ended is None or begin <= one.ended)


def misprint(printed: bytes, one: Given, *, is_said_again: bool) -> str:
    """How what the server has of an output is not what it should be; empty if it is.

    `is_said_again`: the proxy has, by itself.
    """
    if one.end is None:
        return ""
    told = one.end["outputs"].get("out", 0)
    # Refused, then said again, it may run and print: but its end is the refusal, and the second one is nobody's.
    is_told = not (is_said_again and one.end["code"] in _REFUSALS)
    if is_told and len(printed) != told:
        return f"the server has {len(printed)} bytes, the agent told of {told}"
    pattern = one.order.pattern()
    dropped = one.end["result"].get("dropped", 0)
    if one.end["state"] == "complete" and not dropped:
        return "" if printed == pattern else f"{len(printed)} bytes that are not the {len(pattern)} of its pattern"
    if one.end["state"] == "complete" and len(printed) + dropped < len(pattern):
        return f"{len(printed)} bytes and {dropped} dropped are less than {len(pattern)}"
    if pattern.startswith(printed):
        return ""
    # A full disk has cost some of it: up to where we say so, all of it is there.
    said = next((at.start() for at in _MARK.finditer(printed) if pattern.startswith(printed[: at.start()])), None)
    return "" if said is not None else f"{len(printed)} bytes that are not the beginning of its pattern"


def _misput(found: Evidence) -> Iterator[str]:
    for id, one in found.given.items():
        if one.order.kind is not Kind.PUTS or one.end is None:
            continue
        data = found.files.get(id)
        if one.end["state"] == "complete" and data is None:
            yield f"{id}: complete, and the file is not there"
        if data is not None and data != content(id):
            yield f"{id}: the file holds {len(data)} other bytes"
