"""One session on one link: receives, answers, tells; everything else overtakes output.

Effects: none of its own; what is said and not answered is said again on the next session.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from paddock.agent.alerts import Alert, Alerts
from paddock.agent.dialing import Unwelcome
from paddock.agent.logs import Batch, Logs
from paddock.agent.worker import Worker
from paddock.core.errors import Broken, PaddockError, Refused
from paddock.hands import faults
from paddock.hands.links import Closed, Link
from paddock.wire.backoff import wish
from paddock.wire.framing import JSON, Malformed
from paddock.wire.hello import Hello, Output, Status, TaskState, Welcome
from paddock.wire.messages import Code, Command, Failure, Success
from paddock.wire.session import WELCOME_LIMIT, Answered, Close, Deliver, Send, Session, Side

_log = logging.getLogger(__name__)

_HEARTBEAT = timedelta(seconds=30)  # until the welcome says another
_RETELL = 5.0  # seconds until a status that the server could not take is told again
_REFUSALS_AT_MOST = 3
_RETRIED = frozenset({Code.BUSY, Code.FAILED})
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Park(Exception):
    """The host wants the machine parked; the line on which it said so stays open."""

    def __init__(self, command: Command) -> None:
        super().__init__(command.id)
        self.command = command


class Conversation:
    """A session from the first word to the end of its link."""

    def __init__(
        self,
        *,
        link: Link,
        worker: Worker,
        logs: Logs,
        alerts: Alerts,
        hello_limit: timedelta = WELCOME_LIMIT,
        aside: Callable[[Command], Success | Failure | None] = lambda _: None,
        parks: bool = False,
    ) -> None:
        """`aside` answers what is no skill's. With `parks` the command `park` ends it by Park, the link left open."""
        self._aside = aside
        self._parks = parks
        self._park: Command | None = None
        self._link = link
        self._worker = worker
        self._logs = logs
        self._alerts = alerts
        self._session = Session(side=Side.AGENT, heartbeat=_HEARTBEAT, now=_now(), welcome_limit=hello_limit)
        self._urgent: deque[str] = deque()
        self._wake = worker.news
        self._retime = asyncio.Event()
        self._asked = 0
        self._openings: dict[str, asyncio.Future[Success | Failure]] = {}
        self._batch: Batch | None = None
        self._told: dict[str, Alert] = {}
        self._refusals: dict[str, int] = {}
        self._retelling: set[str] = set()
        self._group: asyncio.TaskGroup | None = None
        self.welcome: Welcome | None = None

    @property
    def is_welcome(self) -> bool:
        """Whether hello was accepted."""
        return self.welcome is not None

    async def open(self, method: str, params: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Say a first word (enrol, hello) and wait for its answer. Only while `run` runs. Raises Unwelcome."""
        response = await self._ask_first(method, params)
        if isinstance(response, Success):
            return response.result
        after = wish(response.details.get("retry_after"))
        raise Unwelcome(f"{method}: {response.msg}", retry_after=after, code=response.code)

    async def hello(self, hello: Hello) -> None:
        """Begin the session; then tell what is to be told again. Only while `run` runs."""
        welcome = Welcome.from_params(await self.open("hello", hello.params()))
        await self._worker.raise_fences(welcome.fences, epoch=welcome.epoch)
        self._worker.forget(welcome.forget)
        # Before any output may go: what the last session had sent ahead is not on the server.
        self._worker.spool.rewind(welcome.deliver)
        self.welcome = welcome
        for status in self._worker.finals():
            self.tell(status)
        self._alerts.begin_session()
        self._wake.set()

    async def ask(self, method: str, params: Mapping[str, JSON]) -> Success | Failure:
        """Say a command in a session that is welcome, and wait for its answer."""
        return await self._ask_first(method, params)

    async def run(self, opening: Callable[["Conversation"], object]) -> str:
        """Speak until the link is over; gives the reason. `opening` is awaited beside: it says the first words.

        Raises Unwelcome if those are refused. The link is closed in every case but Park.
        """
        reason = "the conversation was ended"
        # Raised below: until Python 3.11.4 what is raised inside of `except*` comes out in a group again.
        ended: BaseException | None = None
        before = _cancelling()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                # Waits for: messages, something to send, the session's clock, alerts, the opening words. Whoever ends
                # first by an exception ends them all.
                for duty in (self._receive(), self._send(), self._keep_time(), self._alarm(), self._open(opening)):
                    group.create_task(duty)
        except* Park as park:
            ended = _first(park)
        except* (Closed, Malformed, _Over) as over:
            reason = str(_first(over))
        except* PaddockError as refused:
            reason = str(_first(refused))
            ended = _first(refused)
        finally:
            self._group = None
            if not isinstance(ended, Park):
                with contextlib.suppress(Exception):
                    await self._link.close(reason)
        # The group ended itself by cancelling us, and leaves that counted: before Python 3.11.4 each limit that runs
        # out later in this task would then end the task, where its caller waits for TimeoutError.
        while _cancelling() > before:
            _uncancel()
        if ended is not None:
            raise ended
        return reason

    def tell(self, status: Status) -> None:
        """Put a status on the way; before the welcome it is left to the next session."""
        if self.is_welcome:
            faults.at("agent.telling")
            self._command("task_status", status.params())

    # Duties

    async def _open(self, opening: Callable[["Conversation"], object]) -> None:
        done = opening(self)
        if asyncio.iscoroutine(done):
            await done

    async def _receive(self) -> None:
        while True:
            try:
                text = await self._link.receive()
            except Closed:
                # Whoever was answered by the last message hears the answer first: it may say why this is the end.
                await asyncio.sleep(0)
                raise
            await self._act(self._session.receive(text, _now()))
            self._retime.set()

    async def _send(self) -> None:
        while True:
            if self._park is not None:
                # Here, between two messages: what the host hears next is the answer to this.
                raise Park(self._park)
            if self._urgent:
                await self._link.send(self._urgent.popleft())
            elif self.is_welcome and (piece := self._next_piece()) is not None:
                await self._link.send(piece)
            else:
                # Waits for: a message of ours, output that grew or was acknowledged, a log line.
                await self._wake.wait()
                self._wake.clear()

    async def _keep_time(self) -> None:
        while True:
            due = self._session.next_due
            left = max((due - _now()).total_seconds(), 0) if due is not None else None
            with contextlib.suppress(TimeoutError):
                # Waits for: the session's next moment, or a message that moved it.
                async with asyncio.timeout(left):
                    await self._retime.wait()
            self._retime.clear()
            await self._act(self._session.due(_now()))

    async def _alarm(self) -> None:
        """Tell each alert when it is due: new ones now, others when they are to be repeated."""
        loop = asyncio.get_running_loop()
        while True:
            self._alerts.changed.clear()
            while self.is_welcome and (alert := self._alerts.take(loop.time())) is not None:
                self._tell_alert(alert)
            due = self._alerts.next_due() if self.is_welcome else None
            with contextlib.suppress(TimeoutError):
                # Waits for: an alert that begins, ends or was answered, the welcome, the next repetition.
                async with asyncio.timeout(None if due is None else max(due - loop.time(), 0)):
                    await self._alerts.changed.wait()

    # Acts

    async def _act(self, acts: list[Deliver | Answered | Send | Close]) -> None:
        for act in acts:
            match act:
                case Deliver(command=command):
                    self._spawn(command)
                case Answered(request=request, response=response):
                    self._hear(request, response)
                case Send(text=text):
                    self._put(text)
                case Close(reason=reason):
                    await self._flush()
                    raise _Over(reason)

    def _spawn(self, command: Command) -> None:
        if command.method == "park" and self._parks:
            self._park = command
            self._wake.set()
        elif self._group is not None:
            self._group.create_task(self._carry_out(command))

    async def _carry_out(self, command: Command) -> None:
        response = self._aside(command) or await self._worker.carry_out(command)
        try:
            self._put(self._session.answer(response, _now()))
        except Malformed as exc:
            failure = Failure(id=command.id, code=Code.FAILED, msg=f"the answer cannot be said: {exc.message}"[:500])
            self._put(self._session.answer(failure, _now()))

    def _hear(self, request: Command, response: Success | Failure) -> None:
        waiting = self._openings.pop(request.id, None)
        if waiting is not None:
            if not waiting.done():
                waiting.set_result(response)
        elif request.method == "output":
            self._hear_output(request, response)
        elif request.method == "task_status":
            self._hear_status(request, response)
        elif request.method == "log":
            self._hear_log(response)
        elif request.method == "alert":
            self._hear_alert(request, response)

    def _hear_log(self, response: Success | Failure) -> None:
        batch, self._batch = self._batch, None
        if isinstance(response, Failure) and response.code in _RETRIED:
            self._batch = batch  # nothing else is told until it is told again
            self._later(self._tell_logs_again)
            return
        if batch is not None:
            self._logs.pop(batch)  # also if it was refused for good: a line about that would be refused too
        self._wake.set()

    def _tell_logs_again(self) -> None:
        self._batch = None
        self._wake.set()

    def _hear_alert(self, request: Command, response: Success | Failure) -> None:
        alert = self._told.pop(request.id, None)
        if alert is None or self._group is None:
            return
        answer = response.result if isinstance(response, Success) else None
        is_final = isinstance(response, Failure) and response.code not in _RETRIED
        if is_final:
            _log.error("an alert was refused", extra={"about": alert.subject, "why": getattr(response, "msg", "")})
        now = asyncio.get_running_loop().time()
        self._group.create_task(self._alerts.hear(alert, answer, now=now, is_final=is_final))

    def _hear_output(self, request: Command, response: Success | Failure) -> None:
        task, stream = str(request.params["task_id"]), str(request.params["stream"])
        if isinstance(response, Success):
            offset = response.result.get("offset")
            if isinstance(offset, int):
                self._refusals.pop(task, None)
                self._worker.spool.acknowledge(task, stream, offset)
            return
        if self._worker.spool.pause(task):
            # One piece that was not taken makes all those behind it a gap: they go again together, a while later.
            self._refusals[task] = self._refusals.get(task, 0) + 1
            if response.code is Code.STALE or self._refusals[task] > _REFUSALS_AT_MOST:
                _log.warning("the rest of an output is given up", extra={"task": task, "why": response.msg})
                self._worker.abandon(task)
            else:
                self._later(lambda: self._worker.spool.again(task))

    def _hear_status(self, request: Command, response: Success | Failure) -> None:
        task = str(request.params["task_id"])
        if request.params["state"] == TaskState.RUNNING:
            return
        if isinstance(response, Failure) and response.code in _RETRIED:
            if task not in self._retelling:  # who asked for it meanwhile, ten times perhaps, starts no second rhythm
                self._retelling.add(task)
                self._later(lambda: self._retell(task, request.params))
            return
        if isinstance(response, Failure):
            # Its fence is dead, or it was never ours to the server: it takes no more of this task.
            self._worker.spool.drop(task)
        self._worker.told(task)

    def _retell(self, task: str, params: Mapping[str, JSON]) -> None:
        self._retelling.discard(task)
        self._command("task_status", params)

    def _later(self, act: Callable[[], object]) -> None:
        async def wait() -> None:
            await asyncio.sleep(_RETELL)
            act()

        if self._group is not None:
            self._group.create_task(wait())

    # Sending

    async def _ask_first(self, method: str, params: Mapping[str, JSON]) -> Success | Failure:
        command = Command(id=self._id(method), method=method, params=params)
        answer: asyncio.Future[Success | Failure] = asyncio.get_running_loop().create_future()
        self._openings[command.id] = answer
        self._put(self._session.send_command(command, _now()))
        self._retime.set()
        return await answer

    def _command(self, method: str, params: Mapping[str, JSON]) -> str:
        command = Command(id=self._id(method), method=method, params=params)
        try:
            self._put(self._session.send_command(command, _now()))
        except Malformed as exc:
            _log.error("a message cannot be said", extra={"method": method, "why": exc.message})
        except Refused:
            pass  # the session is closing: it is said on the next one
        return command.id

    def _next_piece(self) -> str | None:
        """Log lines, or the next piece of output; nothing that could wait is taken while something urgent does."""
        if self._batch is None and (batch := self._logs.peek()) is not None:
            self._batch = batch
            try:
                return self._text("log", batch.params)
            except Malformed:
                self._batch = None
                self._logs.pop(batch)
        piece: Output | None = self._worker.spool.take()
        if piece is None:
            return None
        faults.at("agent.output")
        try:
            return self._text("output", piece.params())
        except Malformed as exc:
            self._worker.spool.give_up(piece.task_id, piece.stream, exc.message)
            self._wake.set()  # others have something to say
            return None

    def _tell_alert(self, alert: Alert) -> None:
        faults.at("alerts.telling")
        self._told[self._command("alert", alert.params())] = alert

    def _text(self, method: str, params: Mapping[str, JSON]) -> str | None:
        try:
            return self._session.send_command(Command(id=self._id(method), method=method, params=params), _now())
        except Malformed:
            raise
        except Refused:
            return None  # the session is closing: it is said on the next one

    def _put(self, text: str) -> None:
        self._urgent.append(text)
        self._wake.set()

    async def _flush(self) -> None:
        """The last words, if the other side reads them."""
        with contextlib.suppress(Broken, TimeoutError):
            async with asyncio.timeout(1):
                while self._urgent:
                    await self._link.send(self._urgent.popleft())

    def _id(self, method: str) -> str:
        self._asked += 1
        return f"{method}-{self._asked}"


class _Over(Exception):
    """The session ended itself."""


def _cancelling() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _uncancel() -> None:
    if (task := asyncio.current_task()) is not None:
        task.uncancel()


def _now() -> datetime:
    """A steady clock, as a moment: only compared, never sent."""
    return _EPOCH + timedelta(seconds=asyncio.get_running_loop().time())


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
