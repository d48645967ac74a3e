"""All commands of an agent: admitted by the ledger, executed, told until acknowledged.

Effects: journaled. accepted → forked at its gate → started → gate open → finished → told → acknowledged; the ledger is
written before each step that the world sees, and at birth each entry is taken up where it stands.
"""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from pathlib import Path

from paddock.agent.admission import Act, Answer, Asked, Facts, Refuse, on_command
from paddock.agent.entry import Entry, Moment, Outcome, State, final_status
from paddock.agent.executing import Executing, Running
from paddock.agent.ledger import RETRY, Ledger, Unreadable, Unwritable
from paddock.agent.outcomes import Outcomes
from paddock.agent.paths import name_for
from paddock.agent.reserve import Reserve
from paddock.agent.settings import Settings
from paddock.agent.skills import Skills
from paddock.agent.skills.skill import NOT_OURS, Call, Deed, Place, Program, Read, Work, code_of
from paddock.agent.spool import Spool
from paddock.core.errors import Broken, PaddockError, Refused
from paddock.hands import faults, trees
from paddock.hands.launcher import Launcher, attach, read_group, read_keeper
from paddock.wire import methods
from paddock.wire.framing import JSON
from paddock.wire.hello import Status, TaskReport, TaskState
from paddock.wire.messages import Code, Command, Failure, Success, digest
from paddock.wire.methods import Effect, Toward, UnknownMethod

_log = logging.getLogger(__name__)

CANCEL = "task.cancel"


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
        self._place = place
        self._deeds = skills.deeds
        self._rows = skills.rows
        self.skills = skills.names
        """What it can do, by name: what was left out is not among them."""
        self._group = group
        self._tell = tell
        self._moment = moment
        self._admitting: dict[str, asyncio.Task[Refuse | Answer | Running | Exception]] = {}
        self._running: dict[str, Running] = {}
        self._reserve = Reserve(settings.state, least=settings.reserve)
        if (alerts := place.alerts) is not None:
            place.keep("reserve", lambda: self._reserve.watch(alerts))
        self.news = asyncio.Event()
        """There may be something to say to the server."""
        self.spool = Spool(delivered=lambda task: self._outcomes.settle(task), changed=self.news)
        self._outcomes = Outcomes(
            settings=settings,
            ledger=ledger,
            deeds=skills.deeds,
            spool=self.spool,
            group=group,
            tell=tell,
            is_task=self._is_task,
        )
        self._executing = Executing(
            settings=settings,
            ledger=ledger,
            launcher=launcher,
            place=place,
            rows=skills.rows,
            spool=self.spool,
            group=group,
            tell=tell,
            moment=moment,
            end_lower=self._end_lower,
        )
        self.is_stopping = False

    # What a session asks

    async def carry_out(self, command: Command) -> Success | Failure:
        """The answer to a command. Never raises but for being cancelled, which ends the waiting, not the command."""
        while True:
            with contextlib.suppress(Unreadable):  # whoever is told `busy` must not have been accepted before
                return await self._answer_to(command)
            await asyncio.sleep(RETRY)

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
        except NOT_OURS:
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
        return (*running, *self._outcomes.reports())

    def finals(self) -> list[Status]:
        """What is to be told again on a new session."""
        return self._outcomes.finals()

    def told(self, task: str) -> None:
        """The server has the task's final status."""
        self._outcomes.told(task)

    def forget(self, tasks: Iterable[str]) -> None:
        """The server has these, or takes no more of them."""
        for task in tasks:
            if (running := self._running.get(task)) is not None:
                running.is_forgotten = True
            self.spool.drop(task)
            self._outcomes.told(task)

    def abandon(self, task: str) -> None:
        """The server takes no more output of a task; its status may still be answered."""
        self.spool.drop(task)
        self._outcomes.settle(task)

    async def raise_fences(self, fences: Mapping[str, int], *, epoch: int) -> None:
        """The server's floors: what runs under lower fences is ended, and nothing begins under them."""
        await self._ledger.raise_fences(fences, epoch=epoch)
        for running in list(self._running.values()):
            floor = fences.get(running.entry.environment, 0)
            if running.entry.environment and running.entry.fence < floor:
                await self._executing.end(running, _stale(running.entry, floor), grace=self._settings.grace)

    async def stop(self, *, limit: timedelta) -> None:
        """Take nothing new; give what this process itself is at a while. What keepers hold goes on without us."""
        self.is_stopping = True
        ours = [one.done.wait() for one in self._running.values() if not isinstance(one.deed, Program)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit.total_seconds()):
                await asyncio.gather(*ours)

    async def end_all(self, why: str) -> None:
        """Take nothing new, and have nothing run any more, under keepers or here."""
        self.is_stopping = True
        running = list(self._running.values())
        for one in running:
            outcome = Outcome(code=Code.CANCELLED, msg=f"{one.call.task}: {why}")
            await self._executing.end(one, outcome, grace=self._settings.grace)
        for one in running:
            await one.done.wait()

    def leave(self) -> None:
        """Let go of everything: what keepers hold goes on, the rest is taken up at the next birth."""
        self._outcomes.leave()
        for running in self._running.values():
            if running.job is not None:
                running.job.cancel()

    # Birth

    async def recover(self) -> None:
        """Take up every entry where the last process left it; end what no entry knows of."""
        entries = await self._ledger.unacknowledged()
        # Directories of tasks that the ledger does not know: their end was told, or the ledger was lost.
        await sweep(self._settings.tasks, {name_for(entry.task) for entry in entries})
        for entry in entries:
            deed = self._deeds.get(entry.method)
            if entry.state is State.FINISHED:
                self._outcomes.take(entry)
            elif deed is None:
                gone = Outcome(code=Code.INTERRUPTED, msg=f"{entry.method}: the skill is gone")
                await self._outcomes.finish(entry, gone)
            else:
                self._begin(entry, deed, is_new=False)

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
        if deed is not None:
            # A machine that was just woken gets its names, cards and services before anybody looks at it.
            await self._place.life.settled.wait()
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
            case Running():
                return await self._answer(entry, admitted)

    async def _admit(self, asked: Asked, entry: Entry, deed: Deed) -> Refuse | Answer | Running | Exception:
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
        open_ = len(self._running) + len(self._outcomes)
        if open_ >= self._settings.tasks_at_most:
            return f"agent: has {open_} commands to carry out or to report already"
        return ""

    def _floor(self, asked: Asked) -> int:
        floor = self._place.floor
        return floor.read() if floor is not None and asked.environment == self._place.environment else 0

    def _is_task(self, method: str) -> bool:
        return methods.find(method, among=self._rows).task

    async def _answer(self, entry: Entry, running: Running) -> Success | Failure:
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
            span = timedelta(seconds=grace if isinstance(grace, int | float) else 10)
            await self._executing.end(running, outcome, grace=span)
            return {"state": str(running.entry.task_state)}
        entry = self._outcomes.find(task) or await self._ledger.by_task(task)
        if entry is None:
            raise Refused(f"{task}: is no task of this agent")
        return {"state": str(entry.task_state)}

    # Carrying out

    def _begin(self, entry: Entry, deed: Deed, *, is_new: bool) -> Running:
        running = Running(entry=entry, call=self._executing.call(entry), deed=deed)
        self._running[entry.task] = running
        running.job = self._group.create_task(self._execute(running, is_new=is_new), name=f"task {entry.task}")
        return running

    async def _execute(self, running: Running, *, is_new: bool) -> None:
        outcome = await self._executing.outcome(running, is_new=is_new)
        running.entry = await self._outcomes.finish(running.entry, outcome)
        del self._running[running.call.task]
        running.done.set()
        if running.is_forgotten:
            self.spool.drop(running.call.task)
            self._outcomes.told(running.call.task)

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
            await self._executing.end(running, _stale(running.entry, entry.fence), grace=self._settings.grace)
        for running in lower:
            await running.done.wait()


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


async def sweep(tasks: Path, known: Collection[str]) -> None:
    """End what is held in other directories of tasks than these, and remove them."""
    for directory in await asyncio.to_thread(lambda: [*tasks.iterdir()]):
        if directory.name not in known:
            await _end_held(directory)
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


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
