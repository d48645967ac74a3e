"""Saving: of what is held only the disks are kept, its machines are let go.

Effects: idempotent (orders commands that state an end; each order is in the transaction that moves the environment)
"""

from dataclasses import replace
from datetime import datetime

from paddock.core import environment as environments
from paddock.core import upkeep
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
            case Environment(state=environments.State.HELD, wants_saving=wants_saving):
                return wants_saving
            case Environment(has_saved=True) | Host():
                return True  # it is being saved, or was: another one may be waiting for that
            case Command(method=upkeep.SAVE, is_open=False):
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
        pool = self._means.configuration().pools.get(environment.pool)
        limited = pool is not None and pool.hold.space > 0
        return limited and tables.environments.count(pool=environment.pool, state=environments.State.SAVING) > 0

    def _go_on(self, tables: Tables, environment: Environment, *, now: datetime) -> datetime | None:
        commands = tables.commands.where(environment=environment.id, fence=environment.fence)
        match upkeep.progress(environment, upkeep.SAVE, commands, now=now):
            case upkeep.Ask(machines=names):
                most = self._most(tables, environment)
                if most == 0:
                    reason = f"pool {environment.pool} has no space left for saved disks"
                    _give_up(tables, environment, reason, now=now)
                    return None
                rest = {name: _params(environment, name, most) for name in names}
                ask(tables, self._means, environment, upkeep.SAVE, names, limit=VIRTUAL_LIMIT, now=now, rest=rest)
            case upkeep.Done(commands=done):
                keep(tables, environment, [_bytes(one) for one in done], now=now)
            case upkeep.GiveUp(reason=reason):
                _give_up(tables, environment, reason, now=now)
            case upkeep.Waiting(until=moment):
                return moment
        return None

    def _most(self, tables: Tables, environment: Environment) -> int | None:
        """Bytes that the disks of each of its machines may take; None where there is no limit."""
        pool = self._means.configuration().pools.get(environment.pool)
        if pool is None or not pool.hold.space:
            return None
        taken = sum(one.size.disk for one in saved_of(tables, environment.pool) if one.size is not None)
        return max(0, pool.hold.space - taken) // max(1, len(environment.machines))


def _params(environment: Environment, machine: str, most: int | None) -> dict[str, object]:
    limit = {} if most is None else {"most": most}
    return {"saved": saved_name(environment.id, machine), **limit}


def _give_up(tables: Tables, environment: Environment, reason: str, *, now: datetime) -> None:
    """It stays held, with all that it has."""
    held = environments.move(environment, environments.Signal.UNSAVED, now=now, reason=f"not saved: {reason}")
    move(tables, "environments", environment, held, environments.Signal.UNSAVED, now=now)


def saved_of(tables: Tables, pool: str) -> list[Environment]:
    """The environments of a pool of which only the disks are kept."""
    return tables.environments.where(pool=pool, state=environments.State.SAVED)


def begin(tables: Tables, environment: Environment, *, now: datetime) -> Environment:
    """From held on: its host may have copies of its disks from now on."""
    wanted = replace(environment, wants_saving=False, has_saved=True)
    saving = environments.move(wanted, environments.Signal.SAVE, now=now, reason=environment.reason)
    outdate(tables, saving, now=now)
    return move(tables, "environments", environment, saving, environments.Signal.SAVE, now=now, by=environment.held_by)


def keep(tables: Tables, environment: Environment, sizes: list[int], *, now: datetime) -> Environment:
    """Saved: memory and vcpus are free again, what the copies take stays booked."""
    freed = replace(environment, size=Size(disk=sum(sizes)))
    saved = environments.move(freed, environments.Signal.KEPT, now=now, reason=environment.reason)
    return move(tables, "environments", environment, saved, environments.Signal.KEPT, now=now)


def _bytes(command: Command) -> int:
    told = command.result.get("bytes")
    return told if isinstance(told, int) and not isinstance(told, bool) and told > 0 else 0
