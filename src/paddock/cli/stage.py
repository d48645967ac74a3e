"""The demo's stage: server and agent as children in one directory, ended without a trace.

Effects: none that outlive it, also when the demo is interrupted.
"""

import asyncio
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.cli.host import door
from paddock.core.errors import Broken
from paddock.hands import trees

if TYPE_CHECKING:
    from paddock.client import Client

STATE = "paddock-state"
_SOON = 30.0
"""Seconds in which a server or an agent on this machine is up, or never."""
_LOOK = 0.03
_STOP = timedelta(seconds=6)
_PR_SET_PDEATHSIG = 1


def examples() -> Path:
    """The example files: beside the package where it was installed, at the top of a source checkout."""
    package = Path(__file__).parents[1]
    for place in (package / "examples", package.parents[1] / "examples"):
        if (place / "demo" / "paddock.yaml").is_file():
            return place
    raise Broken("demo: its example files are not installed", hint="pip install --force-reinstall 'paddock[server]'")


class Stage:
    """What the demo plays on. `directory` holds everything that is written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    def state(self) -> Path:
        return self.directory / "demo" / STATE

    def lay_out(self, *, configuration: str | None = None) -> Path:
        """Copy the example as it is, so that its lines are those of the file that people read; or write another."""
        source = examples()
        place = self.directory / "demo"
        place.mkdir()
        shutil.copy(source / "gerrit-events.jsonl", self.directory)
        file = place / "paddock.yaml"
        file.write_text(
            (source / "demo" / "paddock.yaml").read_text("utf-8") if configuration is None else configuration
        )
        return file

    def start_server(self, file: Path, *, listen: str) -> "Client":
        """A server, once it listens; a client that is its operator."""
        from paddock.client import Client

        child = self._start("server", "serve", str(file), "--listen", listen, "--json")
        record = self.state / "server.json"
        self._await(child, "server", record.is_file)
        url = json.loads(record.read_text())["url"]
        return Client(url, token=(self.state / "operator.token").read_text().strip())

    def start_agent(self, client: "Client", host: str, *words: str) -> None:
        """The agent of a host, with these options; it is online when it says so, which nobody has to wait for."""
        from paddock.client import calls

        code = client.send(calls.enrol(host, ttl=300)).code
        state = self.directory / "agent"
        where = ("--server", door(client.place.url), "--state", str(state), "--cloud", "none")
        self._start("agent", "agent", "run", *where, "--code", code, *words)

    def check(self) -> None:
        """Broken, with the last words, if one of the children has ended."""
        for name, child in zip(("server", "agent"), self._children, strict=False):
            if child.poll() is not None:
                raise Broken(f"{name}: it ended with {child.returncode}: {self._words(name)}")

    def _start(self, name: str, *words: str) -> "subprocess.Popen[bytes]":
        # Nothing of the user's own server: neither its record nor its token.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PADDOCK_")}
        environment["XDG_STATE_HOME"] = str(self.directory / "record")
        with (self.directory / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "paddock", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us: we end them in order
                preexec_fn=_end_with_parent,
            )
        self._children.append(child)
        return child

    def _await(self, child: "subprocess.Popen[bytes]", name: str, is_there: Callable[[], bool]) -> None:
        until = time.monotonic() + _SOON
        while not is_there():
            if child.poll() is not None:
                raise Broken(f"{name}: it ended with {child.returncode}: {self._words(name)}")
            if time.monotonic() > until:
                raise Broken(f"{name}: not ready after {_SOON:g} s: {self._words(name)}")
            time.sleep(_LOOK)

    def _words(self, name: str) -> str:
        with suppress(OSError):
            lines = (self.directory / f"{name}.log").read_text("utf-8", "replace").strip().splitlines()
            return " / ".join(lines[-5:]) or "it said nothing"
        return "it said nothing"

    def strike(self) -> None:
        """End agent, then server, then whoever of the machines is left. Broken, naming them, if somebody lives on."""
        for child in reversed(self._children):
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(_STOP.total_seconds())
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
        # Machines outlive their host's agent on purpose; they came to us, who adopt what is orphaned below.
        groups = self._groups()
        asyncio.run(trees.end(self._everybody, grace=timedelta(seconds=2)))
        for group in groups:
            group.remove()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _groups(self) -> list[trees.Cgroup]:
        """The control groups of our machines: a process of ours is in them."""
        home = trees.Cgroup.home()
        ours = set(self._everybody())
        groups = [trees.Cgroup(path=path) for path in home.glob("paddock-*")] if home is not None else []
        return [group for group in groups if ours.intersection(group.procs())]

    def _everybody(self) -> list[trees.Identity]:
        found = trees.descendants(os.getpid())
        return [*found, *(one for one in trees.inside(self.directory) if one not in found and one.pid != os.getpid())]


def _end_with_parent() -> None:
    """In the child, before exec: a demo that is killed takes its children along."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0)


@contextmanager
def stage() -> Iterator[Stage]:
    """A stage for the length of the block; afterwards no process and no file of it is left, which is looked at."""
    trees.become_subreaper()
    directory = Path(tempfile.mkdtemp(prefix="paddock-demo-"))
    made = Stage(directory)
    try:
        yield made
    finally:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave half of it behind
        try:
            made.strike()
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            signal.signal(signal.SIGINT, previous)
    if directory.exists():
        raise Broken(f"demo: {directory} could not be removed")
