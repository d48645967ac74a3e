"""Saving: of what is held only the disks are kept, its machines are let go.

First every machine goes off and says what its disks take; none of them is put aside before it is known that all may be.

Effects: idempotent (orders commands that state an end; each order is in the transaction that moves the environment)
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from paddock.core import environment as environments
from paddock.core import upkeep
from paddock.core.capacity import spell
from paddock.core.command import Command
from paddock.core.environment import Environment
from paddock.core.host import Host
from paddock.core.machine import Size
from paddock.engine.building import VIRTUAL_LIMIT, ask
from paddock.engine.loop import earliest
from paddock.engine.means import Means, move
from paddock.engine.ordering import outdate
from paddock.engine.specifying import saved_name
from paddock.hands import faults
from paddock.ports import Tables, Touched


class Saving:
    """The stage from held to saved, or back to held with the reason."""

    name = "saving"

    def __init__(self, means: Means) -> None:
        self._means = means

    def wakes(self, touched: Touched) -> bool:
        match touched.row:
            case Environment(state=environments.State.HELD, wants_saving=True) | Host():
                return True
            case Environment(state=state, pool=pool):
                return state in _OVER and self._is_limited(pool)  # another one may have waited until it was saved
            case Command(method=upkeep.WEIGH | upkeep.SAVE, is_open=False):
                return True
            case _:
                return False

    async def step(self, now: datetime) -> datetime | None:
        again = await self._means.store.write(lambda tables: self._pass(tables, now))
        faults.at("saving.ordered")
        return again

    def _pass(self, tables: Tables, now: datetime) -> datetime | None:
        for environment in tables.environments.where(state=environments.State.HELD, wants_saving=True):
            if not self._is_awaited(tables, environment):
                begin(tables, environment, now=now)
        saving = tables.environments.where(state=environments.State.SAVING)
        return earliest(*(self._go_on(tables, one, now=now) for one in saving))

    def _is_awaited(self, tables: Tables, environment: Environment) -> bool:
        """Whether another one is being saved, of a pool whose space is limited: what is left is known after that."""
        return (
            self._is_limited(environment.pool)
            and tables.environments.count(pool=environment.pool, state=environments.State.SAVING) > 0
        )

    def _is_limited(self, pool: str) -> bool:
        configured = self._means.configuration().pools.get(pool)
        return configured is not None and configured.hold.space > 0

    def _go_on(self, tables: Tables, environment: Environment, *, now: datetime) -> datetime | None:
        commands = tables.commands.where(environment=environment.id, fence=environment.fence)
        method = upkeep.WEIGH
        found = upkeep.progress(environment, method, commands, now=now)
        if isinstance(found, upkeep.Done):
            if not any(one.method == upkeep.SAVE for one in commands):
                if reason := self._lack(tables, environment, found.commands):
                    _give_up(tables, environment, reason, now=now)
                    return None
                # Its host may have copies of its disks from now on.
                environment = tables.environments.swap(environment, replace(environment, has_saved=True))
            method = upkeep.SAVE
            found = upkeep.progress(environment, method, commands, now=now)
        match found:
            case upkeep.Ask(machines=names):
                if method == upkeep.WEIGH and self._left(tables, environment) == 0:
                    reason = f"pool {environment.pool} has no space left for saved disks"
                    _give_up(tables, environment, reason, now=now)
                    return None
                rest = {name: {"saved": saved_name(environment.id, name)} for name in names}
                ask(tables, self._means, environment, method, names, limit=VIRTUAL_LIMIT, now=now, rest=rest)
            case upkeep.Done(commands=done):
                keep(tables, environment, _bytes(done), now=now)
            case upkeep.GiveUp(reason=reason):
                _give_up(tables, environment, reason, now=now)
            case upkeep.Waiting(until=moment):
                return moment
        return None

    def _lack(self, tables: Tables, environment: Environment, weighed: Sequence[Command]) -> str:
        """Why its disks, as they were weighed, are not kept; empty where there is space for all of them."""
        left, wanted = self._left(tables, environment), _bytes(weighed)
        if left is None or wanted <= left:
            return ""
        space = f"pool {environment.pool} has {spell(left)} left for saved disks"
        return f"its disks take {spell(wanted)}, and {space}"

    def _left(self, tables: Tables, environment: Environment) -> int | None:
        """Bytes that the disks of its machines may take together; None where there is no limit."""
        pool = self._means.configuration().pools.get(environment.pool)
        if pool is None or not pool.hold.space:
            return None
        others = tables.environments.where(pool=environment.pool, state=sorted(environments.LIVE))
        taken = sum(_kept(one) for one in others if one.id != environment.id)
        return max(0, pool.hold.space - taken)


_OVER = frozenset(
    {
        environments.State.HELD,
        environments.State.SAVED,
        environments.State.DIRTY,
        environments.State.BROKEN,
        environments.State.QUARANTINED,
    }
)
"""Where one may come to that was being saved."""


def _give_up(tables: Tables, environment: Environment, reason: str, *, now: datetime) -> None:
    """It stays held, with all that it has: its machines are off, and may be switched on again."""
    held = environments.move(environment, environments.Signal.UNSAVED, now=now, reason=f"not saved: {reason}")
    move(tables, "environments", environment, held, environments.Signal.UNSAVED, now=now)


def _kept(environment: Environment) -> int:
    """Bytes that copies of its disks take or may come to take: those of one that is given up may wait for its forks."""
    return environment.size.disk if environment.has_saved and environment.size is not None else 0


def begin(tables: Tables, environment: Environment, *, now: datetime) -> Environment:
    """Nobody has it from now on, until it is saved or held again."""
    wanted = replace(environment, wants_saving=False)
    saving = environments.move(wanted, environments.Signal.SAVE, now=now, reason=environment.reason)
    outdate(tables, saving, now=now)
    return move(tables, "environments", environment, saving, environments.Signal.SAVE, now=now, by=environment.held_by)


def keep(tables: Tables, environment: Environment, taken: int, *, now: datetime) -> Environment:
    """Saved: memory and vcpus are free again, what the copies take stays booked."""
    freed = replace(environment, size=Size(disk=taken))
    saved = environments.move(freed, environments.Signal.KEPT, now=now, reason=environment.reason)
    return move(tables, "environments", environment, saved, environments.Signal.KEPT, now=now)


def _bytes(commands: Sequence[Command]) -> int:
    """What the disks of all take, as their host told."""
    told = [one.result.get("bytes") for one in commands]
    return sum(one for one in told if isinstance(one, int) and not isinstance(one, bool) and one > 0)
