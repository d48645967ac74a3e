"""A person logs in to a machine by way of its agent: OpenSSH at both ends, no way between them but Paddock's."""

import getpass
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.client import Client
from tests.story.house import ROOT, House

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not Path(SSHD).exists(), reason="openssh-server is not installed"),
]
POOL = "- environment: {name: single, machines: [{name: one}], host: local, max: 1}\n"
WHO = getpass.getuser()


class Lent:
    """A machine that is lent to anna, with an sshd on loopback that the test started."""

    def __init__(self, house: House, directory: Path) -> None:
        self.house = house
        self.directory = directory
        self.secret = house.post("tokens", name="anna", role="person")["secret"]
        with Client(house.url, token=self.secret) as client:
            granted = client.acquire("single", ttl=3600)
        self.lease = granted.lease
        self.id = self.lease.environment
        self.agent = granted.machines[0].agent
        self.work = house.agent_state / "machines" / self.id / "one" / "work"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.sshd = self._serve()

    def _serve(self) -> "subprocess.Popen[bytes]":
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.work / "host"], check=True)
        lines = [
            f"ListenAddress 127.0.0.1:{self.port}",
            f"HostKey {self.work / 'host'}",
            f"AuthorizedKeysFile {self.work / 'keys'}",
            f"PidFile {self.directory / 'sshd.pid'}",
            "PasswordAuthentication no",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin prohibit-password",
            "Subsystem sftp internal-sftp",
        ]
        (self.directory / "sshd_config").write_text("\n".join(lines) + "\n")
        log = (self.directory / "sshd.log").open("ab")
        sshd = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(self.directory / "sshd_config")],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

        def listens() -> bool:
            assert sshd.poll() is None, (self.directory / "sshd.log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        self.house.until(listens, "sshd listens")
        return sshd

    def words(self, verb: str, *rest: str) -> list[str]:
        own = ("-l", WHO, "-p", str(self.port), "--keys", "keys", "--host-key", "host.pub") if verb != "tunnel" else ()
        return [sys.executable, "-m", "paddock", "env", verb, *own, self.id, "one", *rest]

    @property
    def env(self) -> dict[str, str]:
        return self.house.surroundings(
            {
                "PADDOCK_SERVER": self.house.url,
                "PADDOCK_TOKEN": self.secret,
                "PYTHONPATH": str(ROOT / "src"),
                "TMPDIR": str(self.directory),
            }
        )

    def run(self, verb: str, *rest: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            self.words(verb, *rest), capture_output=True, timeout=90, check=False, env=self.env, **options
        )

    def open(self, verb: str, *rest: str) -> "subprocess.Popen[bytes]":
        pipe = subprocess.PIPE
        return subprocess.Popen(self.words(verb, *rest), stdin=pipe, stdout=pipe, stderr=pipe, env=self.env)

    def commands(self, method: str) -> list[Any]:
        found = self.house.get(f"agents/{self.agent}/commands", limit=500)["items"]
        return [one for one in found if one["method"] == method]

    def authorized(self) -> str:
        file = self.work / "keys"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def lent(paddock: House, tmp_path: Path) -> Iterator[Lent]:
    paddock.configure(POOL)
    paddock.start_server()
    paddock.start_agent()
    separation = Path("/run/sshd")
    is_ours = os.geteuid() == 0 and not separation.exists()
    if is_ours:
        separation.mkdir(mode=0o755)
    made = Lent(paddock, tmp_path)
    try:
        yield made
    finally:
        made.sshd.terminate()
        made.sshd.wait()
        if is_ours:
            separation.rmdir()


def test_a_command_there_has_its_input_output_and_exit_code_and_its_key_goes_after_it(lent: Lent) -> None:
    (lent.work / "keys").write_text("# somebody's own, without a line's end")
    done = lent.run("ssh", "--", "cat; echo said >&2; cat " + str(lent.work / "keys") + "; exit 7", input=b"hello\n")
    said, own, key = done.stdout.decode().splitlines()
    assert (done.returncode, said, own) == (7, "hello", "# somebody's own, without a line's end"), done.stderr
    assert done.stderr.decode() == "said\n"
    assert key.startswith("ssh-ed25519 ")
    assert lent.authorized() == "# somebody's own, without a line's end\n"
    # OpenSSH ends whom it talks through without waiting: cut or at its end, the tunnel is over.
    lent.house.until(lambda: lent.commands("tunnel.open")[0]["ended"], "the tunnel has ended")
    assert list(lent.directory.glob("paddock-ssh-*")) == []


def test_a_mebibyte_is_copied_there_and_back_whole(lent: Lent, tmp_path: Path) -> None:
    data = random.Random(4).randbytes(1 << 20)
    (tmp_path / "there").write_bytes(data)
    began = time.monotonic()
    done = lent.run("scp", str(tmp_path / "there"), f":{lent.work}/copy")
    assert done.returncode == 0, done.stderr
    done = lent.run("scp", f":{lent.work}/copy", str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256((tmp_path / "back").read_bytes()).digest() == hashlib.sha256(data).digest()
    assert time.monotonic() - began < 30
    assert lent.authorized() == ""


def test_two_at_once_do_not_meet(lent: Lent) -> None:
    both = [lent.open("ssh", "--", f"cat; echo {name}") for name in ("one", "two")]
    said = [
        process.communicate(f"to {name}\n".encode(), timeout=90)
        for process, name in zip(both, ("one", "two"), strict=True)
    ]
    assert [out for out, _ in said] == [b"to one\none\n", b"to two\ntwo\n"], said
    assert [process.returncode for process in both] == [0, 0]
    assert lent.authorized() == ""


def test_another_host_key_than_the_machines_is_refused(lent: Lent) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", lent.work / "other"], check=True)
    (lent.work / "other.pub").replace(lent.work / "host.pub")
    done = lent.run("ssh", "--", "true")
    assert done.returncode == 255
    assert b"Host key verification failed" in done.stderr
    assert lent.authorized() == ""


def test_a_connection_that_is_cut_ends_at_both_ends(lent: Lent) -> None:
    process = lent.open("ssh", "--", "echo began; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"began\n"
    (command,) = lent.commands("tunnel.open")
    lent.house.post(f"agents/{lent.agent}/commands/{command['id']}/cancel", grace=1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 255, said
    assert lent.authorized() == ""


def test_who_is_ended_leaves_no_tunnel_behind(lent: Lent) -> None:
    process = lent.open("tunnel", str(lent.port))
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"SSH-2.0-")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    lent.house.until(lambda: lent.commands("tunnel.open")[0]["state"] == "failed", "the tunnel is cut")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_ended_takes_its_key_away(lent: Lent, number: int) -> None:
    process = lent.open("ssh", "--", "echo began; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"began\n"
    assert "ssh-ed25519 " in lent.authorized()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert lent.authorized() == ""


def test_a_login_outlives_the_server(lent: Lent) -> None:
    process = lent.open("ssh", "--", "echo began; cat")
    assert process.stdout is not None
    assert process.stdout.readline() == b"began\n"
    lent.house.kill(lent.house.server)
    lent.house.start_server()
    out, said = process.communicate(b"after\n", timeout=90)
    assert (process.returncode, out) == (0, b"after\n"), said


def test_a_tunnel_ends_with_the_lease_and_is_for_nobody_else(lent: Lent) -> None:
    secret = lent.house.post("tokens", name="bert", role="person")["secret"]
    stranger = subprocess.run(
        lent.words("tunnel", str(lent.port)),
        capture_output=True,
        timeout=60,
        check=False,
        env={**lent.env, "PADDOCK_TOKEN": secret},
    )
    assert stranger.returncode == 3
    assert f"environment {lent.id} is not lent to you" in stranger.stderr.decode()
    process = lent.open("tunnel", str(lent.port))
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"SSH-2.0-")
    lent.house.post(f"leases/{lent.lease.id}/release", fence=lent.lease.fence)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (1, 3), said
    assert not lent.house.tasks()


def test_a_tunnel_does_not_outlive_the_agent_that_carries_it(lent: Lent) -> None:
    process = lent.open("ssh", "--", "echo began; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"began\n"
    (agent,) = lent.house.machines()
    os.kill(agent.pid, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 255, said
    (command,) = lent.commands("tunnel.open")
    assert (command["state"], command["code"]) == ("failed", "interrupted")
    assert lent.run("ssh", "--", "true").returncode == 0
    assert lent.authorized() == ""


def test_a_byte_there_and_back_is_quick(lent: Lent) -> None:
    """What a key costs that is typed: four messages, two of them through the ledger of the server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = lent.open("tunnel", str(listening.getsockname()[1]))
        assert process.stdin is not None
        assert process.stdout is not None
        there, _ = listening.accept()
        with there:
            took = []
            for _ in range(20):
                began = time.monotonic()
                process.stdin.write(b"x")
                process.stdin.flush()
                assert there.recv(1) == b"x"
                there.sendall(b"y")
                assert process.stdout.read(1) == b"y"
                took.append(time.monotonic() - began)
        process.stdin.close()
        assert process.wait(timeout=30) == 0
    print(f"a byte there and back: median {sorted(took)[10] * 1000:.0f} ms, worst {max(took) * 1000:.0f} ms")
    assert sorted(took)[10] < 0.5
