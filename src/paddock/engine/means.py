"""What every stage works with: ports, configuration, and the ways to move a row.

Effects: none
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from paddock.core import command as commands
from paddock.core import history
from paddock.core.command import Command
from paddock.core.configuration import Configuration
from paddock.core.errors import Missing
from paddock.core.job import Phase
from paddock.ports import Archive, Chance, Clock, Forge, Links, Row, Rows, Store, Tables

R = TypeVar("R", bound=Row)


@dataclass(frozen=True, kw_only=True)
class Means:
    """Everything that a stage may touch."""

    store: Store
    archive: Archive
    clock: Clock
    chance: Chance
    links: Links
    configuration: Callable[[], Configuration]
    forges: Mapping[str, Forge] = field(default_factory=dict)


def need(rows: Rows[R], id: str, noun: str) -> R:
    """The row, or `Missing` in words."""
    row = rows.find(id)
    if row is None:
        raise Missing(f"{noun} {id}: there is none", hint=f"paddock {noun} list")
    return row


def move(
    tables: Tables,
    noun: str,
    old: Any,
    new: R,
    signal: str,
    *,
    now: datetime,
    by: str = "",
    note: str = "",
) -> R:
    """Save a row that stepped along its lifecycle, and the transition with it."""
    rows: Rows[R] = getattr(tables, noun)
    stored = rows.swap(old, new)
    record(tables, noun, old, new, signal, now=now, by=by, note=note)
    return stored


def record(
    tables: Tables, noun: str, old: Any, new: Any, signal: str, *, now: datetime, by: str = "", note: str = ""
) -> None:
    """Write down one transition; for rows that make several before they are saved once."""
    tables.history.add(
        history.Transition(
            noun=noun,
            id=new.id,
            at=now,
            before=old.state.value if old is not None else "",
            after=new.state.value,
            signal=str(signal),
            fence=getattr(new, "fence", 0),
            by=by,
            note=note or getattr(new, "reason", ""),
        )
    )


def order(
    tables: Tables,
    means: Means,
    agent: str,
    method: str,
    params: Mapping[str, object],
    *,
    now: datetime,
    environment: str = "",
    fence: int = 0,
    run: str = "",
    phase: Phase | None = None,
    step: int = 0,
    machine: str = "",
    target: str = "",
    background: bool = False,
    archive: str = "",
    id: str = "",
    by: str = "",
) -> Command:
    """Queue a command for an agent, under the next seq of that agent. It is sent once this transaction is durable.

    Its id is made here, unless whoever ordered it chose one.
    """
    row = need(tables.agents, agent, "agent")
    row = tables.agents.swap(row, replace(row, seq=row.seq + 1))
    full = dict(params)
    if environment:
        full |= {"environment": environment, "fence": fence}
    return tables.commands.add(
        Command(
            id=id or means.chance.name(f"{means.store.birth}-"),
            agent=agent,
            seq=row.seq,
            method=method,
            asked=now,
            params=full,
            environment=environment,
            fence=fence,
            run=run,
            phase=phase,
            step=step,
            machine=machine,
            target=target,
            background=background,
            archive=archive,
            by=by,
        )
    )


def fail(tables: Tables, command: Command, code: str, message: str, *, now: datetime) -> Command:
    """A command that will not be answered any more, or whose answer nobody takes."""
    over = replace(
        command,
        state=commands.LIFECYCLE.step(command.state, commands.Signal.FAIL),
        code=code,
        message=message,
        ended=now,
    )
    return tables.commands.swap(command, over)
