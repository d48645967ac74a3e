"""A store that two servers want, disks that are full: the server says so, and loses nothing that it acknowledged."""

import contextlib
import hashlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.hostile.conftest import PROJECT
from tests.hostile.peers import carrier, is_well, off
from tests.story.house import RECHECK, ROOT, House

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def small_disk(place: Path, *, size: str) -> Iterator[None]:
    """A file system of its own at `place`."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", str(place)], capture_output=True, text=True
    )
    if mounting.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {mounting.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """A file that takes what is left of the disk."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as opened, contextlib.suppress(OSError):
        while opened.write(b"x" * 4096):
            pass
    return filler


def second_server(paddock: House) -> "subprocess.Popen[str]":
    """Another server on the same configuration, on a port of its own."""
    argv = [sys.executable, "-m", "paddock", "serve", str(paddock.config), "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    environment["XDG_STATE_HOME"] = str(paddock.directory / "home")
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def enrol(url: str, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(f"{url}/api/v1/enrolments", json={"host": "local"}, headers=headers, timeout=20)


def token_of(paddock: House) -> str:
    return (paddock.state / "operator.token").read_text().strip()


def codes_in(paddock: House) -> set[str]:
    """The digests of all enrolment codes that the store has."""
    with contextlib.closing(sqlite3.connect(f"file:{paddock.state}/paddock.sqlite?mode=ro", uri=True)) as database:
        return {row[0] for row in database.execute("select id from enrolments")}


def digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


def test_a_second_server_on_one_store_does_not_start_and_names_the_first(alone: House) -> None:
    alone.configure(PROJECT)
    alone.start_server()
    assert alone.server is not None
    token = token_of(alone)

    other = second_server(alone)
    _, said = other.communicate(timeout=20)

    assert other.returncode != 0
    assert f"process {alone.server.pid} has this store open" in said
    assert "Traceback" not in said
    assert token_of(alone) == token, "the second one must not touch what is the first one's"
    assert is_well(alone)
    assert alone.get("whoami")["role"] == "operator"


def test_a_wedged_server_that_lost_its_lock_writes_nothing_after_a_newer_one(alone: House) -> None:
    alone.configure(PROJECT)
    alone.start_server()
    assert alone.server is not None
    alone.server.send_signal(signal.SIGSTOP)
    # The lock is lost, as on a network file system after a failover: the newer server makes another file of that name.
    (alone.state / "paddock.sqlite.lock").unlink()
    newer = second_server(alone)
    try:
        assert newer.stdout is not None
        ready = newer.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", ready)
        assert found, ready
        assert enrol(found[0], token_of(alone)).status_code == 201
        before = codes_in(alone)

        alone.server.send_signal(signal.SIGCONT)
        answers = [enrol(alone.url, token_of(alone)) for _ in range(3)]

        assert codes_in(alone) == before
        assert all(answer.status_code in (412, 503) for answer in answers), [one.text for one in answers]
        assert "epoch" in answers[0].text
        alone.until(lambda: httpx.get(f"{alone.url}/healthz").status_code == 503, "the old one says that it is over")
        assert "epoch" in httpx.get(f"{alone.url}/healthz").text
        assert "store writes no more" in alone.log("server")
        assert httpx.get(f"{found[0]}/healthz").status_code == 200
        assert enrol(found[0], token_of(alone)).status_code == 201
    finally:
        alone.server.send_signal(signal.SIGCONT)
        newer.terminate()
        newer.communicate(timeout=20)


def test_a_full_disk_makes_the_server_read_only_and_loses_nothing_acknowledged(alone: House) -> None:
    with small_disk(alone.state, size="6m"):
        alone.configure(PROJECT)
        alone.start_server()
        acknowledged = [enrol(alone.url, token_of(alone)).json()["code"] for _ in range(5)]
        filler = fill(alone.state)
        answer = None
        for _ in range(2000):
            answer = enrol(alone.url, token_of(alone))
            if answer.status_code != 201:
                break
            acknowledged.append(answer.json()["code"])

        assert answer is not None
        assert answer.status_code == 503, answer.text
        assert "nothing more is written" in answer.json()["error"]["message"]
        health = httpx.get(f"{alone.url}/healthz")
        assert health.status_code == 503
        assert "store" in health.text
        assert "store writes no more" in alone.log("server")
        # It still tells what it knows.
        assert alone.get("hosts")["items"][0]["name"] == "local"
        assert httpx.get(f"{alone.url}/").status_code == 200
        # Space alone does not make it write again: a person looks first.
        filler.unlink()
        assert enrol(alone.url, token_of(alone)).status_code == 503

        alone.kill(alone.server, signal.SIGTERM)
        alone.start_server()
        assert is_well(alone)
        assert {digest(code) for code in acknowledged} <= codes_in(alone)
        assert enrol(alone.url, token_of(alone)).status_code == 201
        alone.kill(alone.server, signal.SIGTERM)


def test_a_limit_on_file_sizes_is_told_like_a_full_disk(alone: House) -> None:
    alone.configure(PROJECT)
    alone.start_server()
    acknowledged = [enrol(alone.url, token_of(alone)).json()["code"] for _ in range(3)]
    assert alone.server is not None
    size = (alone.state / "paddock.sqlite-wal").stat().st_size
    subprocess.run(["prlimit", f"--pid={alone.server.pid}", f"--fsize={size}:{size}"], check=True)
    answer = None
    for _ in range(200):
        answer = enrol(alone.url, token_of(alone))
        if answer.status_code != 201:
            break
        acknowledged.append(answer.json()["code"])
    assert answer is not None
    assert answer.status_code == 503, answer.text
    assert httpx.get(f"{alone.url}/healthz").status_code == 503
    alone.kill(alone.server)
    alone.start_server()
    assert {digest(code) for code in acknowledged} <= codes_in(alone)
    assert is_well(alone)


async def test_output_is_not_acknowledged_while_the_archive_is_full_and_is_whole_afterwards(alone: House) -> None:
    with small_disk(alone.state / "archive", size="512k"):
        (alone.state).chmod(0o700)
        alone.configure(PROJECT)
        alone.tell(RECHECK)
        await off(alone.start_server)
        async with carrier(alone) as host:
            await host.build(2)
            machine = host.machines["pair-1.one"]
            command = await machine.next("script.run")
            await machine.accept(command)
            whole = os.urandom(100 << 10).hex().encode()
            assert (await machine.write(command["id"], whole[:1000]))["result"]["offset"] == 1000
            filler = fill(alone.state / "archive")

            offset, refused = 1000, None
            while offset < len(whole) and refused is None:
                told = await machine.write(command["id"], whole[offset : offset + 60_000], offset=offset)
                if "result" in told:
                    offset = told["result"]["offset"]
                else:
                    refused = told["error"]
            assert refused is not None
            assert refused["code"] == "busy", refused
            assert "space" in refused["msg"]
            log = await off(httpx.get, f"{alone.url}/api/v1/runs/1/log/main-1-one")
            assert int(log.headers["paddock-length"]) == offset, (
                "what was refused does not stand there, what was acknowledged does"
            )
            told = await machine.ask("task_status", {"task_id": command["id"], "state": "running", "percent": 1})
            assert "result" in told, "the store goes on"

            filler.unlink()
            while offset < len(whole):
                told = await machine.write(command["id"], whole[offset : offset + 60_000], offset=offset)
                offset = told["result"]["offset"]
            assert "result" in await machine.complete(command, {"out": len(whole)}, exit=0)
        limit = {"limit": len(whole) + 1}
        answer = await off(httpx.get, f"{alone.url}/api/v1/runs/1/log/main-1-one", params=limit)
        assert answer.content == whole
        await off(alone.kill, alone.server, signal.SIGTERM)


def test_what_the_server_keeps_is_read_by_its_owner_alone(alone: House) -> None:
    alone.configure(PROJECT)
    before = os.umask(0o022)
    try:
        alone.start_server()
        alone.start_agent()
        alone.until(lambda: alone.get("hosts")["items"][0]["state"] == "online", "the host is online")
        time.sleep(0.3)
    finally:
        os.umask(before)
    for top in (alone.state, alone.agent_state):
        for place in (top, *top.rglob("*")):
            if place.is_symlink() or place.is_relative_to(alone.agent_state / "work"):
                continue
            mode = place.stat().st_mode & 0o777
            # What stands in a directory that others cannot enter is out of their reach; the tops and secrets count.
            if place == top:
                assert mode == 0o700, (place, oct(mode))
            assert not mode & 0o022, (place, oct(mode))
    for secret in (
        alone.state / "operator.token",
        alone.state / "paddock.sqlite",
        alone.state / "paddock.sqlite-wal",
        alone.agent_state / "identity",
    ):
        assert secret.stat().st_mode & 0o777 == 0o600, secret
    assert (alone.state / "archive").stat().st_mode & 0o777 == 0o700
