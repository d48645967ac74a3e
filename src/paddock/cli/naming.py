"""What people type for a thing: its id, the beginning of one, or its name."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from paddock.cli.connection import every
from paddock.core.errors import Missing, Refused

if TYPE_CHECKING:
    from paddock.client import Client

_LOOKED_AT = 2000
"""How many of the newest are looked at for a name or a beginning."""


def choose(noun: str, typed: str, known: Iterable[tuple[str, Sequence[str]]]) -> str:
    """The id that `typed` means among (id, names): an id, else the one with that name, else with that beginning.

    Missing where there is none, Refused where there are several.
    """
    entries = list(known)
    if any(id == typed for id, _ in entries):
        return typed
    for found in (
        [id for id, names in entries if typed in names],
        [id for id, _ in entries if typed and id.startswith(typed)],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
            raise Refused(f"{noun} {typed}: it could be {shown}", hint="give more of the id")
    hint = f"paddock {_VERBS[noun]} list" if noun in _VERBS else ""
    raise Missing(f"{noun} {typed}: there is none", hint=hint)


_VERBS = {
    "lease": "lease",
    "environment": "env",
    "run": "run",
    "host": "host",
    "event": "event",
    "agent": "agent",
    "image": "image",
}


def _resolve(
    client: "Client",
    noun: str,
    typed: str,
    one: Callable[[str], Any],
    pages: Callable[[str | None], Any],
    names: Callable[[Any], Sequence[str]],
) -> Any:
    """The row that `typed` means; asked for by its id first, which is what programs give."""
    try:
        return client.send(one(typed))
    except Missing:
        rows = every(client, pages, _LOOKED_AT)
    except Refused:  # no id could look like that
        rows = every(client, pages, _LOOKED_AT)
    return client.send(one(choose(noun, typed, [(row.id, names(row)) for row in rows])))


def lease_of(client: "Client", typed: str) -> Any:
    from paddock.client import calls

    return _resolve(
        client,
        "lease",
        typed,
        calls.lease,
        lambda below: calls.leases(below=below, limit=500),
        lambda row: (row.holder,),
    )


def environment_of(client: "Client", typed: str) -> Any:
    """By id, or by the name of a pool that has one environment."""
    from paddock.client import calls

    return _resolve(
        client,
        "environment",
        typed,
        calls.environment,
        lambda below: calls.environments(below=below),
        lambda row: (row.pool,),
    )


def run_of(client: "Client", typed: str) -> Any:
    """By id, `CHANGE/JOB`, or the name of a job that has one run."""
    from paddock.client import calls

    return _resolve(
        client,
        "run",
        typed,
        calls.run,
        lambda below: calls.runs(below=below, limit=500),
        lambda row: (row.job, f"{row.number}/{row.job}", f"{row.number},{row.patchset}/{row.job}"),
    )


def event_of(client: "Client", typed: str) -> Any:
    from paddock.client import calls

    return _resolve(
        client, "event", typed, calls.event, lambda below: calls.events(below=below, limit=500), lambda row: ()
    )


def agent_of(client: "Client", typed: str) -> Any:
    """By id, or by the name of its host or machine."""
    from paddock.client import calls

    return _resolve(
        client, "agent", typed, calls.agent, lambda below: calls.agents(below=below), lambda row: (row.name,)
    )


def machine_of(client: "Client", typed: str, machine: str) -> Any:
    """An environment and one of its machines, each as it is typed. Refused while it has no agent."""
    row = environment_of(client, typed)
    names = [each.name for each in row.machines]
    try:
        name = choose("machine", machine, [(name, ()) for name in names])
    except Missing as exc:
        hint = f"it has {', '.join(names)}" if names else ""
        raise Missing(f"environment {row.id}: no machine {machine}", hint=hint) from exc
    found = next(each for each in row.machines if each.name == name)
    if not found.agent:
        raise Refused(f"machine {name}: it has no agent yet: its environment is {row.state}")
    return row, found


def image_of(client: "Client", typed: str) -> Any:
    """By name, or the beginning of one."""
    from paddock.client import calls

    rows = client.send(calls.images()).items
    name = choose("image", typed, [(row.name, ()) for row in rows])
    return next(row for row in rows if row.name == name)
