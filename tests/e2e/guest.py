"""A real Debian guest: QEMU on an overlay of the shared image, with a shell that asks nothing of Paddock.

TCG only: a /dev/kvm that opens may still never bring a guest to user space. Measured on two cores with a neighbour:
8 to 9 s from the start of QEMU to an answering shell, 10 s for a reboot, 1 s to power off.

What a guest has, beside its system disk:
- a network of its own (QEMU's `user`): the tests' 127.0.0.1:PORT is 10.0.2.2:PORT there, also named `house`;
- the channel `org.paddock.0`: /dev/virtio-ports/org.paddock.0 there, the unix socket `channel` here;
- the shell of the tests on a second port, as root, baked into the image and no part of Paddock;
- blank disks, asked for by serial number: /dev/disk/by-id/virtio-SERIAL there.
"""

import base64
import contextlib
import ctypes
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools.guest import SHELL, Image, image
from tools.maven import Unavailable

QEMU = "qemu-system-x86_64"
HOUSE = "10.0.2.2"
"""Where a guest finds what listens on the loopback of the machine that runs the tests."""
CHANNEL = "org.paddock.0"
TRANSLATED = 128
"""MiB of translated code. With QEMU's own 1 GiB, what one boot left makes the next take three times as long."""
BOOTS = 180.0
"""Seconds in which a guest must be up, on a machine that is busy with other tests."""
PATIENCE = 150.0
"""Seconds until what a guest was told to do hangs: our agent's start takes ten of its processor alone."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command in the guest ended: `code` is None if its limit ended it; `out` is all that it printed."""

    code: int | None
    out: str


class Guest:
    """One virtual machine, from `start` to `kill`, as often as one likes; its disks stay in its directory."""

    def __init__(self, directory: Path, image: Image, *, disks: Mapping[str, str] | None = None) -> None:
        """`disks` are blank ones: serial number to size, as qemu-img takes it."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.image = image
        self.disks = dict(disks or {})
        self.uuid = str(uuid.uuid4())
        """What the guest reads as product_uuid."""
        # Paths of unix sockets are short.
        self._sockets = Path(tempfile.mkdtemp(prefix="guest-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._shell: Lines | None = None
        self._asked = 0
        _overlay(directory / "system.qcow2", backing=image.disk)
        for serial, size in self.disks.items():
            _img("create", "-f", "qcow2", str(directory / f"{serial}.qcow2"), size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def channel(self) -> Path:
        """The machine's end of the channel `org.paddock.0`: dial it; one at a time."""
        return self._sockets / "channel"

    @property
    def pid(self) -> int | None:
        """QEMU, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def console(self) -> str:
        """What kernel and systemd have said on the console, of every boot."""
        file = self.directory / "console.log"
        return file.read_text(errors="replace") if file.exists() else ""

    # ---- life

    def launch(self) -> None:
        """Start QEMU and wait for nothing."""
        assert self.pid is None, "it runs"
        for name in ("shell", "channel", "qmp"):
            (self._sockets / name).unlink(missing_ok=True)
        errors = (self.directory / "qemu.log").open("ab")
        self._process = subprocess.Popen(
            self._command(), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, preexec_fn=_end_with_parent
        )
        errors.close()

    def start(self) -> None:
        """Start QEMU and wait until the shell answers."""
        self.launch()
        self.until_up()

    def until_up(self, *, limit: float = BOOTS) -> None:
        """Wait until the shell of the tests answers."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if self.pid is None:
                raise AssertionError(f"QEMU ended: {(self.directory / 'qemu.log').read_text()}")
            with contextlib.suppress(TimeoutError, OSError):
                if self._ask("true", timeout=10, patience=1).code == 0:
                    return
        raise AssertionError(f"not up within {limit:.0f} s:\n{self.console[-3000:]}")

    def until_rebooted(self, former: str, *, limit: float = BOOTS) -> str:
        """Wait for a boot other than `former`, and return its id."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                answer = self._ask("cat /proc/sys/kernel/random/boot_id", timeout=10, patience=1)
                if answer.out.strip() != former:
                    return answer.out.strip()
        raise AssertionError(f"no new boot within {limit:.0f} s:\n{self.console[-3000:]}")

    def reboot(self) -> str:
        """Reboot it from within, and return the new boot's id."""
        former = self.boot_id
        self.tell("systemctl reboot")
        return self.until_rebooted(former)

    def power_off(self, *, limit: float = 60) -> None:
        """Shut it down in order: what it has written is on its disks."""
        assert self._process is not None
        self.tell("systemctl poweroff")
        self._process.wait(limit)
        self.kill()

    def kill(self) -> None:
        """A power cut. Idempotent."""
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def reset(self) -> None:
        """The reset button: it boots again, and nothing was written in order."""
        self.qmp("system_reset")

    def close(self) -> None:
        """Kill it, and remove its sockets and disks. Idempotent; the console's log stays."""
        self.kill()
        shutil.rmtree(self._sockets, ignore_errors=True)
        for disk in self.directory.glob("*.qcow2"):
            disk.unlink()

    def copied(self, directory: Path) -> "Guest":
        """Another machine with a copy of this one's disks, as they are: switch this one off first."""
        assert self.pid is None, "its disks are being written to"
        copy = Guest(directory, self.image, disks=self.disks)
        for disk in self.directory.glob("*.qcow2"):
            shutil.copy(disk, directory / disk.name)
        return copy

    # ---- in the guest

    def run(self, command: str, *, stdin: bytes = b"", limit: float = PATIENCE) -> str:
        """What a root shell command prints, errors included; fails the test if it fails."""
        done = self.attempt(command, stdin=stdin, limit=limit)
        assert done.code == 0, f"{command}: ended with {done.code}\n{done.out}"
        return done.out.strip()

    def attempt(self, command: str, *, stdin: bytes = b"", limit: float = PATIENCE) -> Done:
        """Run a root shell command, whatever comes of it. One at a time."""
        return self._ask(command, stdin=stdin, timeout=limit, patience=limit + 10)

    def tell(self, command: str) -> None:
        """Have a root shell command run that the guest may not live to answer."""
        self._write(command, timeout=30)

    def until(self, command: str, *, limit: float = PATIENCE) -> str:
        """Run a root shell command again and again until it succeeds, and return what it printed."""
        end = time.monotonic() + limit
        while True:
            done = self.attempt(command)
            if done.code == 0:
                return done.out.strip()
            assert time.monotonic() < end, f"not within {limit:.0f} s: {command}\n{done.out}"
            time.sleep(0.1)

    def write(self, path: str, content: bytes | str, *, mode: str = "0644") -> None:
        """Put a file into the guest."""
        data = content.encode() if isinstance(content, str) else content
        self.run(f"install -D -m {mode} /dev/stdin {path}", stdin=data)

    @property
    def boot_id(self) -> str:
        return self.run("cat /proc/sys/kernel/random/boot_id")

    def qmp(self, execute: str, **arguments: Any) -> Any:
        """One command to QEMU itself."""
        with contextlib.closing(Lines(self._sockets / "qmp")) as monitor:
            for request in ({"execute": "qmp_capabilities"}, {"execute": execute, "arguments": arguments}):
                monitor.write(request)
                answer = monitor.read(10)
                while not {"return", "error"} & answer.keys():
                    answer = monitor.read(10)
                assert "return" in answer, answer
            return answer["return"]

    def _ask(self, command: str, *, timeout: float, patience: float, stdin: bytes = b"") -> Done:
        """Answers to what was asked before, and given up, are thrown away."""
        shell = self._write(command, timeout=timeout, stdin=stdin)
        end = time.monotonic() + patience
        while (left := end - time.monotonic()) > 0:
            answer = shell.read(left)
            if answer.get("id") == self._asked:
                return Done(code=answer["code"], out=answer["out"])
        raise TimeoutError(command)

    def _write(self, command: str, *, timeout: float, stdin: bytes = b"") -> "Lines":
        assert self.pid is not None, "it is not started"
        if self._shell is None:
            self._shell = Lines(self._sockets / "shell")
        self._asked += 1
        given = base64.b64encode(stdin).decode()
        self._shell.write({"id": self._asked, "cmd": command, "timeout": timeout, "stdin": given})
        return self._shell

    def _command(self) -> list[str]:
        words = f"root=/dev/vda rw console=ttyS0 quiet panic=1 mitigations=off apparmor=0 selinux=0 {SHELL}"
        console = f"file,id=console,path={self.directory / 'console.log'},append=on"
        command = [
            *(QEMU, "-accel", f"tcg,thread=multi,tb-size={TRANSLATED}", "-machine", "pc", "-cpu", "max,la57=off"),
            *("-smp", "1", "-m", "512", "-nodefaults", "-no-user-config", "-display", "none"),
            *("-uuid", self.uuid, "-name", self.directory.name, "-device", "virtio-rng-pci"),
            *("-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append", words),
            *("-chardev", console, "-serial", "chardev:console"),
            *("-qmp", f"unix:{self._sockets / 'qmp'},server=on,wait=off"),
            *("-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-device", "virtio-serial-pci"),
        ]
        for port, name in (("channel", CHANNEL), ("shell", "org.paddock.test")):
            chardev = f"socket,id={port},path={self._sockets / port},server=on,wait=off"
            command += ["-chardev", chardev, "-device", f"virtserialport,chardev={port},name={name}"]
        for serial in ("system", *self.disks):
            drive = f"id=d-{serial},file={self.directory / serial}.qcow2,format=qcow2,if=none,cache=unsafe"
            command += ["-drive", drive, "-device", f"virtio-blk-pci,drive=d-{serial},serial={serial}"]
        return command


class Lines:
    """JSON, one value a line, on a unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._rest = b""
        try:
            self._socket.settimeout(5)
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            time.sleep(0.05)  # QEMU is about to make it
            raise

    def write(self, value: Mapping[str, Any]) -> None:
        self._socket.settimeout(30)
        # The empty line ends what a writer before us may have left half-said.
        self._socket.sendall(b"\n" + json.dumps(value).encode() + b"\n")

    def read(self, limit: float) -> dict[str, Any]:
        """The next value. TimeoutError if none comes."""
        end = time.monotonic() + limit
        while b"\n" not in self._rest:
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
            got = self._socket.recv(1 << 16)
            if not got:
                raise ConnectionResetError("QEMU has closed it")
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\n")
        value: dict[str, Any] = json.loads(line)
        return value

    def close(self) -> None:
        self._socket.close()


_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _end_with_parent() -> None:
    """Tests that are killed leave no machine behind."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _overlay(path: Path, *, backing: Path) -> None:
    _img("create", "-f", "qcow2", "-b", str(backing), "-F", "raw", str(path))


def _img(*arguments: str) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True, timeout=60)


def shared_image() -> Image:
    """The image, built at first use. `Unavailable` where guests cannot run."""
    for tool, package in ((QEMU, "qemu-system-x86"), ("qemu-img", "qemu-utils")):
        if shutil.which(tool) is None:
            raise Unavailable(f"guest: there is no {tool} here; on Debian: apt-get install {package}")
    return image()


@contextlib.contextmanager
def running(directory: Path, image: Image, *, disks: Mapping[str, str] | None = None) -> Iterator[Guest]:
    """A guest that is up, and leaves nothing but its logs."""
    with Guest(directory, image, disks=disks) as guest:
        guest.start()
        yield guest
