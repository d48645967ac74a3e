"""A whole Paddock in a directory: server and host agent as processes of their own, killed and started again at will."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx

from paddock.agent import identity
from paddock.hands import trees
from tests import warm

ROOT = Path(__file__).parents[2]
T = TypeVar("T")

LINES = [json.loads(line) for line in (ROOT / "examples/gerrit-events.jsonl").read_text().splitlines()]
RECHECK = LINES[22]
"""The `my-ci recheck` on openstack-dev/ci-sandbox 189221."""

SERVER = "- server: {{listen: '127.0.0.1:0', state: {state}, host-grace: {grace}, keep: {{runs: {keep}}}}}\n"
REPLAY = (
    "- replay: {{name: review, file: {stream}, account: my-ci, recheck: ['^my-ci recheck$'],"
    " bots: [jenkins, zuul], report: {{vote: {vote}}}}}\n"
)
HOST = "- host: {name: local, skills: [local]}\n"


def waiting(name: str, gate: Path) -> str:
    """A script that counts aloud until the file `gate` is there; on one line, to stand between single quotes."""
    counting = f'n=0; while ! test -e {gate}; do echo "{name} $n"; n=$((n+1)); sleep 0.02; done'
    return f'{counting}; echo "{name} ended after $n"'


def assert_whole(log: str, name: str) -> None:
    """Every line that a `waiting` script said is in its log, once, in order."""
    *counted, last = log.splitlines()
    assert last == f"{name} ended after {len(counted)}"
    assert counted == [f"{name} {number}" for number in range(len(counted))]


class House:
    """One server on one state directory, one host agent on another, one recorded stream."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._strangers = {one.pid for one in trees.descendants(os.getpid())}
        self.state = directory / "server"
        self.agent_state = directory / "agent"
        self.stream = directory / "stream.jsonl"
        self.config = directory / "paddock.yaml"
        self.stream.touch()
        self._http = httpx.Client(timeout=30, verify=False, trust_env=False)  # one for all: making one is slow
        self.server: warm.Process | None = None
        self.agent: warm.Process | None = None
        self.url = ""
        self.host = HOST
        self.host_program: tuple[str, ...] = ("-m", "paddock.agent", "run")
        """What Python runs as the host's agent, and its first words."""
        self._port = 0
        self._faults: Mapping[str, str] = {}

    # ---- what it is told

    def configure(
        self, rest: str, *, grace: str = "5m", keep: str = "30d", vote: str = "none", forge: str = ""
    ) -> None:
        """Write the settings: server, forge `review` (a replay, unless told otherwise), host `local`, then `rest`."""
        server = SERVER.format(state=self.state, grace=grace, keep=keep)
        self.config.write_text(server + (forge or REPLAY.format(stream=self.stream, vote=vote)) + self.host + rest)

    def tell(self, *events: Mapping[str, Any]) -> None:
        """Put events into the recorded stream; before the server starts, which plays it once."""
        with self.stream.open("a") as opened:
            for event in events:
                opened.write(json.dumps(event) + "\n")

    # ---- processes

    def start_server(self, **environment: str) -> None:
        """Start it and wait until it listens; on the port of its first start."""
        self.launch_server(**environment)

        def listens() -> bool:
            assert self.server is not None
            if self.server.poll() is not None:
                raise AssertionError(f"the server ended with {self.server.returncode}\n{self.log('server')}")
            return self.listens()

        self.until(listens, "the server listens")

    def launch_server(self, **environment: str) -> None:
        """Start it and wait for nothing."""
        if not self._port:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._port = free.getsockname()[1]
            self.url = f"http://127.0.0.1:{self._port}"
        argv = [sys.executable, "-m", "paddock", "serve", str(self.config), "--listen", f"127.0.0.1:{self._port}"]
        with (self.directory / "server.log").open("ab") as log:
            self.server = warm.start(argv, log=log, env=self.surroundings(environment))

    def serves(self) -> bool:
        """Whether the server's process lives."""
        return self.server is not None and self.server.poll() is None

    def listens(self) -> bool:
        """Whether the server answers now."""
        with contextlib.suppress(httpx.HTTPError):
            return self._http.get(f"{self.url}/healthz", timeout=2).status_code in (200, 503)
        return False

    def start_agent(self, **environment: str) -> None:
        """Start the host's agent, enrolled at its first start."""
        websocket = self.url.replace("http", "ws", 1) + "/agent"
        argv = [sys.executable, *self.host_program, "--server", websocket, "--state", str(self.agent_state)]
        argv += ["--cloud", "none"]
        if not (self.agent_state / identity.FILE).exists():
            # A server that dies meanwhile has none ever: whoever tends it is to start it again.
            self.until(lambda: self.get("hosts")["items"] if self.serves() else True, "the host is configured")
            argv += ["--code", self.post("enrolments", host="local")["code"]]
        with (self.directory / "agent.log").open("ab") as log:
            self.agent = warm.start(argv, log=log, env=self.surroundings(environment), start_new_session=True)

    def tend(self, **environment: str) -> None:
        """See that both run: what is dead is started, with `environment` if it was never started before."""
        self._faults = self._faults or environment
        if not self.serves():
            self.launch_server(**self._faults)

        def settled() -> str:
            return "listening" if self.listens() else "" if self.serves() else "dead"

        if self.until(settled, "it listens or dies") == "listening":
            with contextlib.suppress(httpx.HTTPError, AssertionError):
                if self.agent is None or self.agent.poll() is not None:
                    self.start_agent(**self._faults)

    def tended(self) -> bool:
        """See that both run, with what they were first started with; always true, for `until`."""
        self.tend()
        return True

    def surroundings(self, extra: Mapping[str, str]) -> dict[str, str]:
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        return {
            # Gates and counts of most stories lie outside of the machines; a story that needs neither says "yes".
            "PADDOCK_BUBBLEWRAP": "no",
            **os.environ,
            "XDG_STATE_HOME": str(home),
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            **extra,
        }

    def kill(self, process: warm.Process | None, number: int = signal.SIGKILL) -> None:
        """Signal one of ours and wait for its end."""
        if process is not None and process.poll() is None:
            process.send_signal(number)
        if process is not None:
            process.wait(timeout=20)

    def close(self) -> None:
        """End everything that this house started, machines and their tasks included."""
        for process in (self.agent, self.server):
            with contextlib.suppress(Exception):
                self.kill(process)
        asyncio.run(_end(self.living))
        for group in self.groups():
            group.remove()
        self._http.close()

    def living(self) -> list[trees.Identity]:
        """Every process of this house, however it was forked, and whatever it did to its environment."""
        others = self._strangers | warm.processes()
        return [one for one in trees.descendants(os.getpid()) if one.pid not in others]

    def tasks(self) -> list[trees.Identity]:
        """The living processes of this house that belong to a task."""
        return [one for one in self.living() if variable(one.pid, "PADDOCK_TASK")]

    def groups(self) -> list[trees.Cgroup]:
        """The control groups of the machines that have a record."""
        records = [json.loads(file.read_text()) for file in self.agent_state.glob("machines/*/*/machine.json")]
        return [trees.Cgroup(path=Path(record["cgroup"])) for record in records if record["cgroup"]]

    def machines(self) -> list[trees.Identity]:
        """The agents of machines: whoever has signed in on a machine's state."""
        found = (identity.signed_in(state) for state in self.agent_state.glob("machines/*/*/agent"))
        return [one for one in found if one is not None]

    def log(self, name: str) -> str:
        file = self.directory / f"{name}.log"
        return file.read_text(errors="replace")[-6000:] if file.exists() else ""

    # ---- the API, as an operator

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {(self.state / 'operator.token').read_text().strip()}"}

    def get(self, path: str, **query: Any) -> Any:
        answer = self._http.get(f"{self.url}/api/v1/{path}", params=query, headers=self._headers())
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        answer = self._http.post(f"{self.url}/api/v1/{path}", json=body, headers=self._headers(), timeout=90)
        if answer.is_error:
            raise AssertionError(f"{path}: {answer.status_code} {answer.text}")
        return answer.json()

    def text(self, path: str) -> str:
        """A page, a log or an artifact, as anyone gets it."""
        answer = self._http.get(f"{self.url}{path}")
        answer.raise_for_status()
        return answer.text

    def run(self, *states: str, id: str = "", limit: float = 60) -> dict[str, Any]:
        """The newest run, or the one of that id, once it is in one of these states."""

        def look() -> dict[str, Any] | None:
            found = [id] if id else [run["id"] for run in self.get("runs", limit=1)["items"]]
            run: dict[str, Any] | None = self.get(f"runs/{found[0]}") if found else None
            return run if run is not None and run["state"] in states else None

        run = self.until(look, f"run {id} is {' or '.join(states)}", limit=limit)
        assert run is not None
        return run

    def in_phase(self, phase: str) -> dict[str, Any]:
        """The newest run of which a step of that phase has said something."""

        def look() -> dict[str, Any] | None:
            heard = [run for run in self.runs() if any(log["phase"] == phase and log["length"] for log in run["logs"])]
            return heard[-1] if heard else None

        run = self.until(look, f"a step of {phase} is heard")
        assert run is not None
        return run

    def step_log(self, run: str, name: str) -> str:
        """All that a step said on a machine: `main-1-one`."""
        return self.text(f"/api/v1/runs/{run}/log/{name}")

    def runs(self) -> list[dict[str, Any]]:
        """All runs, oldest first, each with everything the API tells of it."""
        return [self.get(f"runs/{run['id']}") for run in reversed(self.get("runs")["items"])]

    def reports(self) -> list[dict[str, Any]]:
        """What stands on the forge: every report that was posted, a double one twice."""
        file = self.state / "reports-review.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def until(self, check: Callable[[], T], what: str, *, limit: float = 60) -> T:
        """Poll until `check` answers something true, and return it; what it raises about the network is `not yet`."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                if answer := check():
                    return answer
            time.sleep(0.05)
        raise AssertionError(
            f"not within {limit:.0f} s: {what}\n--- server\n{self.log('server')}\n--- agent\n{self.log('agent')}"
        )

    def until_reported(self, count: int = 1, *, limit: float = 60) -> list[dict[str, Any]]:
        self.until(lambda: len(self.reports()) >= count, f"{count} reports are posted", limit=limit)
        return self.reports()

    def granted(self, id: str) -> dict[str, Any]:
        """The lease once it is granted."""

        def look() -> dict[str, Any] | None:
            lease: dict[str, Any] = self.get(f"leases/{id}")
            return lease if lease["state"] == "granted" else None

        found = self.until(look, f"lease {id} is granted")
        assert found is not None
        return found

    def until_environments(self, *states: str, limit: float = 60) -> list[dict[str, Any]]:
        """Wait until every environment that is not gone is in one of these states."""

        def settled() -> list[dict[str, Any]]:
            if self._faults:
                self.tend()
            living = [one for one in self.get("environments")["items"] if one["state"] != "gone"]
            return living if living and all(one["state"] in states for one in living) else []

        return self.until(settled, f"every environment is {' or '.join(states)}", limit=limit)


def variable(pid: int, name: str) -> str:
    """The variable as the process was started with it; empty if it has none, or is gone."""
    try:
        parts = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    found = [part for part in parts if part.startswith(f"{name}=".encode())]
    return found[0].partition(b"=")[2].decode(errors="replace") if found else ""


async def _end(find: Callable[[], list[trees.Identity]]) -> None:
    await trees.end(find, grace=timedelta(seconds=0.2))


@contextlib.contextmanager
def house(directory: Path) -> Iterator[House]:
    """A house that leaves nothing behind."""
    with _reaping():
        built = House(directory)
        try:
            yield built
        finally:
            built.close()


@contextlib.contextmanager
def _reaping() -> Iterator[None]:
    """While it lasts, whoever is orphaned below this process becomes its child: nobody leaves the house unseen."""
    try:
        with warm.adopting():
            yield
    finally:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
