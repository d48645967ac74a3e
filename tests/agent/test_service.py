"""The agent as a service: by its configuration, with systemd listening, with its logs as a file says."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.__main__ import run
from paddock.agent.commands import filling, stop
from paddock.agent.notifying import Notifier
from paddock.hands import trees
from tests.agent.conftest import SOURCE
from tests.agent.desk import CODE, Desk


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "base"


@pytest.fixture
def installed(desk: Desk, base: Path, tmp_path: Path) -> Path:
    """An agent that is configured for the desk, with its code; the path of its configuration."""
    (tmp_path / "code").write_text(CODE)
    words = ["configure", "-p", str(base), "--url", desk.url, "--code-file", str(tmp_path / "code"), "--no-service"]
    assert run([*words, "--skills", "script,file,system", "--cloud", "none"]) == 0
    return base / "etc/agent.conf"


def start(config: Path, *words: str, **env: str) -> subprocess.Popen[bytes]:
    with (config.parent / "said").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "paddock.agent", "run", "--config", str(config), *words],
            env={**os.environ, "PYTHONPATH": str(SOURCE), **env},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )


@contextlib.asynccontextmanager
async def running(config: Path, *words: str, **env: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The agent as a process; killed at the end, if it is still there, with all that it started."""
    child = start(config, *words, **env)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
        try:
            await asyncio.to_thread(child.wait, 10)  # the desk answers its farewell meanwhile
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        assert [trees.name(one) for one in trees.inside(config.parents[1]) if one.pid != os.getpid()] == []


def misspell(config: Path) -> None:
    config.write_text(config.read_text().replace("[logging]\n", "[logging]\nlevle = debug\n"))


def said(config: Path) -> str:
    return (config.parent / "said").read_text()


# Told by its configuration


@pytest.mark.slow
async def test_it_enrols_with_the_waiting_code_which_is_gone_then(desk: Desk, installed: Path, base: Path) -> None:
    async with running(installed):
        await desk.here()
        assert desk.hellos[0].skills == ("script", "file", "system")
        assert not (base / "state/code").exists()
        assert (base / "state/identity").exists()
        await desk.ask(desk.command("c-1", "script.run", run="pwd"))
        assert (await desk.whole("c-1")).decode().strip() == str(base / "work")
        secrets = [path.read_bytes() for path in (base / "etc").iterdir()]
        assert not any(CODE.encode() in text or b"token-of-the-host" in text for text in secrets)


@pytest.mark.slow
async def test_what_stands_on_the_line_goes_before_the_file(desk: Desk, installed: Path) -> None:
    async with running(installed, "--skills", "script", "--log-level", "debug"):
        seat = await desk.here()
        assert seat.hello.skills == ("script",)


@pytest.mark.slow
async def test_a_code_that_is_refused_is_not_tried_again(desk: Desk, installed: Path, base: Path) -> None:
    (base / "state/code").write_text("wrong")
    for expected in (3, 2):
        async with running(installed) as child:
            assert await asyncio.to_thread(child.wait, 20) == expected
    assert "enrol: unknown code" in said(installed)
    assert "no identity yet, and no --code" in said(installed)


def status_of(place: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["status", *place, "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


@pytest.mark.slow
async def test_status_and_stop_find_it_by_its_configuration(
    desk: Desk, installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--config", str(installed)]
    assert run(["stop", *place]) == 4
    async with running(installed) as child:
        await desk.here()
        await desk.ask(desk.command("c-1", "script.run", run="sleep 600"))
        await desk.until(lambda: any(status.task_id == "c-1" for status in desk.statuses))
        told = status_of(place, capsys)
        assert told["since"].endswith("Z")
        assert {name: told[name] for name in ("agent", "pid", "server", "connected", "trouble", "tasks")} == {
            "agent": "host",
            "pid": child.pid,
            "server": desk.url,
            "connected": True,
            "trouble": None,
            "tasks": 1,
        }
        await desk.drop_all()
        await desk.until(lambda: len(desk.hellos) == 2)
        # Its hello is heard a moment before it hears the answer.
        await desk.until(lambda: status_of(place, capsys)["connected"])
        assert run(["status", *place]) == 0
        out = capsys.readouterr().out
        assert f"connected to {desk.url} since" in out
        assert "last trouble at" in out
        await desk.ask(desk.command("c-2", "task.cancel", task_id="c-1"))
        await desk.final("c-1")
        assert await asyncio.to_thread(run, ["stop", *place]) == 0
        assert await asyncio.to_thread(child.wait, 5) == 0
    assert run(["status", *place]) == 4
    assert run(["ledger", "show", *place]) == 0
    assert "c-1" in capsys.readouterr().out


@pytest.mark.slow
async def test_enrol_gives_a_stopped_agent_a_new_code(
    desk: Desk, installed: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(installed):
        await desk.here()
        assert run(["enrol", "--config", str(installed), "--code-file", str(base.parent / "code"), "--anew"]) == 3
        assert "it runs" in capsys.readouterr().err
    assert run(["enrol", "--config", str(installed), "--code-file", str(base.parent / "code")]) == 3
    assert "is enrolled as host" in capsys.readouterr().err
    assert run(["enrol", "--config", str(installed), "--code-file", str(base.parent / "code"), "--anew"]) == 0
    assert not (base / "state/identity").exists()
    async with running(installed):
        await desk.until(lambda: len(desk.hellos) == 2)


def test_a_service_is_found_by_its_control_group() -> None:
    assert stop.services("0::/system.slice/paddock-agent.service/agent\n") == ["paddock-agent.service"]
    assert stop.services("0::/user.slice/user-0.slice/session-1.scope\n") == []
    assert stop.unit_of(os.getpid()) == "", "whoever runs these tests is no service of ours"


def filled(*words: str) -> argparse.Namespace:
    from paddock.agent.__main__ import _parser

    chosen = _parser().parse_args(["run", *words])
    filling.fill(chosen)
    return chosen


def test_each_key_of_the_file_becomes_what_the_option_of_that_kind_says(base: Path) -> None:
    words = ["-u", "wss://one.example/agent", "-u", "wss://two.example/agent", "--proxy", "none", "--cloud", "azure"]
    words += ["--pin", "AB:" * 31 + "AB", "--skills", "script, file", "-L", "error"]
    assert run(["configure", "-p", str(base), "--no-service", *words]) == 0
    file = base / "etc/agent.conf"
    file.write_text(file.read_text().replace("retention = 2d", "retention = 90m"))
    found = filled("--config", str(file))
    assert found.server == ["wss://one.example/agent", "wss://two.example/agent"]
    assert (found.proxy, found.cloud, found.pin) == ("", "Azure", "ab" * 32)
    assert (found.skills, found.log_level, found.insecure) == ("script, file", "error", False)
    assert (found.state, found.work) == (base / "state", base / "work")
    assert found.retention == timedelta(minutes=90)
    told = filled(
        "--config", str(file), "--proxy", "http://p:1", "--state", "/s", "--line", "unix:/x", "--pin", "c" * 64
    )
    assert (told.proxy, told.state, told.line, told.server, told.pin) == (
        "http://p:1",
        Path("/s"),
        "unix:/x",
        None,
        "c" * 64,
    )


def test_a_guest_is_configured_for_its_line(base: Path) -> None:
    line = "virtio:/dev/virtio-ports/org.paddock.0"
    assert run(["configure", "-p", str(base), "--no-service", "--line", line]) == 0
    found = filled("--config", str(base / "etc/agent.conf"))
    assert (found.line, found.server) == (line, [])


def test_a_machines_own_agent_never_looks_for_a_file(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["configure", "-p", str(base), "--no-service", "-u", "wss://one.example/agent"]) == 0
    monkeypatch.setenv("PADDOCK_AGENT_CONF", str(base / "etc/agent.conf"))
    assert filled().state == base / "state"
    assert filled("--line", "unix:/x", "--state", "/s").conf is None
    assert filled("--server", "wss://x/agent", "--state", "/s").conf is None


# With systemd listening


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator["Manager"]:
    made = Manager(tmp_path / "notify")
    yield made
    made.socket.close()


class Manager:
    """What systemd is to a service of Type=notify: a socket that hears."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self.heard: list[str] = []

    async def until(self, line: str, limit: float = 20) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(limit):
            while not any(line in one for one in self.heard):
                self.heard += (await loop.sock_recv(self.socket, 4096)).decode().splitlines()

    async def none_for(self, seconds: float) -> list[str]:
        """What is heard in a time in which nothing should be."""
        self.heard.clear()
        with contextlib.suppress(TimeoutError):
            await self.until("never said", seconds)
        return self.heard


@pytest.mark.slow
async def test_it_says_ready_status_watchdog_and_stopping(desk: Desk, installed: Path, manager: Manager) -> None:
    async with running(installed, NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="200000") as child:
        await manager.until("READY=1")
        await manager.until("STATUS=host: connected to ws://127.0.0.1:")
        await manager.until("WATCHDOG=1")
        await desk.ask(desk.command("c-1", "script.run", run="env"))
        assert b"NOTIFY_SOCKET" not in await desk.whole("c-1")
        assert b"WATCHDOG" not in await desk.whole("c-1")
        child.terminate()
        await manager.until("STOPPING=1")


@pytest.mark.slow
async def test_ready_is_said_while_the_server_is_away(installed: Path, manager: Manager, desk: Desk) -> None:
    async with running(installed, "--server", "ws://127.0.0.1:1/agent", NOTIFY_SOCKET=str(manager.path)):
        await manager.until("READY=1")
        await manager.until("STATUS=not connected: ")
    assert desk.hellos == []


@pytest.mark.slow
async def test_a_stopped_process_says_nothing_and_a_continued_one_does(
    desk: Desk, installed: Path, manager: Manager
) -> None:
    async with running(installed, NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="100000") as child:
        await manager.until("WATCHDOG=1")
        child.send_signal(signal.SIGSTOP)
        await manager.none_for(0.2)
        assert "WATCHDOG=1" not in await manager.none_for(0.3)
        child.send_signal(signal.SIGCONT)
        await manager.until("WATCHDOG=1")


async def test_the_watchdog_is_silent_while_a_part_hangs(manager: Manager) -> None:
    """A thread that never answers is as bad as a loop that never turns."""
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "40000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier(environment)
    assert environment == {}
    answers = asyncio.Event()
    keeping = asyncio.create_task(notifier.keep(lambda: _once(answers)))
    assert await manager.none_for(0.1) == []
    answers.set()
    await manager.until("WATCHDOG=1")
    keeping.cancel()


async def _once(event: asyncio.Event) -> None:
    await event.wait()


async def test_without_systemd_nothing_is_said_and_nothing_goes_wrong(manager: Manager) -> None:
    notifier = Notifier({"WATCHDOG_USEC": "40000", "WATCHDOG_PID": "1"})
    assert notifier.every is None
    notifier.ready()
    await notifier.keep(lambda: _once(asyncio.Event()))
    gone = Notifier({"NOTIFY_SOCKET": str(manager.path) + "-gone", "WATCHDOG_USEC": "x"})
    gone.ready()
    gone.stopping()
    assert await manager.none_for(0.05) == []


async def test_a_socket_without_a_file_is_spoken_to() -> None:
    name = f"paddock-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).tell("one\ntwo")
        assert ear.recv(100) == b"STATUS=one two"


# Its log


@pytest.mark.slow
async def test_the_logging_file_is_obeyed(desk: Desk, installed: Path, base: Path) -> None:
    log = base / "log/agent.log"
    (base / "etc/logging.yaml").write_text(
        f"""\
version: 1
formatters: {{objects: {{(): paddock.agent.events.Objects}}}}
handlers:
  file: {{class: logging.FileHandler, formatter: objects, filename: {base}/log/agent.log}}
loggers:
  paddock: {{handlers: [file], level: DEBUG, propagate: false}}
"""
    )
    async with running(installed):
        await desk.until(lambda: log.exists() and "session began" in log.read_text())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "session began" in [line["event"] for line in lines]
    assert said(installed) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("version: 1\nhandlers: {x: {class: no.such.Thing}}\n", "Unable to configure handler"),
        ("[1, 2\n", "while parsing"),
        ("just words\n", "not a mapping"),
        (None, "No such file"),
    ],
)
async def test_a_logging_file_that_cannot_be_used_is_told_and_lines_go_to_stderr(
    desk: Desk, installed: Path, base: Path, text: str | None, why: str
) -> None:
    file = base / "etc/logging.yaml"
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    async with running(installed):
        await desk.until(lambda: "session began" in said(installed))
    assert "logging configuration cannot be used" in said(installed)
    assert why in said(installed)


@pytest.mark.slow
async def test_a_key_that_nobody_reads_is_told(desk: Desk, installed: Path) -> None:
    misspell(installed)
    async with running(installed):
        await desk.here()
    assert "[logging] levle is not a key of this agent, level is" in said(installed)
