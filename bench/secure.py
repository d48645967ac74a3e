"""The peer in running scripts: OpenSSH, with one connection that all of them share."""

import contextlib
import getpass
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAME = "ssh, control master"
SIDE_BY_SIDE = 8
"""A server takes ten sessions of a connection at once."""
LIMIT = 30.0

_SERVER = """
ListenAddress 127.0.0.1:{port}
HostKey {place}/host
AuthorizedKeysFile {place}/user.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
SetEnv HOME={place}
"""
"""Without the user's own shell start-up files: they would be what is measured."""


def rates(place: Path, count: int, runs: int) -> list[float]:
    """`true` so many times over one connection; scripts a second, in each run."""
    with _served(place) as port, _connected(place, port) as ssh, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        found = []
        for _ in range(runs):
            began = time.perf_counter()
            for done in pool.map(lambda _: subprocess.run([*ssh, "true"], stdin=subprocess.DEVNULL), range(count)):
                done.check_returncode()
            found.append(count / (time.perf_counter() - began))
        return found


@contextlib.contextmanager
def _served(place: Path) -> Iterator[int]:
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    (place / "sshd_config").write_text(_SERVER.format(port=port, place=place))
    Path("/run/sshd").mkdir(exist_ok=True)  # where it wants to confine its children
    with (place / "sshd.log").open("wb") as log:
        server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", place / "sshd_config"], stderr=log)
    try:
        yield port
    finally:
        server.terminate()
        server.wait(10)


@contextlib.contextmanager
def _connected(place: Path, port: int) -> Iterator[list[str]]:
    """The words that run a command over the connection."""
    words = ["ssh", "-F", "none", "-q", "-p", str(port), "-i", str(place / "user"), "-S", str(place / "master")]
    words += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectionAttempts=20"]
    words += [f"{getpass.getuser()}@127.0.0.1"]
    _until_listening(port)
    with subprocess.Popen([*words, "-M", "-N"], stdin=subprocess.DEVNULL) as master:
        try:
            _until(lambda: (place / "master").exists(), "the connection")
            yield words
        finally:
            master.terminate()


def _until_listening(port: int) -> None:
    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    _until(answers, "sshd")


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} does not come up")
        time.sleep(0.02)
