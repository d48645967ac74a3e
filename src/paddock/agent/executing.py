"""Takes a command from accepted, or from where the last process left it, to its outcome.

Effects: journaled. forked at its gate → started → gate open → followed to its exit record; the ledger is written before
each step that the world sees.
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from paddock.agent.entry import Entry, Keeper, Moment, Outcome, State, Stream
from paddock.agent.ledger import RETRY, Ledger, Unwritable
from paddock.agent.paths import name_for
from paddock.agent.settings import Settings
from paddock.agent.skills.skill import NOT_OURS, Call, Deed, Place, Program, Work, failure
from paddock.agent.spool import Spool
from paddock.core.errors import Broken, PaddockError, Stale
from paddock.hands import faults, trees
from paddock.hands.launcher import Exit, Full, Held, Launcher, Lost, Reason, Silent, attach, read_exit, read_group
from paddock.hands.order import HELD_IN, Order
from paddock.wire import methods
from paddock.wire.framing import JSON
from paddock.wire.hello import LOG_STREAM, Status, TaskState
from paddock.wire.messages import Code
from paddock.wire.methods import Effect, Method

_log = logging.getLogger(__name__)
T = TypeVar("T")
_LIMITED = "{}: its limit ended it"
_SLACK = 0.005  # seconds: whoever waits until a moment looks after it
_TOLD_EVERY = 60.0  # seconds
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(kw_only=True)
class Running:
    """A command that is being carried out in this process."""

    entry: Entry
    call: Call
    deed: Deed
    held: Held | None = None
    inner: "asyncio.Task[Outcome] | None" = None
    turn: "asyncio.Task[bool] | None" = None
    """While it waits for its turn."""
    preparing: "asyncio.Future[Order] | asyncio.Future[Held] | None" = None
    """While what it needs is fetched, or its keeper is made."""
    ending: Outcome | None = None
    """Why it is being ended, once somebody asked for that."""
    is_forgotten: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)
    job: "asyncio.Task[None] | None" = None


class Ending(Exception):
    """It was asked to end before it began."""


class Executing:
    """How commands are executed. `end_lower` ends what runs under lower fences of an entry's environment."""

    def __init__(
        self,
        *,
        settings: Settings,
        ledger: Ledger,
        launcher: Launcher,
        place: Place,
        rows: Mapping[str, Method],
        spool: Spool,
        group: asyncio.TaskGroup,
        tell: Callable[[Status], None],
        moment: Callable[[], Moment],
        end_lower: Callable[[Entry], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._launcher = launcher
        self._place = place
        self._rows = rows
        self._spool = spool
        self._group = group
        self._tell = tell
        self._moment = moment
        self._end_lower = end_lower
        self._turns = asyncio.Semaphore(settings.tasks_at_once)

    async def outcome(self, running: Running, *, is_new: bool) -> Outcome:
        """Carry it out; what goes wrong is its outcome. Only what ends this process is raised."""
        try:
            try:
                return await self._run(running) if is_new else await self._resume(running)
            except Lost as exc:
                return await self._lose(running, exc)
        except Ending:
            return running.ending or Outcome(code=Code.CANCELLED)
        except NOT_OURS:
            raise
        except BaseException as exc:
            if not isinstance(exc, PaddockError):
                _log.exception("task broke", extra={"task": running.call.task})
            return failure(exc)

    def call(self, entry: Entry) -> Call:
        """The command as its skill sees it now."""
        params = entry.params or {}
        limit = params.get("limit")
        left = None
        if isinstance(limit, int | float):
            left = max(timedelta(seconds=limit) - self._moment().since(entry.accepted), timedelta(milliseconds=100))
        return Call(
            task=entry.task,
            method=entry.method,
            params=params,
            environment=entry.environment,
            fence=entry.fence,
            directory=self._settings.tasks / name_for(entry.task),
            limit=left,
            boot_id=entry.accepted.boot_id,
            progress=lambda percent, eta: self._tell(
                Status(task_id=entry.task, state=TaskState.RUNNING, percent=percent, eta=eta)
            ),
            grew=self._spool.wake,
        )

    async def _run(self, running: Running) -> Outcome:
        """From accepted on."""
        entry = running.entry
        await self._end_lower(entry)
        match running.deed:
            case Program() as program:
                if not await self._has_turn(running):
                    return self._too_late(entry) or Outcome(code=Code.TIMED_OUT, msg=_LIMITED.format(entry.task))
                try:
                    running.call = self.call(entry)  # less is left of its limit than when it was accepted
                    return self._too_late(entry) or await self._run_program(running, program)
                finally:
                    self._turns.release()
            case Work() as work:
                return self._too_late(entry) or await self._run_work(running, work, work.act)
        raise AssertionError(f"{entry.method}: a read is not journaled")

    def _too_late(self, entry: Entry) -> Outcome | None:
        """It has waited for longer than it may wait for its start."""
        within = (entry.params or {}).get("start_within")
        if not isinstance(within, int | float) or self._moment().since(entry.accepted) <= timedelta(seconds=within):
            return None
        return Outcome(code=Code.EXPIRED, msg=f"{entry.task}: not started within {within} s")

    def _over_limit(self, entry: Entry) -> Outcome | None:
        """Its limit ended it while it waited."""
        limit = (entry.params or {}).get("limit")
        if not isinstance(limit, int | float) or self._moment().since(entry.accepted) <= timedelta(seconds=limit):
            return None
        return Outcome(code=Code.TIMED_OUT, msg=_LIMITED.format(entry.task))

    async def _has_turn(self, running: Running) -> bool:
        """Wait for its turn to have processes. False if it waited for too long; raises Ending if it is ended."""
        running.turn = asyncio.ensure_future(self._turns.acquire())
        try:
            await asyncio.wait({running.turn}, timeout=self._patience(running))
            if not running.turn.done():
                return not await self._gives_up(running.turn)
            if running.turn.cancelled():
                raise Ending
            return True
        except asyncio.CancelledError:
            running.turn.cancel()
            raise
        finally:
            running.turn = None

    async def _gives_up(self, turn: "asyncio.Task[bool]") -> bool:
        """Stop waiting; False if the turn came in the same moment."""
        turn.cancel()
        await asyncio.wait({turn})
        return turn.cancelled()

    async def _resume(self, running: Running) -> Outcome:
        """At birth: an entry that is accepted or started."""
        entry = running.entry
        if entry.state is State.ACCEPTED:
            return await self._run(running)
        if isinstance(running.deed, Program):
            return await self._take_up(running, running.deed)
        if isinstance(running.deed, Work) and running.deed.resume is not None:
            return await self._run_work(running, running.deed, running.deed.resume)
        if methods.find(entry.method, among=self._rows).effect is Effect.READ:
            running.entry = await self._ledger.put_back(entry)
            return await self._run(running)
        msg = f"{entry.task}: the agent ended while it was at it"
        return Outcome(code=Code.INTERRUPTED, msg=msg, streams=_left(running.call.directory))

    async def _prepared(self, running: Running, program: Program) -> Order:
        """Its order. What has to be fetched for it first is given up when its end is asked for."""
        prepared = program.prepare(running.call)
        if isinstance(prepared, Order):
            return prepared
        running.preparing = asyncio.ensure_future(prepared)
        try:
            await asyncio.wait({running.preparing})
        finally:
            running.preparing.cancel()
        if running.ending is not None:
            raise Ending
        return running.preparing.result()

    def _patience(self, running: Running) -> float | None:
        """Seconds that it may still wait for its start; None if that is for ever."""
        params = running.call.params
        waits = [value for name in ("limit", "start_within") if isinstance(value := params.get(name), int | float)]
        waited = self._moment().since(running.entry.accepted).total_seconds()
        return max(min(waits) - waited, 0) + _SLACK if waits else None

    async def _patiently(self, running: Running, step: Callable[[], Awaitable[T]]) -> T:
        """What was accepted waits for a full disk; ended or too late meanwhile, it raises Ending."""
        waits = False
        while True:
            try:
                return await step()
            except (Unwritable, Full, OSError) as exc:
                if isinstance(exc, OSError) and exc.errno not in _NO_SPACE:
                    raise
                if not waits:
                    _log.warning("task waits for the disk", extra={"task": running.call.task, "why": str(exc)})
                waits = True
            await asyncio.sleep(RETRY)
            running.ending = running.ending or self._too_late(running.entry) or self._over_limit(running.entry)
            if running.ending is not None:
                raise Ending
            running.call = self.call(running.entry)

    async def _hold(self, running: Running, program: Program) -> Held:
        """A keeper at its gate, which the ledger knows; with any other end there is none."""
        order = await self._prepared(running, program)
        if running.ending is not None:
            raise Ending
        faults.at("agent.forking")
        held = await self._fork(running, order)
        faults.at("agent.forked")
        try:
            keeper = Keeper(pid=held.identity.pid, started=held.identity.started)
            faults.at("agent.starting")
            running.entry = await self._ledger.start(running.entry, keeper=keeper)
            faults.at("agent.started")
        except BaseException:
            held.close()  # nothing runs: its gate stays shut
            raise
        return held

    async def _fork(self, running: Running, order: Order) -> Held:
        """A keeper at its gate. Ended or too late before there is one, it raises Ending."""
        forking = running.preparing = asyncio.ensure_future(self._launcher.fork(order, unopened=True))
        try:
            await asyncio.wait({forking}, timeout=self._patience(running))
        except asyncio.CancelledError:
            await _unmake(forking)
            raise
        if not forking.done():
            running.ending = running.ending or self._too_late(running.entry) or self._over_limit(running.entry)
        if running.ending is not None:
            await _unmake(forking)
            raise Ending
        return await forking

    async def _run_program(self, running: Running, program: Program) -> Outcome:
        held = await self._patiently(running, lambda: self._hold(running, program))
        try:
            async with self._allowed(running):
                faults.at("agent.opening")
                await held.open_gate()
                faults.at("agent.opened")
        except BaseException:
            held.close()  # nothing runs: its gate stays shut
            raise
        kept = {name: value for name, value in running.call.params.items() if name in program.keep}
        self._group.create_task(self._keep_params(running.entry, kept))
        return _concluded(running, program, await self._follow(running, held))

    async def _keep_params(self, entry: Entry, kept: Mapping[str, JSON]) -> None:
        with contextlib.suppress(Unwritable):
            await self._ledger.keep_params(entry.id, kept)

    async def _take_up(self, running: Running, program: Program) -> Outcome:
        """A task that had started before this process was born."""
        directory = running.call.directory
        held = await self._answered(running, lambda: attach(directory))
        ended = await self._follow(running, held) if held is not None else read_exit(directory)
        if ended is None:
            raise Lost(f"{running.call.task}: its keeper left no record")
        if not ended.ran and ended.reason is Reason.GATE and running.ending is None:
            # Proven not to have run: the agent died between the journal and the gate.
            running.entry = await self._ledger.put_back(running.entry)
            return await self._run(running)
        return _concluded(running, program, ended)

    async def _lose(self, running: Running, why: Lost) -> Outcome:
        """Its keeper is dead and left no record: nobody knows how it ended, but it has ended when this returns."""
        task, directory = running.call.task, running.call.directory
        group = self._place.group_of(task) or read_group(directory)

        def find() -> list[trees.Identity]:
            found = trees.marked(HELD_IN, str(directory))
            return found + trees.Cgroup(path=group).procs() if group is not None else found

        left = await trees.end(find, grace=self._settings.grace)
        if group is not None:
            trees.Cgroup(path=group).remove()
        msg = f"{why.message}; {len(left)} of its processes were still there and were ended" if left else why.message
        return Outcome(code=Code.INTERRUPTED, msg=msg, streams=_left(directory))

    async def _answered(self, running: Running, ask: Callable[[], Awaitable[T]]) -> T:
        """What a keeper answers. As long as one lives and is silent, its task may run, and nobody is told its end."""
        waits = False
        while True:
            try:
                return await ask()
            except Silent as exc:
                if not waits:
                    _log.warning("a keeper does not answer", extra={"task": running.call.task, "why": exc.message})
                waits = True

    async def _follow(self, running: Running, held: Held) -> Exit:
        """Stay with a task that may run until it has ended."""
        running.held = held
        self._spool.grow(running.call.task, LOG_STREAM, running.call.directory / "output")
        self._tell(Status(task_id=running.call.task, state=TaskState.RUNNING))
        feeding = self._group.create_task(self._feed(held))
        try:
            return await self._answered(running, lambda: self._end_of(running, held))
        finally:
            feeding.cancel()
            held.close()
            self._spool.wake()

    async def _end_of(self, running: Running, held: Held) -> Exit:
        """Wait for its end, which may have been asked for while there was nobody to tell."""
        if running.ending is not None:
            await held.cancel(self._settings.grace)
        return await held.ended()

    async def _feed(self, held: Held) -> None:
        goes_on = True
        while goes_on:
            with contextlib.suppress(Silent):  # it lives, and is asked again
                if goes_on := await held.more():
                    self._spool.wake()

    async def _run_work(self, running: Running, work: Work, act: Callable[[Call], Awaitable[Outcome]]) -> Outcome:
        faults.at("agent.working")
        if running.entry.state is State.ACCEPTED:
            running.entry = await self._patiently(running, lambda: self._ledger.start(running.entry, keeper=None))
        async with self._allowed(running):
            if work.streams:
                self._spool.grow(running.call.task, LOG_STREAM, running.call.directory / "output")
            running.inner = asyncio.ensure_future(_tamed(act, running.call))
            try:
                limit = running.call.limit
                done, _ = await asyncio.wait({running.inner}, timeout=limit.total_seconds() if limit else None)
            except asyncio.CancelledError:
                running.inner.cancel()
                raise
            if not done:
                running.inner.cancel()
                await self._wait_for_end(running)
                msg = _LIMITED.format(running.call.task)
                return Outcome(code=Code.TIMED_OUT, msg=msg, streams=_left(running.call.directory))
            if running.inner.cancelled():
                ending = running.ending or Outcome(code=Code.CANCELLED)
                return replace(ending, streams=_left(running.call.directory))
            faults.at("agent.worked")
            return running.inner.result()

    async def _wait_for_end(self, running: Running) -> None:
        """A thread cannot be ended: nobody is told that it has, as long as it may still act."""
        inner = running.inner
        if inner is None:
            raise AssertionError(f"{running.call.task}: has no work")
        while not (await asyncio.wait({inner}, timeout=_TOLD_EVERY))[0]:
            about = {"task": running.call.task, "method": running.call.method}
            _log.warning("a skill does not end though its limit is over", extra=about)

    @asynccontextmanager
    async def _allowed(self, running: Running) -> AsyncIterator[None]:
        """While it begins: nobody asked for its end, and its fence is live here and for the host."""
        entry, floor = running.entry, self._place.floor
        async with contextlib.AsyncExitStack() as stack:
            lowest = self._ledger.fence(entry.environment) if entry.environment else 0
            if floor is not None and entry.environment == self._place.environment:
                lowest = max(lowest, await stack.enter_async_context(floor.held()))
            if entry.environment and entry.fence < lowest:
                raise Stale(f"{entry.environment}: fence {entry.fence} is over, the current one is {lowest}")
            if running.ending is not None:
                raise Ending
            yield

    async def end(self, running: Running, outcome: Outcome, *, grace: timedelta) -> None:
        """Have it end with this outcome, unless it ended before or was asked to end before."""
        running.ending = running.ending or outcome
        if running.held is not None:
            await running.held.cancel(grace)
        elif (waiting := running.inner or running.preparing or running.turn) is not None:
            waiting.cancel()


async def _unmake(forking: "asyncio.Future[Held]") -> None:
    """Nobody wants this keeper any more: its gate stays shut."""
    forking.cancel()
    await asyncio.wait({forking})
    if not forking.cancelled() and forking.exception() is None:
        forking.result().close()


def _left(directory: Path) -> dict[str, Stream]:
    """What a task that has ended for certain had printed."""
    output = directory / "output"
    return {LOG_STREAM: Stream(path=str(output), length=output.stat().st_size)} if output.exists() else {}


def _concluded(running: Running, program: Program, ended: Exit) -> Outcome:
    """What the record means; whatever its skill makes of it, a task that a higher fence ended is stale, and one that
    ended with its machine, which nobody asked for, is interrupted.
    """
    outcome = program.conclude(running.call, ended)
    if ended.reason is Reason.STOPPED:
        msg = f"{running.call.task}: its machine went down, or somebody there ended it"
        return Outcome(code=Code.INTERRUPTED, msg=msg, streams=outcome.streams)
    ending = running.ending
    if ending is not None and ending.code is Code.STALE and ended.reason is Reason.CANCELLED:
        return replace(ending, streams=outcome.streams)
    return outcome


async def _tamed(act: Callable[[Call], Awaitable[Outcome]], call: Call) -> Outcome:
    """What a skill raises to end the process, or what only the loop may see, ends its command."""
    try:
        return await act(call)
    except NOT_OURS:
        raise
    except BaseException as exc:
        if isinstance(exc, Exception):
            raise
        _log.exception("a skill raised what ends a process", extra={"task": call.task})
        raise Broken(f"{call.method}: the skill raised {type(exc).__name__}: {exc}") from exc
