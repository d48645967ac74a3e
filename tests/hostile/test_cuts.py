"""The agent's connection is cut at any byte, again and again, while a run goes on: nothing is lost or done twice."""

import contextlib
import os
import re
import selectors
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.story.house import RECHECK, House, house

pytestmark = pytest.mark.slow

LINES = 3000
# The victim counts, never the ledger: O_APPEND and fsync, so that no cut can hide an execution.
COUNT = """\
mkdir -p "$PADDOCK_RESULTS/logs"
          python3 -c 'import os, sys
          opened = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
          os.write(opened, (sys.argv[2] + " " + os.environ["PADDOCK_TASK"] + "\\n").encode())
          os.fsync(opened)' "$PADDOCK_RESULTS/logs/counted" \
"""
FILLING = "0123456789" * 3
CONFIG = """
- environment: {name: pair, machines: [{name: one}, {name: two}], host: local, max: 1}
- job:
    name: pair
    environment: pair
    trusted: true
    before:
      - run: |
          COUNT before
    steps:
      - name: talk
        run: |
          COUNT main
          i=0; while [ $i -lt LINES ]; do i=$((i+1)); echo "line $i of $PADDOCK_MACHINE FILLING"; done
          mkdir -p "$PADDOCK_RESULTS/logs"; seq 1 20000 > "$PADDOCK_RESULTS/logs/numbers.txt"
    after:
      - run: |
          COUNT after
      - {run: 'echo "<testsuite><testcase name=\\"t\\"/></testsuite>" > "$PADDOCK_RESULTS/r.xml"'}
    results: ["*.xml"]
    artifacts: ["logs/**"]
- project: {name: openstack-dev/ci-sandbox, branches: [master], jobs: [pair]}
"""


class Cutter:
    """A proxy on loopback that cuts each connection after the next number of bytes; when there is none, it only copies.

    `cuts` are (bytes, towards the server?), one for each connection in turn; bytes of the other way are not counted.
    """

    def __init__(self, port: int, cuts: list[tuple[int, bool]]) -> None:
        self._to = port
        self._cuts = list(cuts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.made = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            cut = self._cuts.pop(0) if self._cuts else None
            self._open += [near, far]
            carrying = threading.Thread(target=self._carry, args=(near, far, cut), daemon=True)
            self._threads.append(carrying)
            carrying.start()

    def _carry(self, near: socket.socket, far: socket.socket, cut: tuple[int, bool] | None) -> None:
        left = {near: cut[0] if cut and cut[1] else None, far: cut[0] if cut and not cut[1] else None}
        with selectors.DefaultSelector() as waiting, contextlib.suppress(OSError, ValueError):
            waiting.register(near, selectors.EVENT_READ, far)
            waiting.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in waiting.select(30):
                    source, sink = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    data = source.recv(65536)
                    room = left[source]
                    if room is not None:
                        data, left[source] = data[:room], room - len(data)
                    sink.sendall(data)
                    if not data or (left[source] or 1) <= 0:
                        self.made += cut is not None
                        raise OSError("cut")
        for end in (near, far):
            # A reset, not a close: nobody gets a polite last word.
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                end.close()

    def close(self) -> None:
        self._listener.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server whose one run was done once without a cut; each example does it again."""
    with house(tmp_path_factory.mktemp("cut")) as built:
        built.configure(CONFIG.replace("COUNT", COUNT).replace("LINES", str(LINES)).replace("FILLING", FILLING))
        built.tell(RECHECK)
        built.start_server()
        built.start_agent()
        built.until_reported()
        built.kill(built.agent)
        is_right(built, "1")
        yield built


def is_right(paddock: House, run: str) -> None:
    """The run ended well, its logs and files are whole, and each of its commands was executed exactly once."""
    told = paddock.get(f"runs/{run}")
    assert (told["verdict"], told["reason"]) == ("success", ""), told
    for machine in ("one", "two"):
        log = paddock.text(f"/api/v1/runs/{run}/log/main-1-{machine}?limit=1000000")
        assert log == "".join(f"line {i} of {machine} {FILLING}\n" for i in range(1, LINES + 1))
        numbers = paddock.text(f"/runs/{run}/artifacts/{machine}/logs/numbers.txt")
        assert numbers == "".join(f"{i}\n" for i in range(1, 20001))
        executed = [line.split() for line in paddock.text(f"/runs/{run}/artifacts/{machine}/logs/counted").splitlines()]
        assert [phase for phase, _ in executed] == ["before", "main", "after"]
        assert {task for _, task in executed} <= {command["id"] for command in told["commands"]}


cuts = st.lists(st.tuples(st.integers(1, 400_000) | st.integers(1, 3000), st.booleans()), min_size=3, max_size=6)


def test_a_run_whose_connections_are_cut_at_any_byte_ends_right(running: House) -> None:
    paddock = running
    port = int(re.search(r":(\d+)$", paddock.url)[1])  # type: ignore[index]
    runs, made = ["1"], 0

    @settings(
        max_examples=int(os.environ.get("PADDOCK_CUTS", "2")),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cuts=cuts)
    def cut(cuts: list[tuple[int, bool]]) -> None:
        nonlocal made
        cutter, url = Cutter(port, cuts), paddock.url
        try:
            paddock.url = f"http://127.0.0.1:{cutter.port}"
            paddock.start_agent()
            paddock.url = url
            run = str(paddock.post(f"runs/{runs[-1]}/retry")["id"])
            runs.append(run)
            paddock.until(lambda: paddock.get(f"runs/{run}")["state"] == "done", f"{run} is done: {cuts}", limit=80)
            is_right(paddock, run)
            made += cutter.made
        finally:
            paddock.url = url
            paddock.kill(paddock.agent)
            cutter.close()

    cut()
    print(f"{len(runs) - 1} runs, {made} cuts")
    assert made >= 3
