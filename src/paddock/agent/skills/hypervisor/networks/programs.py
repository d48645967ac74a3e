"""The programs of an environment's networks: started, found again, restarted, ended.

Effects: idempotent. A program says itself who it is, under a lock, and outlives the agent: whoever comes after finds it
by that, and never has two of it.
"""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from paddock.agent.cables.signing import MARK, signed_in
from paddock.core.errors import Broken
from paddock.hands import trees

_log = logging.getLogger(__name__)

_ROOT = Path(__file__).parents[5]  # where this package lies, also inside a .pyz
# asyncio does without TLS, which no program of ours speaks: a quarter of its memory.
_START = (
    "import sys; sys.modules['ssl'] = None; sys.path.insert(0, sys.argv.pop(1)); "
    "from importlib import import_module; import_module('paddock.agent.cables.' + sys.argv.pop(1)).main()"
)
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
FAULT = "PADDOCK_CABLE_FAULT"
"""Arms a crash point in these programs, as PADDOCK_FAULT does in the agent."""
_START_LIMIT = timedelta(seconds=20)
_LOOK_EVERY = 0.01
_RESTART_AFTER = 1.0


def ours(program: str, title: str, directory: Path, name: str) -> list[str]:
    """The command of a program of `agent.cables`; `title` is for whoever looks at a list of processes."""
    return [sys.executable, "-I", "-S", "-c", _START, str(_ROOT), program, title, str(directory), name]


class Programs:
    """A context: while it is open, each program that is kept is started again when it dies."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Path, str], tuple[_Program, asyncio.Task[None]]] = {}
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, duty in self._kept.values():
            duty.cancel()
        self._kept.clear()
        await self._group.__aexit__(kind, exc, trace)

    def keep(self, directory: Path, name: str, command: Sequence[str]) -> None:
        """It is started, if it does not run, and will be whenever it is dead. Idempotent.

        Nobody waits until it serves: a machine that is powered on meanwhile takes longer. One that does not come up is
        told in the log, with its last words, and tried again.
        """
        if (directory, name) not in self._kept:
            program = _Program(directory, name, command)
            program.spawn()
            self._kept[directory, name] = program, self._group.create_task(program.supervise())

    async def drop(self, directory: Path, name: str) -> None:
        """It does not run, proven. Idempotent."""
        program = self._release(directory, name) or _Program(directory, name, ())
        await trees.end(program.found, grace=timedelta())

    async def drop_all(self, directory: Path) -> None:
        """None of a directory runs, proven, whoever started it. Idempotent."""
        for place, name in list(self._kept):
            if place == directory:
                self._release(place, name)
        await trees.end(lambda: trees.marked(MARK, str(directory)), grace=timedelta())

    def kept(self, directory: Path) -> Iterable[str]:
        """Names of those that are kept for a directory."""
        return [name for place, name in self._kept if place == directory]

    def _release(self, directory: Path, name: str) -> "_Program | None":
        program, duty = self._kept.pop((directory, name), (None, None))
        if duty is not None:
            duty.cancel()
        return program


class _Program:
    def __init__(self, directory: Path, name: str, command: Sequence[str]) -> None:
        self._directory, self._name, self._command = directory, name, command
        self._child: subprocess.Popen[bytes] | None = None

    def found(self) -> list[trees.Identity]:
        """Whoever is it: the one that has signed, and one that was started and has not yet."""
        signed = signed_in(self._directory, self._name)
        started = self._child.pid if self._child is not None and self._child.poll() is None else None
        identities = [signed, trees.identify(started) if started is not None else None]
        return list({identity: None for identity in identities if identity is not None})

    async def start(self) -> None:
        """It has signed. Broken, with its last words, if it does not come up."""
        deadline = asyncio.get_running_loop().time() + _START_LIMIT.total_seconds()
        self.spawn()
        while signed_in(self._directory, self._name) is None:
            if self._child is not None and self._child.poll() is not None:
                raise Broken(f"{self._name}: ended at once: {self._last_words()}")
            if asyncio.get_running_loop().time() > deadline:
                raise Broken(f"{self._name}: does not come up: {self._last_words()}")
            await asyncio.sleep(_LOOK_EVERY)

    async def supervise(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        while True:
            born = loop.time()
            try:
                await self.start()
                for identity in self.found():
                    await _gone(identity)
                _log.warning("a network's program is dead", extra=self._fields())
            except (Broken, OSError) as exc:
                _log.error("a network's program does not start", extra={**self._fields(), "why": str(exc)})
            # One that dies at once is not started faster and faster.
            await asyncio.sleep(max(_RESTART_AFTER - (loop.time() - born), 0))

    def spawn(self) -> None:
        """A process is there that signs, or has signed."""
        if self.found():  # and a child that is dead is no zombie from here on
            return
        env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        env |= {"PADDOCK_FAULT": os.environ[FAULT]} if FAULT in os.environ else {}
        env |= {key: os.environ[key] for key in ("PADDOCK_FAULT_ONCE", "PADDOCK_FAULT_ACT") if key in os.environ}
        with (self._directory / f"{self._name}.log").open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env={**env, MARK: str(self._directory)},
                start_new_session=True,
            )

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = (self._directory / f"{self._name}.log").read_text("utf-8", "replace").strip().splitlines()
            return lines[-1][:500] if lines else "it said nothing"
        return "it said nothing"

    def _fields(self) -> dict[str, str]:
        return {"program": self._name, "directory": str(self._directory)}


async def _gone(identity: trees.Identity) -> None:
    """Wait until a process, child or not, has ended."""
    loop = asyncio.get_running_loop()
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        if trees.is_alive(identity):
            await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
