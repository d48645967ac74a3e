"""Cleaning: what was lent is cleaned under a higher fence, proven, and only then ready.

Effects: idempotent (orders commands that state an end; each order is in the transaction that moves the environment)
"""

from dataclasses import replace
from datetime import datetime

from paddock.core import environment as environments
from paddock.core import host as hosts
from paddock.core import upkeep
from paddock.core.command import Command
from paddock.core.environment import Environment, Machine, Reset
from paddock.core.host import Host
from paddock.engine import imaging, leasing
from paddock.engine.alerting import end_all
from paddock.engine.building import VIRTUAL_LIMIT, as_built, ask, images_of
from paddock.engine.loop import earliest
from paddock.engine.means import Means, move
from paddock.engine.ordering import outdate
from paddock.engine.specifying import fits, saved_name
from paddock.engine.stocking import gives_way
from paddock.hands import faults
from paddock.ports import Tables, Touched

LIMIT = 60
"""Seconds that cleaning or destroying one machine may take."""

_OURS = (environments.State.DIRTY, environments.State.CLEANING, environments.State.BROKEN)


class Cleaning:
    """The stage from dirty to ready, or gone, or quarantined with the reason."""

    name = "cleaning"

    def __init__(self, means: Means) -> None:
        self._means = means

    def wakes(self, touched: Touched) -> bool:
        match touched.row:
            case Environment(state=environments.State.GONE, fork_of=origin):
                return bool(origin)  # who saved the disks that it was made of may be waiting
            case Environment(state=state):
                return state in _OURS
            case Command(method=upkeep.CLEAN | upkeep.DESTROY | upkeep.FORGET, is_open=False) | Host():
                return True
            case _:
                return False

    async def step(self, now: datetime) -> datetime | None:
        again = await self._means.store.write(lambda tables: self._pass(tables, now))
        faults.at("cleaning.ordered")
        return again

    def _pass(self, tables: Tables, now: datetime) -> datetime | None:
        again = []
        for environment in tables.environments.where(state=list(_OURS)):
            if environment.state is environments.State.BROKEN:
                _mend(tables, environment, now=now)
            elif environment.state is environments.State.DIRTY:
                again.append(self._begin(tables, environment, now=now))
            else:
                again.append(self._go_on(tables, environment, now=now))
        return earliest(*again)

    def _begin(self, tables: Tables, environment: Environment, *, now: datetime) -> datetime | None:
        # One that was being saved may have lost machines to that.
        configuration = self._means.configuration()
        is_last = (
            environment.retiring
            or environment.has_saved
            or not fits(tables, configuration, environment)
            or gives_way(tables, configuration, environment)
        )
        last = replace(environment, retiring=is_last)
        cleaning = environments.move(last, environments.Signal.CLEAN, now=now)
        cleaning = move(tables, "environments", environment, cleaning, environments.Signal.CLEAN, now=now)
        return self._go_on(tables, cleaning, now=now)

    def _go_on(self, tables: Tables, environment: Environment, *, now: datetime) -> datetime | None:
        """Take one cleaning a step on; when to look again without being woken."""
        if environment.reset is Reset.NONE and not environment.retiring:
            finish(tables, environment, environment.machines, now=now)
            return None
        method = upkeep.DESTROY if environment.retiring else upkeep.CLEAN
        commands = tables.commands.where(environment=environment.id, fence=environment.fence)
        found = upkeep.progress(environment, method, commands, now=now)
        if isinstance(found, upkeep.Done) and environment.has_saved:
            if tables.environments.count(fork_of=environment.id, state=sorted(environments.LIVE)):
                return None  # what is made of its disks may need them
            method = upkeep.FORGET
            found = upkeep.progress(environment, method, commands, now=now)
        match found:
            case upkeep.Ask(machines=names):
                if not self._ask(tables, environment, method, names, now=now):
                    tables.environments.swap(environment, replace(environment, retiring=True))
                    return now
            case upkeep.Unbuilt(machines=lacking):
                imaging.lost(tables, environment, images_of(environment, lacking), now=now)
                tables.environments.swap(environment, replace(environment, retiring=True))
                return now
            case upkeep.Done(commands=done):
                made = as_built(environment, done) if method == upkeep.CLEAN else environment.machines
                finish(tables, environment, made, now=now)
            case upkeep.GiveUp(reason=reason):
                shut = environments.move(environment, environments.Signal.QUARANTINE, now=now, reason=reason)
                outdate(tables, shut, now=now)
                move(tables, "environments", environment, shut, environments.Signal.QUARANTINE, now=now)
            case upkeep.Waiting(until=moment):
                return moment
        return None

    def _ask(
        self, tables: Tables, environment: Environment, method: str, names: tuple[str, ...], *, now: datetime
    ) -> bool:
        """False where it can only be destroyed: its image was built anew since it was decided what to do with it."""
        limit = LIMIT if environment.spec is None else VIRTUAL_LIMIT
        rest = (
            {name: {"saved": saved_name(environment.id, name)} for name in names} if method == upkeep.FORGET else None
        )
        return ask(tables, self._means, environment, method, names, limit=limit, now=now, rest=rest)


def finish(tables: Tables, environment: Environment, machines: tuple[Machine, ...], *, now: datetime) -> None:
    """Proven clean: ready, with machines as they are now, and lent to the next in the same transaction; or gone, where
    it was its last cleaning.
    """
    signal = environments.Signal.REMOVE if environment.retiring else environments.Signal.CLEANED
    after = environments.move(replace(environment, machines=machines), signal, now=now)
    move(tables, "environments", environment, after, signal, now=now, note="proven by its host's agent")
    for machine in after.machines if after.state is environments.State.GONE else ():
        end_all(tables, machine.agent, now=now)
    if after.state is environments.State.READY:
        leasing.serve(tables, environment.pool, now=now)


def _mend(tables: Tables, environment: Environment, *, now: datetime) -> None:
    """A broken environment is destroyed, without a person, as soon as its host can be asked again."""
    host = tables.hosts.find(environment.host)
    if host is None or host.state not in (hosts.State.ONLINE, hosts.State.DRAINING):
        return
    last = environments.move(replace(environment, retiring=True, lease=""), environments.Signal.CLEAN, now=now)
    outdate(tables, last, now=now)
    move(tables, "environments", environment, last, environments.Signal.CLEAN, now=now, by=f"host {host.id}")
