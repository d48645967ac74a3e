"""Keepers on demand: a warm process forks them, each waiting at its task's gate.

Effects: journaled by the keeper's own record in the task's directory, written before `fork` returns. Until its gate is
opened nothing runs, so a fork whose answer got lost is made anew.
"""

import asyncio
import errno
import os
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from paddock.core.errors import Broken, Refused
from paddock.hands import groups, keeper, trees
from paddock.hands.control import CONTROL
from paddock.hands.exit import FULL, Exit, Reason, forget, read_exit
from paddock.hands.held import Full, Held, Lost, Silent, attach, read_group, read_keeper, take
from paddock.hands.order import Order
from paddock.hands.pump import OUTPUT, TIMES
from paddock.hands.warm import GROUPING

__all__ = [
    "FULL",
    "Exit",
    "Full",
    "Held",
    "Launcher",
    "Lost",
    "Order",
    "Reason",
    "Silent",
    "attach",
    "read_exit",
    "read_group",
    "read_keeper",
]

_AT_ONCE = 16  # forks under way; more only wait longer in the kernel's queue, with three descriptors each
_ANSWERS_WITHIN = 30.0
_TRIES = 3
_SILENCES = 2
_ROOT = Path(__file__).parents[2]  # where this package lies, also inside a .pyz
_WARM = "import sys; sys.path.insert(0, sys.argv[1]); from paddock.hands import warm; warm.main()"


class Launcher:
    """Forks keepers. One for an agent; starts its warm process at need, and anew when it has died.

    `grouping`: each task gets a control group of its own, where one can be had, unless its order names another.
    A warm process that has not answered after `answers_within` seconds (somebody stopped it) is ended and replaced.
    """

    def __init__(self, *, grouping: bool = True, answers_within: float = _ANSWERS_WITHIN) -> None:
        self._answers_within = answers_within
        self._has_scope = grouping
        self._words = [GROUPING] if grouping else []
        self._warm: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None
        self._sending = asyncio.Lock()
        self._forking = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def fork(self, order: Order, *, unopened: bool = False) -> Held:
        """A keeper with the task's child at its gate; nothing runs until `open_gate`. Safe to call concurrently.

        Refused if a limit would not hold, or if the directory holds a task that ran or may have run; one that never ran
        makes room. With `unopened` the caller's own record proves that no gate was ever opened for this task: a keeper
        that died without a record had not begun either. Full if its records find no space, Broken if no keeper can be
        had (no processes, no such directory).
        """
        if not order.argv:
            raise Refused(f"{order.task}: no command")
        async with self._forking:
            await self._make_room(order, unopened=unopened)
            silences = 0
            for _ in range(_TRIES):
                try:
                    held = await self._try(order)
                except TimeoutError:
                    silences += 1
                    await _end_silent(order.directory)
                    if silences == _SILENCES:
                        raise Broken(f"{order.task}: no keeper within {silences * self._answers_within:g} s") from None
                    held = None
                if held is not None:
                    return held
                _clear(order.directory)  # whoever was made there is dead, and we never opened its gate
        raise Broken(f"{order.task}: its keeper dies while being made")

    async def warm(self, directory: Path) -> None:
        """Have the warm process ready for the first task, by one that does nothing; the directory is its own."""
        order = Order(task="warm", directory=directory, argv=("/bin/true",), env={}, cwd=Path("/"))
        held = await self.fork(order)
        try:
            await held.open_gate()
            await held.ended()
        finally:
            held.close()

    async def close(self) -> None:
        """End the warm process; keepers live on."""
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if self._warm is not None:
            warm, self._warm = self._warm, None
            try:
                await asyncio.to_thread(warm.wait, 2)
            except subprocess.TimeoutExpired:
                warm.kill()
                await asyncio.to_thread(warm.wait)
            if warm.returncode > 0:
                # systemd gave no scope, perhaps: tasks are worth more than their groups.
                self._has_scope = False

    async def _make_room(self, order: Order, *, unopened: bool) -> None:
        directory = order.directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            trouble = Full if exc.errno in FULL else Broken
            raise trouble(f"{order.task}: {directory}: {exc.strerror}") from exc
        held = await attach(directory)
        if held is not None:
            try:
                if not await _has_given_up(held):
                    # One that has given up may still wait for a disk to take its record.
                    kind = Full if unopened and not held.is_open else Refused
                    raise kind(f"{order.task}: {directory} is held by keeper {held.identity.pid}")
            finally:
                held.close()
        ended = read_exit(directory)
        if ended is not None and not ended.ran:
            _clear(directory)
        elif ended is not None or ((directory / keeper.RECORD).exists() and not unopened):
            raise Refused(f"{order.task}: {directory} holds a task that ran before")
        else:
            _clear(directory)

    async def _try(self, order: Order) -> Held | None:
        """One attempt; None if the warm process or the keeper died before answering.

        TimeoutError if nobody answered; the warm process that should have is gone then.
        """
        asked = None
        ours, theirs = socket.socketpair()
        try:
            async with asyncio.timeout(self._answers_within):
                try:
                    with theirs:
                        asked = await self._send(order, theirs)
                except BaseException:
                    ours.close()
                    raise
                line = await take(ours)
                try:
                    identity = await asyncio.shield(line.heard)
                except BaseException:
                    line.close()
                    raise
        except TimeoutError:
            await self._replace(asked or self._orders)
            raise
        if identity is not None:
            return Held(directory=order.directory, identity=identity, line=line)
        if line.kind == "refused":
            raise Refused(f"{order.task}: {line.why}")
        if line.kind == "full":
            raise Full(f"{order.task}: {line.why}")
        if line.why:
            raise Broken(f"{order.task}: {line.why}")
        return None

    async def _replace(self, silent: socket.socket | None) -> None:
        """End the warm process behind this socket, if nobody else has yet; the next order starts another."""
        if silent is not None and silent is self._orders and self._warm is not None:
            self._warm.kill()  # what it does not read of a closed socket does not end it
            await self.close()

    async def _send(self, order: Order, theirs: socket.socket) -> socket.socket:
        """Gives the socket of the warm process that has the order now."""
        wanted = _file("order", order.encode())
        try:
            stdin = _file("stdin", order.stdin) if order.stdin else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                async with self._sending:
                    return await self._hand_over([theirs.fileno(), wanted, stdin])
            finally:
                os.close(stdin)
        finally:
            os.close(wanted)

    async def _hand_over(self, files: list[int]) -> socket.socket:
        for _ in range(_TRIES):
            orders = self._orders or self._start()
            try:
                while True:
                    try:
                        socket.send_fds(orders, [b"o"], files)
                        return orders
                    except BlockingIOError:
                        await asyncio.sleep(0.002)
            except OSError as exc:
                if orders is not self._orders:
                    continue  # it was replaced meanwhile
                if exc.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ECONNREFUSED):
                    raise Broken(f"launcher: {exc.strerror}") from exc
                await self.close()
        raise Broken("launcher: its warm process dies at once")

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._warm = subprocess.Popen(
                    # Isolated and without site: it needs the standard library and this package, and is forked often.
                    [
                        *(groups.scope() if self._has_scope else []),
                        sys.executable,
                        "-I",
                        "-S",
                        "-c",
                        _WARM,
                        str(_ROOT),
                        *self._words,
                        str(theirs.fileno()),
                    ],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C at the agent's terminal is not for it
                )
            except OSError as exc:
                ours.close()
                raise Broken(f"launcher: {sys.executable}: {exc.strerror}") from exc
        ours.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._orders = ours
        return ours


async def _has_given_up(held: Held) -> bool:
    """Whether this keeper's maker went away before opening the gate; it may be about to notice."""
    try:
        async with asyncio.timeout(1):
            if held.is_open:
                return False
            await held.ended()
    except TimeoutError:
        return False
    except Lost:
        pass
    return True


async def _end_silent(directory: Path) -> None:
    """End a keeper that was made and never answered, so that it writes nothing where another is to be."""
    made = read_keeper(directory)
    if made is not None:
        await trees.end(lambda: [made] if trees.is_alive(made) else [], grace=timedelta())


def _file(name: str, content: bytes) -> int:
    """An anonymous file in memory, read from its beginning."""
    handle = os.memfd_create(name, os.MFD_CLOEXEC)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def _clear(directory: Path) -> None:
    """Take away what a keeper whose gate was never opened has left."""
    forget(directory)
    for name in (keeper.RECORD, f"{keeper.RECORD}.new", CONTROL, OUTPUT, TIMES):
        with suppress(FileNotFoundError):
            os.unlink(directory / name)
