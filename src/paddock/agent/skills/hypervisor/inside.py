"""The agent inside of a machine, asked by its host until the machine is relayed.

Effects: those of what the guest is asked; asking for a park again is no harm, and a wake is taken once.

The host reads only while it asks for something. What is left of the line when it has done asking is what the relay
goes on with: a guest that was just woken has said hello on it already.
"""

import asyncio
import base64
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from paddock.core.errors import Broken
from paddock.hands import links
from paddock.hands.lines import BEGAN_ANEW, LineLink, dial_unix
from paddock.hands.link import Closed, Link
from paddock.wire.framing import JSON, Malformed
from paddock.wire.hello import LOG_STREAM, Hello, Output, Status, TaskState, Welcome
from paddock.wire.messages import Command, Failure, Success
from paddock.wire.session import Answered, Close, Deliver, Send, Session, Side
from paddock.wire.specs import Wake

_log = logging.getLogger(__name__)

CHANNEL = "channel"
_QUIET = timedelta(hours=1)
"""Between two calls nobody reads: the guest is told not to ask whether we live."""
_DIALS_EVERY = 0.05
_DIALS_FOR = 5.0
"""Seconds: a machine that was started listens at once, and one that still does not has died."""
_FORK_PATIENCE = 3.0
"""Seconds: a fork that is well has answered in a tenth of one."""
_WAITS_FOR_RELAY = 10.0
_LAST_WORDS = 1.0
_PIECE = 256 << 10


class Inside:
    """One guest, over the socket at which its channel ends. One call at a time; a call may be cancelled."""

    def __init__(self, path: Path, *, name: str = "", is_fork: bool = False) -> None:
        """`is_fork`: it was frozen when it was parked, with a session open, and goes on in the middle of that."""
        self._path = path
        self._name = name or path.parent.name
        self._link: LineLink | None = None
        self._is_fork = is_fork
        self._told: tuple[str, Wake] | None = None
        """Who a fork is told to be, and under which id, while that is not answered."""
        self._session = self._new_session()
        self._answers: dict[str, Success | Failure] = {}
        self._own = secrets.token_hex(4)
        self._asked = 0
        self._statuses: dict[str, Status] = {}
        self._task = ""
        self._length = 0
        self._output: Callable[[bytes], None] = _nobody
        self.is_somebody = False
        """Woken, and not parked since."""
        self.said: Hello | None = None
        """The guest's hello, once it was answered."""

    async def parked(self, limit: timedelta) -> None:
        """It is there and waits for its wake. Broken if it does not come within the limit.

        One that is somebody already, as on a copied disk, is told to forget that.
        """
        with self._within("it is not parked", limit):
            async with asyncio.timeout(limit.total_seconds()):
                await self._dial()
                while not self._session.is_parked:
                    await self._step()
                    if self._session.is_welcome:
                        await self._park(power_off=False)

    async def wake(self, wake: Wake, limit: timedelta) -> str:
        """It is who it is told to be; its boot_id. Broken, with its words, if it is not."""
        with self._within("it does not wake", limit):
            async with asyncio.timeout(limit.total_seconds()):
                await self._dial()
                return await self._wake(wake)

    async def listen(self) -> None:
        """Be at the line before a fork's machine is: it finds its host where its template had one."""
        await self._dial()

    async def tell(self, wake: Wake) -> None:
        """Say to a fork that stands still who it is: it hears that first when it runs. `woken` waits for its answer."""
        await self._dial()
        command = self._command("wake", wake.params())
        self._told = (command.id, wake)
        await self._send(command)

    async def woken(self, limit: timedelta) -> str:
        """The boot_id of a fork that was told who it is. Broken, with its words, if it is not."""
        if self._told is None:
            raise Broken(f"{self._name}: ran before it could be told who it is")
        (id, wake), self._told = self._told, None
        with self._within("it does not wake", limit):
            async with asyncio.timeout(limit.total_seconds()):
                try:
                    async with asyncio.timeout(_FORK_PATIENCE):
                        result = await self._answer_to(id)
                except (_Anew, TimeoutError):
                    # It has noticed that its host was away, and waits for a session.
                    if self._link is not None:
                        await self._begin(self._link)
                    return await self._wake(wake)
        self.is_somebody = True
        return str(result.get("boot_id", ""))

    async def hello(self, limit: timedelta) -> Hello:
        """What it says of itself, answered."""
        with self._within("it does not say hello", limit):
            async with asyncio.timeout(limit.total_seconds()):
                return await self._hello()

    async def run(
        self,
        script: str,
        *,
        interpreter: str,
        env: Mapping[str, str],
        limit: timedelta,
        files: Mapping[str, str] | None = None,
        output: Callable[[bytes], None] | None = None,
    ) -> int:
        """The exit code of a script that it has run to its end. `files` are put there before, by path; `output` hears
        what it prints. Broken if it could not run, or took longer than the limit.
        """
        with self._within("its script does not end", limit):
            # A while more than the guest has: it knows better why.
            async with asyncio.timeout(limit.total_seconds() + 30):
                for path, text in (files or {}).items():
                    await self._put(path, text)
                return await self._run(script, interpreter, env, limit, output or _nobody)

    async def park(self, limit: timedelta, *, power_off: bool = False) -> None:
        """It has forgotten who it was, and waits again; or its machine goes off."""
        with self._within("it does not park", limit):
            async with asyncio.timeout(limit.total_seconds()):
                await self._dial()
                if self.is_somebody or not self._session.is_parked:
                    await self._hello()
                await self._park(power_off=power_off)

    def release(self) -> Link | None:
        """The line, for whoever relays it from here on; None if there is none."""
        link, self._link = self._link, None
        return link

    async def close(self) -> None:
        """Leave the line. Idempotent."""
        if (link := self.release()) is not None:
            await link.close("the host is done")

    # Steps

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + _DIALS_FOR
        while self._link is None:
            try:
                link = await dial_unix(self._path, serial=True, joined=self._is_fork)
            except OSError as exc:
                if loop.time() > end:
                    raise Broken(f"{self._name}: its machine does not run: {exc.strerror}") from exc
                # Its process is about to make it.
                await asyncio.sleep(_DIALS_EVERY)
                continue
            self._link = link
            if not self._is_fork:
                await self._begin(link)

    async def _begin(self, link: LineLink) -> None:
        """Open a session, whatever was said before."""
        self._is_fork = False
        self._session = self._new_session()
        self._answers.clear()
        await link.begin()

    def _new_session(self) -> Session:
        return Session(side=Side.SERVER, heartbeat=_QUIET, now=_now(), is_host=True, is_parked=self._is_fork)

    async def _wake(self, wake: Wake) -> str:
        while True:
            while not self._session.is_parked:
                await self._step()
                if self._session.is_welcome and self.said is not None:
                    # It had recorded the wake, and died before it could say so.
                    if self.said.boot_id.endswith(f"+{wake.wake_id}"):
                        self.is_somebody = True
                        return self.said.boot_id
                    raise Broken(f"{self._name}: it is not parked")
            try:
                result = await self._ask("wake", wake.params())
            except _Anew:
                continue  # half a wake is no wake
            self.is_somebody = True
            return str(result.get("boot_id", ""))

    async def _hello(self) -> Hello:
        await self._dial()
        while not self._session.is_welcome or self.said is None:
            await self._step()
        return self.said

    async def _park(self, *, power_off: bool) -> None:
        while True:
            try:
                await self._ask("park", {"power_off": power_off})
            except _Anew:
                # It died on its way, and goes on by itself; one that is to go off is asked again.
                while not self._session.is_parked:
                    await self._step()
                    if self._session.is_welcome:
                        break
                if power_off or not self._session.is_parked:
                    continue
            self.said, self.is_somebody = None, False
            return

    async def _put(self, path: str, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")
        for offset in range(0, max(len(data), 1), _PIECE):
            piece = base64.b64encode(data[offset : offset + _PIECE]).decode("ascii")
            await self._order("file.put", {"path": path, "data": piece, "offset": offset})

    async def _run(
        self, script: str, interpreter: str, env: Mapping[str, str], limit: timedelta, output: Callable[[bytes], None]
    ) -> int:
        self._task = task = f"inside-{secrets.token_hex(6)}"
        self._length, self._output = 0, output
        params: dict[str, JSON] = {"task_id": task, "run": script, "interpreter": interpreter, "env": dict(env)}
        try:
            await self._order("script.run", {**params, "limit": limit.total_seconds()})
            while (final := self._statuses.get(task)) is None or self._length < final.outputs.get(LOG_STREAM, 0):
                await self._step()
        except asyncio.CancelledError:
            await self._cancel(task)
            raise
        finally:
            self._task, self._output = "", _nobody
        del self._statuses[task]
        code = (final.result or {}).get("exit")
        if final.state is not TaskState.COMPLETE or not isinstance(code, int):
            raise Broken(f"{self._name}: {final.msg or 'its script came to no end'}")
        return code

    async def _cancel(self, task: str) -> None:
        """The last word to whoever runs something that nobody waits for."""
        if self._link is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_LAST_WORDS):
                    cancelling = self._command("task.cancel", {"task_id": task, "grace": 5})
                    await self._link.send(self._session.send_command(cancelling, _now()))

    async def _ask(self, method: str, params: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """The answer's result. Broken, with the guest's words, if it is none."""
        return await self._say(self._command(method, params))

    async def _order(self, method: str, params: Mapping[str, JSON]) -> None:
        """The same of somebody: asked again under the same id it is done once, whatever died meanwhile."""
        command = self._command(method, params)
        while True:
            await self._hello()
            with contextlib.suppress(_Anew):
                await self._say(command)
                return

    async def _say(self, command: Command) -> Mapping[str, JSON]:
        await self._send(command)
        return await self._answer_to(command.id)

    async def _send(self, command: Command) -> None:
        if self._link is None:
            raise Closed(f"{self._name}: no line")
        await self._link.send(self._session.send_command(command, _now()))

    async def _answer_to(self, id: str) -> Mapping[str, JSON]:
        while id not in self._answers:
            await self._step(anew=True)
        match self._answers.pop(id):
            case Success(result=result):
                return result
            case Failure(msg=msg):
                raise Broken(f"{self._name}: {msg}")

    def _command(self, method: str, params: Mapping[str, JSON]) -> Command:
        self._asked += 1
        # The guest's journal knows ids, and other calls of ours may have used numbers.
        return Command(id=f"{method}-{self._own}-{self._asked}", method=method, params=params)

    async def _step(self, *, anew: bool = False) -> None:
        """One message. A guest whose agent begins anew is answered by a new session; `anew`: then raise _Anew."""
        if (link := self._link) is None:
            raise Closed(f"{self._name}: no line")
        try:
            text = await link.receive()
        except Closed as exc:
            if exc.message != BEGAN_ANEW:
                raise
            await self._begin(link)
            if anew:
                raise _Anew(f"{self._name}: its agent began anew") from exc
            return
        for act in self._session.receive(text, _now()):
            match act:
                case Deliver(command=command):
                    await link.send(self._session.answer(self._answer(command), _now()))
                case Answered(request=request, response=response):
                    self._answers[request.id] = response
                case Send(text=reply):
                    await link.send(reply)
                case Close(reason=reason):
                    raise Broken(f"{self._name}: {reason}")

    def _answer(self, command: Command) -> Success | Failure:
        match command.method:
            case "hello":
                self.said = Hello.from_params(command.params)
                welcome = Welcome(session="inside", heartbeat=_QUIET, epoch=0, server_time=datetime.now(UTC), fences={})
                return Success(id=command.id, result=welcome.params())
            case "task_status":
                status = Status.from_params(command.params)
                if status.state in (TaskState.COMPLETE, TaskState.ERROR) and status.task_id == self._task:
                    self._statuses[status.task_id] = status
            case "output":
                return Success(id=command.id, result={"offset": self._hear(Output.from_params(command.params))})
            case "log" | "alert":
                _log.debug("a guest says", extra={"guest": self._name, "said": str(command.params.get("msg"))})
        return Success(id=command.id, result={"acknowledged": True} if command.method == "alert" else {})

    def _hear(self, piece: Output) -> int:
        """How much of the stream is here now."""
        if piece.task_id != self._task or piece.stream != LOG_STREAM:
            return piece.end
        if piece.offset <= self._length < piece.end:
            self._output(piece.data[self._length - piece.offset :])
            self._length = piece.end
        return self._length

    @contextmanager
    def _within(self, what: str, limit: timedelta) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise Broken(f"{self._name}: {what} within {limit.total_seconds():g} s") from None
        except (Closed, Malformed) as exc:
            raise Broken(f"{self._name}: {exc.message}") from exc


class Channels:
    """The channels of this host's machines: asked by us first, then relayed on the same line."""

    def __init__(self) -> None:
        self._left: dict[Path, Link] = {}
        self._closing: set[asyncio.Future[None]] = set()

    @asynccontextmanager
    async def inside(self, directory: Path, *, is_fork: bool = False) -> AsyncIterator[Inside]:
        """The guest of the machine in this directory, while the block runs; its line is kept for a relay if all went
        well and it is somebody.
        """
        await self._drop(directory)
        guest = Inside(directory / CHANNEL, is_fork=is_fork)
        try:
            yield guest
        except BaseException:
            await guest.close()
            raise
        if guest.is_somebody and (link := guest.release()) is not None:
            self._left[directory] = link
            asyncio.get_running_loop().call_later(_WAITS_FOR_RELAY, self._forget, directory, link)
        await guest.close()

    async def reach(self, directory: Path) -> Link:
        """A link for a relay: the line on which the guest was woken, where its hello waits, or a new session."""
        if (link := self._left.pop(directory, None)) is not None:
            return link
        return await links.connect(f"serial:{directory / CHANNEL}")

    async def close(self) -> None:
        """Leave every line that nobody came for."""
        for directory in [*self._left]:
            await self._drop(directory)

    async def _drop(self, directory: Path) -> None:
        if (link := self._left.pop(directory, None)) is not None:
            await link.close("nobody came for it")

    def _forget(self, directory: Path, link: Link) -> None:
        if self._left.get(directory) is link:
            del self._left[directory]
            closing = asyncio.ensure_future(link.close("nobody came for it"))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


class _Anew(Broken):
    """The guest's agent began anew: what was asked is asked again, or is lost."""


def _nobody(data: bytes) -> None:
    """Nobody listens."""


def _now() -> datetime:
    """Between calls nobody looks at the clock: only messages move a session here."""
    return datetime.now(UTC)
