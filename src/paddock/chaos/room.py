"""Where the victim lives: processes, a disk and a boot of its own, where they can be had.

Effects: none that outlive it; a run that is killed takes its victim along, the disk included.

The disk is a small tmpfs in a mount namespace that a holder keeps, so that it survives the victim's reboots; each boot
is a process namespace below it with its own /proc and its own boot id. A reboot is the end of that namespace: whatever
ran in it is killed by the kernel at one blow. Where no namespace can be made the victim is a plain process tree.
"""

import asyncio
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from paddock.core.errors import Broken

_ANSWERS_WITHIN = 30.0
_BALLAST = "ballast"
_STEPS = (4 << 20, 256 << 10, 4 << 10)
_BOOT = """
mount -t proc proc /proc && mount --bind "$PADDOCK_BOOT_ID" /proc/sys/kernel/random/boot_id && exec "$@"
"""
_DISK = """
mount -t tmpfs -o "size=$1,mode=700" paddock-chaos "$2" && echo ready && exec cat
"""


class Room:
    """`directory` is on the machine's own disk; `disk` is the victim's."""

    def __init__(self, directory: Path, *, size: int) -> None:
        self.disk = directory / "disk"
        self.why_plain = ""
        """Why there are no namespaces, and with them no reboot and no full disk; empty where there are."""
        self._directory = directory
        self._size = size
        self._holder: asyncio.subprocess.Process | None = None
        self._victim: asyncio.subprocess.Process | None = None
        self._speaking = asyncio.Lock()
        self._argv: Sequence[str] = ()
        self._env: Mapping[str, str] = {}
        self.boots = 0

    async def open(self) -> None:
        """Make the disk."""
        self.disk.mkdir(mode=0o700)
        self.why_plain = await self._hold()

    async def _hold(self) -> str:
        """Start the holder; why that cannot be."""
        for tool in ("unshare", "nsenter", "mount"):
            if shutil.which(tool) is None:
                return f"{tool} is not installed"
        mapped = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        words = ["unshare", *mapped, "--mount", "--propagation", "private", "sh", "-c", _DISK, "sh"]
        holder = await asyncio.create_subprocess_exec(
            *words,
            str(self._size),
            str(self.disk),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._holder = holder
        assert holder.stdout is not None
        assert holder.stderr is not None
        if await holder.stdout.readline() == b"ready\n":
            why = await self._cannot_boot()
        else:
            why = (await holder.stderr.read()).decode(errors="replace").strip() or "no namespaces"
        if why:
            await self._let_go()
        return why.splitlines()[-1] if why else ""

    async def _cannot_boot(self) -> str:
        """Try the way that every boot goes."""
        trial = self._directory / "boot-id"
        trial.write_text(f"{uuid.uuid4()}\n")
        done = await asyncio.create_subprocess_exec(
            *self._within(),
            "true",
            env={**os.environ, "PADDOCK_BOOT_ID": str(trial)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        _, said = await done.communicate()
        return (said.decode(errors="replace").strip() or "no process namespace") if done.returncode else ""

    def _within(self) -> list[str]:
        """Into the holder's mounts, then a process namespace of its own."""
        assert self._holder is not None
        mapped = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        enter = ["nsenter", "--target", str(self._holder.pid), *mapped, "--mount", "--"]
        alone = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--propagation", "private"]
        return [*enter, *alone, "sh", "-c", _BOOT, "sh"]

    # Its life

    async def boot(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start the victim's first process; from then on `reboot` does it again."""
        self._argv, self._env = argv, env
        self.boots += 1
        environment = dict(env)
        if not self.why_plain:
            boot_id = self._directory / "boot-id"
            boot_id.write_text(f"{uuid.uuid4()}\n")
            environment["PADDOCK_BOOT_ID"] = str(boot_id)
        log = (self._directory / "agent.log").open("ab")
        with log:
            self._victim = await asyncio.create_subprocess_exec(
                *([] if self.why_plain else self._within()),
                *argv,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                limit=16 << 20,
            )

    async def reboot(self) -> None:
        """At one blow nobody lives, and another boot begins on the same disk."""
        async with self._speaking:
            await self._kill()
            await self.boot(self._argv, self._env)

    async def say(self, *words: Any) -> Any:
        """A word to the first process, and its answer."""
        async with self._speaking:
            victim = self._victim
            if victim is None or victim.stdin is None or victim.stdout is None:
                raise Broken("victim: it does not live")
            try:
                victim.stdin.write(json.dumps(words).encode() + b"\n")
                await victim.stdin.drain()
                async with asyncio.timeout(_ANSWERS_WITHIN):
                    line = await victim.stdout.readline()
            except (OSError, TimeoutError) as exc:
                raise Broken(f"victim: its first process does not answer: {exc!r}") from exc
            if not line:
                raise Broken("victim: its first process has ended", hint=f"see {self._directory / 'agent.log'}")
            return json.loads(line)

    async def _kill(self) -> None:
        victim, self._victim = self._victim, None
        if victim is None:
            return
        if self.why_plain:
            if victim.stdin is not None:
                victim.stdin.close()  # it ends everybody, then itself
        else:
            # The kernel sends its child, the first process, a KILL, and with that one everybody in the namespace.
            with suppress(ProcessLookupError):
                victim.kill()
        await victim.wait()

    async def close(self) -> None:
        """Nobody lives and the disk is gone."""
        await self._kill()
        await self._let_go()

    async def _let_go(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            if holder.stdin is not None:
                holder.stdin.close()
            with suppress(ProcessLookupError):
                holder.kill()
            await holder.wait()

    # Its disk

    @property
    def there(self) -> Path:
        """The victim's disk as this process can reach it."""
        if self._holder is None:
            return self.disk
        return Path(f"/proc/{self._holder.pid}/root{self.disk}")

    def fill(self, *, leave: int) -> None:
        """Take all of the disk's room but `leave` bytes."""
        handle = os.open(self.there / _BALLAST, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            for step in _STEPS:
                # What is asked for and not there fails as a whole, and others write meanwhile: piece by piece.
                with suppress(OSError):
                    while self.room >= leave + step:
                        os.posix_fallocate(handle, os.fstat(handle).st_size, step)
        finally:
            os.close(handle)

    @property
    def room(self) -> int:
        """Bytes that are free on it."""
        place = os.statvfs(self.there)
        return place.f_bavail * place.f_frsize

    def free(self) -> None:
        """Give the room back."""
        with suppress(FileNotFoundError):
            (self.there / _BALLAST).unlink()
