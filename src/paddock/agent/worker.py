"""Carries out commands: admitted by the ledger, held by keepers, told until acknowledged.

Effects: journaled. accepted → forked at its gate → started → gate open → finished → told → acknowledged; the ledger is
written before each step that the world sees, and at birth each entry is taken up where it stands.
"""

import asyncio
import contextlib
import errno
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from paddock.agent.admission import Act, Answer, Asked, Facts, Refuse, on_command
from paddock.agent.entry import Entry, Keeper, Moment, Outcome, State, Stream, final_status
from paddock.agent.ledger import Ledger, Unreadable, Unwritable
from paddock.agent.paths import name_for
from paddock.agent.reserve import Reserve
from paddock.agent.settings import Settings
from paddock.agent.skills import Skills
from paddock.agent.skills.skill import Call, Deed, Place, Program, Read, Work, code_of, failure
from paddock.agent.spool import Spool
from paddock.core.errors import Broken, PaddockError, Refused, Stale
from paddock.hands import faults, trees
from paddock.hands.launcher import Exit, Full, Held, Launcher, Lost, Reason, attach, read_exit, read_group, read_keeper
from paddock.hands.order import HELD_IN, Order
from paddock.wire import methods
from paddock.wire.framing import JSON
from paddock.wire.hello import LOG_STREAM, Status, TaskReport, TaskState
from paddock.wire.messages import Code, Command, Failure, Success, digest
from paddock.wire.methods import Effect, Toward, UnknownMethod

_log = logging.getLogger(__name__)
T = TypeVar("T")

CANCEL = "task.cancel"
_LIMITED = "{}: its limit ended it"
_SLACK = 0.005  # seconds: whoever waits until a moment looks after it
_NOT_OURS = (asyncio.CancelledError, GeneratorExit, faults.Fault)
_TOLD_EVERY = 60.0  # seconds
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_RETRY = 1.0  # seconds until an outcome that could not be written is tried again


@dataclass(kw_only=True)
class _Running:
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


class _Ending(Exception):
    """It was asked to end before it began."""


class Worker:
    """All commands of one agent. `group` is where they run; `tell` hands a status to whoever speaks with the server."""

    def __init__(
        self,
        *,
        settings: Settings,
        ledger: Ledger,
        launcher: Launcher,
        place: Place,
        skills: Skills,
        group: asyncio.TaskGroup,
        tell: Callable[[Status], None],
        moment: Callable[[], Moment],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._launcher = launcher
        self._place = place
        self._deeds = skills.deeds
        self._rows = skills.rows
        self.skills = skills.names
        """What it can do, by name: what was left out is not among them."""
        self._group = group
        self._tell = tell
        self._moment = moment
        self._admitting: dict[str, asyncio.Task[Refuse | Answer | _Running | Exception]] = {}
        self._running: dict[str, _Running] = {}
        self._finished: dict[str, Entry] = {}
        self._answered: set[str] = set()
        self._turns = asyncio.Semaphore(settings.tasks_at_once)
        self._reserve = Reserve(settings.state, least=settings.reserve)
        if (alerts := place.alerts) is not None:
            place.keep("reserve", lambda: self._reserve.watch(alerts))
        self.news = asyncio.Event()
        """There may be something to say to the server."""
        self.spool = Spool(delivered=self._settle, changed=self.news)
        self.is_stopping = False

    # What a session asks

    async def carry_out(self, command: Command) -> Success | Failure:
        """The answer to a command. Never raises but for being cancelled, which ends the waiting, not the command."""
        while True:
            with contextlib.suppress(Unreadable):  # whoever is told `busy` must not have been accepted before
                return await self._answer_to(command)
            await asyncio.sleep(_RETRY)

    async def _answer_to(self, command: Command) -> Success | Failure:
        try:
            return await self._decide(command)
        except UnknownMethod as exc:
            return Failure(id=command.id, code=Code.UNKNOWN_METHOD, msg=exc.message)
        except Unreadable:
            raise
        except Unwritable as exc:
            return Failure(id=command.id, code=Code.BUSY, msg=exc.message)
        except PaddockError as exc:
            return Failure(id=command.id, code=code_of(exc), msg=exc.message)
        except _NOT_OURS:
            raise
        except BaseException as exc:  # a skill may raise what is meant to end the process
            _log.exception("command broke", extra={"command": command.id, "method": command.method})
            return Failure(id=command.id, code=Code.FAILED, msg=f"{type(exc).__name__}: {exc}")

    @property
    def count(self) -> int:
        """How many commands are being carried out."""
        return len(self._running)

    @property
    def works(self) -> int:
        """How many commands are carried out inside of this process."""
        return sum(not isinstance(one.deed, Program) for one in self._running.values())

    def methods(self) -> tuple[str, ...]:
        """All that this agent carries out, for hello."""
        return tuple(sorted({CANCEL, *self._deeds}))

    def tasks(self) -> tuple[TaskReport, ...]:
        """Every task that is not over, for hello."""
        running = [
            TaskReport(task_id=one.call.task, state=one.entry.task_state)
            for one in self._running.values()
            if self._is_task(one.entry.method)
        ]
        finished = [TaskReport(task_id=entry.task, state=entry.task_state) for entry in self._finished.values()]
        return (*running, *finished)

    def finals(self) -> list[Status]:
        """What is to be told again on a new session."""
        return [final_status(entry) for task, entry in self._finished.items() if task not in self._answered]

    def told(self, task: str) -> None:
        """The server has the task's final status."""
        if task in self._finished:
            faults.at("agent.told")
            self._answered.add(task)
            self._settle(task)

    def forget(self, tasks: Iterable[str]) -> None:
        """The server has these, or takes no more of them."""
        for task in tasks:
            if (running := self._running.get(task)) is not None:
                running.is_forgotten = True
            self.spool.drop(task)
            self.told(task)

    def abandon(self, task: str) -> None:
        """The server takes no more output of a task; its status may still be answered."""
        self.spool.drop(task)
        self._settle(task)

    async def raise_fences(self, fences: Mapping[str, int], *, epoch: int) -> None:
        """The server's floors: what runs under lower fences is ended, and nothing begins under them."""
        await self._ledger.raise_fences(fences, epoch=epoch)
        for running in list(self._running.values()):
            floor = fences.get(running.entry.environment, 0)
            if running.entry.environment and running.entry.fence < floor:
                await self._end(running, _stale(running.entry, floor), grace=self._settings.grace)

    async def stop(self, *, limit: timedelta) -> None:
        """Take nothing new; give what this process itself is at a while. What keepers hold goes on without us."""
        self.is_stopping = True
        ours = [one.done.wait() for one in self._running.values() if not isinstance(one.deed, Program)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit.total_seconds()):
                await asyncio.gather(*ours)

    def leave(self) -> None:
        """Let go of everything: what keepers hold goes on, the rest is taken up at the next birth."""
        for running in self._running.values():
            if running.job is not None:
                running.job.cancel()

    # Birth

    async def recover(self) -> None:
        """Take up every entry where the last process left it; end what no entry knows of."""
        entries = await self._ledger.unacknowledged()
        await self._sweep({name_for(entry.task) for entry in entries})
        for entry in entries:
            deed = self._deeds.get(entry.method)
            if entry.state is State.FINISHED:
                self._take_finished(entry)
            elif deed is None:
                await self._finish(entry, Outcome(code=Code.INTERRUPTED, msg=f"{entry.method}: the skill is gone"))
            else:
                self._begin(entry, deed, is_new=False)

    async def _sweep(self, known: set[str]) -> None:
        """Directories of tasks that the ledger does not know: their end was told, or the ledger was lost."""
        for directory in list(self._settings.tasks.iterdir()):
            if directory.name not in known:
                await _end_held(directory)
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    # Deciding

    async def _decide(self, command: Command) -> Success | Failure:
        if command.method != CANCEL and command.method not in self._deeds:
            raise UnknownMethod(command.method)
        row = methods.find(command.method, toward=Toward.AGENT, among=self._rows)
        # What would change something is not done but for a part of it that was not understood.
        params = methods.check_params(row, command.params, is_strict=row.effect is not Effect.READ)
        environment, fence = params.get("environment"), params.get("fence")
        task = params.get("task_id")
        asked = Asked(
            id=command.id,
            task=task if isinstance(task, str) and command.method != CANCEL else command.id,
            digest=digest(command),
            seq=command.seq,
            epoch=command.epoch,
            environment=environment if isinstance(environment, str) else "",
            fence=fence if isinstance(fence, int) else 0,
        )
        deed = self._deeds.get(command.method)
        if deed is None or isinstance(deed, Read):
            return await self._read(command, asked, deed, params)
        return await self._journal(command, asked, deed, params)

    async def _read(
        self, command: Command, asked: Asked, deed: Read | None, params: Mapping[str, JSON]
    ) -> Success | Failure:
        """What changes nothing is not journaled; an old epoch or fence is refused all the same."""
        facts = Facts(epoch=self._ledger.epoch, fence=max(self._ledger.fence(asked.environment), self._floor(asked)))
        decision = on_command(None, asked, facts)
        if isinstance(decision, Refuse):
            return Failure(id=command.id, code=decision.code, msg=decision.why)
        if deed is None:
            return Success(id=command.id, result=await self._cancel(params))
        call = Call(
            task=command.id,
            method=command.method,
            params=params,
            environment=asked.environment,
            fence=asked.fence,
            directory=self._settings.tasks / name_for(command.id),
        )
        return Success(id=command.id, result=await deed.answer(call))

    async def _journal(
        self, command: Command, asked: Asked, deed: Deed, params: Mapping[str, JSON]
    ) -> Success | Failure:
        entry = Entry(
            id=asked.id,
            task=asked.task,
            method=command.method,
            digest=asked.digest,
            seq=asked.seq,
            epoch=asked.epoch,
            environment=asked.environment,
            fence=asked.fence,
            accepted=self._moment(),
            params=params,
        )
        # A link that ends meanwhile cancels the answer, never the step from the ledger to the beginning: an entry that
        # nobody began would be answered as accepted for ever.
        admitting = self._group.create_task(self._admit(asked, entry, deed), name=f"admit {entry.id}")
        self._admitting.setdefault(entry.task, admitting)
        admitting.add_done_callback(lambda _: self._admitting.pop(entry.task, None))
        admitted = await asyncio.shield(admitting)
        match admitted:
            case Exception():
                raise admitted
            case Refuse(code=code, why=why):
                return Failure(id=command.id, code=code, msg=why)
            case Answer(entry=known):
                return await self._answer_again(known)
            case _Running():
                return await self._answer(entry, admitted)

    async def _admit(self, asked: Asked, entry: Entry, deed: Deed) -> Refuse | Answer | _Running | Exception:
        """Decide, and begin what is to be done. What goes wrong is returned: raised, it would end the whole group."""
        faults.at("agent.accepting")
        try:
            admitted = await self._ledger.admit(
                asked, entry=entry, busy=self._busy(), floor=self._floor(asked), starts=isinstance(deed, Work)
            )
        except Exception as exc:
            return exc
        if not isinstance(admitted.decision, Act):
            return admitted.decision
        faults.at("agent.accepted")
        _log.info("accepted", extra={"command": entry.id, "method": entry.method})
        return self._begin(admitted.entry or entry, deed, is_new=True)

    def _busy(self) -> str:
        if self.is_stopping:
            return "agent: is stopping"
        if self._place.life.busy:
            return self._place.life.busy
        if lack := self._reserve.lack():
            return lack
        open_ = len(self._running) + len(self._finished)
        if open_ >= self._settings.tasks_at_most:
            return f"agent: has {open_} commands to carry out or to report already"
        return ""

    def _floor(self, asked: Asked) -> int:
        floor = self._place.floor
        return floor.read() if floor is not None and asked.environment == self._place.environment else 0

    def _is_task(self, method: str) -> bool:
        return methods.find(method, among=self._rows).task

    async def _answer(self, entry: Entry, running: _Running) -> Success | Failure:
        if self._is_task(entry.method):
            return Success(id=entry.id, result={"task_id": entry.task, "state": str(TaskState.ACCEPTED)})
        await running.done.wait()
        return _direct(running.entry)

    async def _answer_again(self, entry: Entry) -> Success | Failure:
        """The recorded answer. The final status of a task is told again with it, even if it was acknowledged before."""
        running = self._running.get(entry.task)
        if running is not None:
            return await self._answer(entry, running)
        if entry.outcome is None:
            # It ended after the ledger had been asked.
            entry = await self._ledger.by_task(entry.task) or entry
        if not self._is_task(entry.method):
            return _direct(entry)
        if entry.outcome is not None:
            self._tell(final_status(entry))
        return Success(id=entry.id, result={"task_id": entry.task, "state": str(entry.task_state)})

    async def _cancel(self, params: Mapping[str, JSON]) -> Mapping[str, JSON]:
        task, grace = str(params["task_id"]), params.get("grace")
        if (admitting := self._admitting.get(task)) is not None:
            await asyncio.wait({admitting})  # it was asked for before, and the ledger is slower than we are
        running = self._running.get(task)
        if running is not None:
            outcome = Outcome(code=Code.CANCELLED, msg=f"{task}: was cancelled")
            await self._end(running, outcome, grace=timedelta(seconds=grace if isinstance(grace, int | float) else 10))
            return {"state": str(running.entry.task_state)}
        entry = self._finished.get(task) or await self._ledger.by_task(task)
        if entry is None:
            raise Refused(f"{task}: is no task of this agent")
        return {"state": str(entry.task_state)}

    # Carrying out

    def _begin(self, entry: Entry, deed: Deed, *, is_new: bool) -> _Running:
        running = _Running(entry=entry, call=self._call(entry), deed=deed)
        self._running[entry.task] = running
        running.job = self._group.create_task(self._execute(running, is_new=is_new), name=f"task {entry.task}")
        return running

    def _call(self, entry: Entry) -> Call:
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
            grew=self.spool.wake,
        )

    async def _execute(self, running: _Running, *, is_new: bool) -> None:
        try:
            try:
                outcome = await self._run(running) if is_new else await self._resume(running)
            except Lost as exc:
                outcome = await self._lose(running, exc)
        except _Ending:
            outcome = running.ending or Outcome(code=Code.CANCELLED)
        except _NOT_OURS:
            raise
        except BaseException as exc:
            if not isinstance(exc, PaddockError):
                _log.exception("task broke", extra={"task": running.call.task})
            outcome = failure(exc)
        running.entry = await self._finish(running.entry, outcome)
        del self._running[running.call.task]
        running.done.set()
        if running.is_forgotten:
            self.spool.drop(running.call.task)
            self.told(running.call.task)

    async def _run(self, running: _Running) -> Outcome:
        """From accepted on."""
        entry = running.entry
        await self._end_lower(entry)
        match running.deed:
            case Program() as program:
                if not await self._has_turn(running):
                    return self._too_late(entry) or Outcome(code=Code.TIMED_OUT, msg=_LIMITED.format(entry.task))
                try:
                    running.call = self._call(entry)  # less is left of its limit than when it was accepted
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

    async def _has_turn(self, running: _Running) -> bool:
        """Wait for its turn to have processes. False if it waited for too long; raises _Ending if it is ended."""
        running.turn = asyncio.ensure_future(self._turns.acquire())
        try:
            await asyncio.wait({running.turn}, timeout=self._patience(running))
            if not running.turn.done():
                return not await self._gives_up(running.turn)
            if running.turn.cancelled():
                raise _Ending
            return True
        except asyncio.CancelledError:
            running.turn.cancel()
            raise
        finally:
            running.turn = None

    def _patience(self, running: _Running) -> float | None:
        """Seconds that it may still wait for its start; None if that is for ever."""
        params = running.call.params
        waits = [value for name in ("limit", "start_within") if isinstance(value := params.get(name), int | float)]
        waited = self._moment().since(running.entry.accepted).total_seconds()
        return max(min(waits) - waited, 0) + _SLACK if waits else None

    async def _gives_up(self, turn: "asyncio.Task[bool]") -> bool:
        """Stop waiting; False if the turn came in the same moment."""
        turn.cancel()
        await asyncio.wait({turn})
        return turn.cancelled()

    async def _resume(self, running: _Running) -> Outcome:
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

    async def _prepared(self, running: _Running, program: Program) -> Order:
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
            raise _Ending
        return running.preparing.result()

    async def _fork(self, running: _Running, order: Order) -> Held:
        """A keeper at its gate. Ended or too late before there is one, it raises _Ending."""
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
            raise _Ending
        return await forking

    async def _patiently(self, running: _Running, step: Callable[[], Awaitable[T]]) -> T:
        """What was accepted waits for a full disk; ended or too late meanwhile, it raises _Ending."""
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
            await asyncio.sleep(_RETRY)
            running.ending = running.ending or self._too_late(running.entry) or self._over_limit(running.entry)
            if running.ending is not None:
                raise _Ending
            running.call = self._call(running.entry)

    async def _hold(self, running: _Running, program: Program) -> Held:
        """A keeper at its gate, which the ledger knows; with any other end there is none."""
        order = await self._prepared(running, program)
        if running.ending is not None:
            raise _Ending
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

    async def _run_program(self, running: _Running, program: Program) -> Outcome:
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

    async def _take_up(self, running: _Running, program: Program) -> Outcome:
        """A task that had started before this process was born."""
        directory = running.call.directory
        held = await attach(directory)
        ended = await self._follow(running, held) if held is not None else read_exit(directory)
        if ended is None:
            raise Lost(f"{running.call.task}: its keeper left no record")
        if not ended.ran and ended.reason is Reason.GATE and running.ending is None:
            # Proven not to have run: the agent died between the journal and the gate.
            running.entry = await self._ledger.put_back(running.entry)
            return await self._run(running)
        return _concluded(running, program, ended)

    async def _lose(self, running: _Running, why: Lost) -> Outcome:
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

    async def _follow(self, running: _Running, held: Held) -> Exit:
        """Stay with a task that may run until it has ended."""
        running.held = held
        self.spool.grow(running.call.task, LOG_STREAM, running.call.directory / "output")
        self._tell(Status(task_id=running.call.task, state=TaskState.RUNNING))
        feeding = self._group.create_task(self._feed(held))
        try:
            if running.ending is not None:
                await held.cancel(self._settings.grace)
            return await held.ended()
        finally:
            feeding.cancel()
            held.close()
            self.spool.wake()

    async def _feed(self, held: Held) -> None:
        with contextlib.suppress(Broken):
            while await held.more():
                self.spool.wake()

    async def _run_work(self, running: _Running, work: Work, act: Callable[[Call], Awaitable[Outcome]]) -> Outcome:
        faults.at("agent.working")
        if running.entry.state is State.ACCEPTED:
            running.entry = await self._patiently(running, lambda: self._ledger.start(running.entry, keeper=None))
        async with self._allowed(running):
            if work.streams:
                self.spool.grow(running.call.task, LOG_STREAM, running.call.directory / "output")
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

    async def _wait_for_end(self, running: _Running) -> None:
        """A thread cannot be ended: nobody is told that it has, as long as it may still act."""
        inner = running.inner
        if inner is None:
            raise AssertionError(f"{running.call.task}: has no work")
        while not (await asyncio.wait({inner}, timeout=_TOLD_EVERY))[0]:
            about = {"task": running.call.task, "method": running.call.method}
            _log.warning("a skill does not end though its limit is over", extra=about)

    @asynccontextmanager
    async def _allowed(self, running: _Running) -> AsyncIterator[None]:
        """While it begins: nobody asked for its end, and its fence is live here and for the host."""
        entry, floor = running.entry, self._place.floor
        async with contextlib.AsyncExitStack() as stack:
            lowest = self._ledger.fence(entry.environment) if entry.environment else 0
            if floor is not None and entry.environment == self._place.environment:
                lowest = max(lowest, await stack.enter_async_context(floor.held()))
            if entry.environment and entry.fence < lowest:
                raise Stale(f"{entry.environment}: fence {entry.fence} is over, the current one is {lowest}")
            if running.ending is not None:
                raise _Ending
            yield

    # Ending

    async def _end_lower(self, entry: Entry) -> None:
        """What runs on the environment under lower fences is gone before anything acts under this one."""
        if not entry.environment:
            return
        lower = [
            one
            for one in self._running.values()
            if one.entry.environment == entry.environment and one.entry.fence < entry.fence
        ]
        for running in lower:
            await self._end(running, _stale(running.entry, entry.fence), grace=self._settings.grace)
        for running in lower:
            await running.done.wait()

    async def _end(self, running: _Running, outcome: Outcome, *, grace: timedelta) -> None:
        running.ending = running.ending or outcome
        if running.held is not None:
            await running.held.cancel(grace)
        elif (waiting := running.inner or running.preparing or running.turn) is not None:
            waiting.cancel()

    async def _finish(self, entry: Entry, outcome: Outcome) -> Entry:
        """Durable before it is told; a disk that is full now will not be for ever."""
        while True:
            try:
                faults.at("agent.finishing")
                # Nobody tells the outcome of a command that is no task: whoever asks again is answered.
                told = None if self._is_task(entry.method) else datetime.now(UTC)
                entry = await self._ledger.finish(entry, outcome, acknowledged=told)
                break
            except Unwritable as exc:
                _log.warning("outcome waits for the disk", extra={"task": entry.task, "why": exc.message})
                await asyncio.sleep(_RETRY)
        faults.at("agent.finished")
        _log.info("ended", extra={"task": entry.task, "code": str(outcome.code or "complete")})
        if entry.state is State.FINISHED:
            self._take_finished(entry)
        else:
            await self._clear(entry)
        return entry

    def _take_finished(self, entry: Entry) -> None:
        if entry.outcome is None:
            raise AssertionError(f"{entry.id}: finished without an outcome")
        self._finished[entry.task] = entry
        if not self._is_task(entry.method):
            self._answered.add(entry.task)
            self._settle(entry.task)
            return
        self._tell(final_status(entry))
        self.spool.finish(entry.task, entry.outcome.streams)

    def _settle(self, task: str) -> None:
        """Over once the status is answered and all output is delivered."""
        if task in self._answered and not self.spool.has(task) and task in self._finished:
            entry = self._finished.pop(task)
            self._answered.discard(task)
            self._group.create_task(self._acknowledge(entry))

    async def _acknowledge(self, entry: Entry) -> None:
        if not await self._is_heard(entry):
            return  # it is told again after the next start
        faults.at("agent.acknowledging")
        with contextlib.suppress(Unwritable):  # then it is told again after the next start
            await self._ledger.acknowledge([entry.id], now=datetime.now(UTC))
            faults.at("agent.acknowledged")
            await self._clear(entry)

    async def _is_heard(self, entry: Entry) -> bool:
        """Let the skill know that the server has it all; before the entry is closed, so again after a crash."""
        deed = self._deeds.get(entry.method)
        if isinstance(deed, Work) and deed.told is not None:
            try:
                await deed.told(entry.task)
            except _NOT_OURS:
                raise
            except BaseException:
                _log.exception("a skill did not take it that its end was told", extra={"task": entry.task})
                return False
        return True

    async def _clear(self, entry: Entry) -> None:
        """Nobody needs its directory any more; one that stays after a crash is swept at birth."""
        directory = self._settings.tasks / name_for(entry.task)
        if directory.exists():
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


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


def _concluded(running: _Running, program: Program, ended: Exit) -> Outcome:
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


def _stale(entry: Entry, fence: int) -> Outcome:
    return Outcome(code=Code.STALE, msg=f"{entry.environment}: fence {entry.fence} is over, the current one is {fence}")


def _direct(entry: Entry) -> Success | Failure:
    """The answer to a command that is no task, from its recorded outcome."""
    outcome = entry.outcome
    if outcome is None:
        raise AssertionError(f"{entry.id}: has not ended")
    if outcome.code is not None:
        return Failure(id=entry.id, code=outcome.code, msg=outcome.msg)
    return Success(id=entry.id, result=outcome.result)


async def _tamed(act: Callable[[Call], Awaitable[Outcome]], call: Call) -> Outcome:
    """What a skill raises to end the process, or what only the loop may see, ends its command."""
    try:
        return await act(call)
    except _NOT_OURS:
        raise
    except BaseException as exc:
        if isinstance(exc, Exception):
            raise
        _log.exception("a skill raised what ends a process", extra={"task": call.task})
        raise Broken(f"{call.method}: the skill raised {type(exc).__name__}: {exc}") from exc


async def _end_held(directory: Path) -> None:
    """End whatever a task's keeper still holds."""
    try:
        held = await attach(directory)
        if held is not None:
            await held.cancel(timedelta(seconds=1))
            await held.ended()
            held.close()
    except Broken as exc:
        _log.warning("a keeper does not end", extra={"directory": str(directory), "why": exc.message})
        identity = read_keeper(directory)
        if identity is not None:
            await trees.end(lambda: [identity], grace=timedelta())
    if (group := read_group(directory)) is not None:
        trees.Cgroup(path=group).remove()
