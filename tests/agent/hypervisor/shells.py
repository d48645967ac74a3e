"""A guest with a shell on its console, for tests of networks: kernel, busybox, drivers; up in two seconds."""

import contextlib
import ctypes
import re
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from paddock.agent.skills.hypervisor.errands import kernel
from paddock.agent.skills.hypervisor.errands.cpio import Archive
from paddock.agent.skills.hypervisor.ports import Card
from paddock.core.errors import PaddockError
from tools.maven import Unavailable

QEMU = "qemu-system-x86_64"
MODULES = ("virtio_pci", "virtio_net")
BOOTS = 90.0
"""Seconds in which a guest must be up, on a machine that is busy with other tests."""

_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /etc
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in MODULES; do insmod /modules/$module 2>/dev/null; done
ip link set lo up
stty -F /dev/ttyS0 -echo -onlcr
export PS1=
exec setsid sh -c 'while :; do sh </dev/ttyS0 >/dev/ttyS0 2>&1; done'
"""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def system(directory: Path) -> tuple[Path, Path]:
    """Kernel and initrd. `Unavailable` where this machine has not what they are made of."""
    try:
        found, busybox = kernel.find(), kernel.busybox()
    except PaddockError as exc:
        raise Unavailable(f"guest: {exc.message}; {exc.hint}") from exc
    archive, names = Archive(), []
    for name, content in found.files(MODULES):
        archive.file(f"modules/{name}", content)
        names.append(name)
    archive.file("bin/busybox", busybox, mode=0o755)
    archive.file("init", _INIT.replace("MODULES", " ".join(names)).encode(), mode=0o755)
    place = directory / "initrd"
    place.write_bytes(archive.content())
    return found.image, place


class Guest:
    """One guest: QEMU in a directory of its own, with these cards."""

    def __init__(self, system: tuple[Path, Path], directory: Path, cards: Sequence[Card]) -> None:
        self._system, self._directory, self._cards = system, directory, cards
        self._process: subprocess.Popen[bytes] | None = None
        self._console: socket.socket | None = None
        self._heard = b""
        self._asked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start QEMU and wait for nothing."""
        with (self._directory / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )

    def until_up(self) -> None:
        """Wait until its shell answers."""
        end = time.monotonic() + BOOTS
        while self._console is None:
            assert self._process is not None
            assert self._process.poll() is None, self.log
            assert time.monotonic() < end, "QEMU opens no console"
            tty = socket.socket(socket.AF_UNIX)
            try:
                tty.connect(str(self._directory / "tty"))
                self._console = tty
            except OSError:
                tty.close()
                time.sleep(0.02)  # QEMU is about to make it
        while True:
            with contextlib.suppress(TimeoutError):
                self.attempt("true", limit=1)
                return
            assert time.monotonic() < end, f"not up:\n{self._heard.decode(errors='replace')[-3000:]}\n{self.log}"

    @property
    def log(self) -> str:
        """What QEMU said."""
        return (self._directory / "qemu.log").read_text()

    def run(self, command: str, *, limit: float = 30) -> str:
        """What a shell command prints; fails the test if it fails."""
        code, out = self.attempt(command, limit=limit)
        assert code == 0, f"{command}: ended with {code}\n{out}"
        return out

    def until(self, command: str, *, limit: float = 30) -> str:
        """Run it until it succeeds."""
        end = time.monotonic() + limit
        while True:
            code, out = self.attempt(command, limit=limit)
            if code == 0:
                return out
            assert time.monotonic() < end, f"not within {limit:g} s: {command}\n{out}"
            time.sleep(0.05)

    def attempt(self, command: str, *, limit: float = 30) -> tuple[int, str]:
        """Exit code and output of a shell command."""
        assert self._console is not None
        self._asked += 1
        # The mark is cut in two where it is written, so that an echo is not taken for an answer.
        said = f"\necho __''{self._asked}__; {command}\necho __''{self._asked}__ $?\n"
        self._console.settimeout(limit)
        self._console.sendall(said.encode())
        mark = f"__{self._asked}__"
        pattern = re.compile(rf"{mark}\r?\n(.*?){mark} (\d+)\r?\n".encode(), re.DOTALL)
        end = time.monotonic() + limit
        while not (found := pattern.search(self._heard)):
            self._console.settimeout(max(end - time.monotonic(), 0.001))
            got = self._console.recv(1 << 16)
            assert got, self.log
            self._heard += got
        self._heard = self._heard[found.end() :]
        return int(found[2]), found[1].decode(errors="replace").replace("\r", "").strip()

    def kill(self) -> None:
        """A power cut. Idempotent."""
        if self._console is not None:
            self._console.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        (self._directory / "tty").unlink(missing_ok=True)
        self._console = self._process = None
        self._heard = b""

    def _command(self) -> list[str]:
        image, initrd = self._system
        command = [
            *(QEMU, "-accel", "tcg,thread=multi,tb-size=128", "-machine", "pc", "-cpu", "max,la57=off"),
            *("-smp", "1", "-m", "128", "-nodefaults", "-no-user-config", "-display", "none"),
            *("-kernel", str(image), "-initrd", str(initrd)),
            *("-append", "console=ttyS0 quiet panic=1 mitigations=off"),
            # As the driver starts it: whatever a card's other end needs must be able to live with it.
            *("-sandbox", "on,obsolete=deny,resourcecontrol=deny"),
            *("-chardev", "socket,id=tty,path=tty,server=on,wait=off", "-serial", "chardev:tty"),
        ]
        for number, card in enumerate(self._cards):
            device = f"virtio-net-pci,mac={card.mac},romfile="
            if card.netdev:
                command += ["-netdev", f"{card.netdev},id=net{number}"]
                device += f",netdev=net{number}"
            command += ["-device", device]
        return command


def _end_with_parent() -> None:
    """Tests that are killed leave no machine behind."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
