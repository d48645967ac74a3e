"""The agent's command line: what cannot heal ends it with the reason, the rest is told once and tried again."""

import asyncio
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paddock.agent import identity
from paddock.agent.__main__ import run
from paddock.agent.identity import Identity
from paddock.agent.ledger import Ledger
from tests.agent.conftest import SOURCE, Host
from tests.agent.desk import TOKEN, Desk

NOWHERE = "ws://127.0.0.1:1/agent"

Line = Callable[..., tuple[int, str, str]]


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str]) -> Line:
    """`line("status", ...)` → exit code, stdout, stderr."""

    def said(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(words)
        out, err = capsys.readouterr()
        return code, out, err

    return said


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "paddock.agent", "run", *words],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(*words: str) -> tuple[int, str]:
    """Exit code and stderr of an agent that ends by itself."""
    child = start(*words)
    try:
        _, err = child.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        child.kill()
        raise
    return child.returncode, err


def complaint(err: str) -> list[str]:
    """The last two lines, which are the complaint; nothing before them is a traceback."""
    assert "Traceback" not in err
    *_, what, hint = err.splitlines()
    return [what, hint]


# Wrong use


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        (["--server", "http://ci.example:8080/x"], "not one of ws, wss, tcp, tls, unix", "ws://ci.example:8080/agent"),
        (["--server", "https://ci.example"], "not one of ws, wss, tcp, tls, unix", "wss://ci.example/agent"),
        (["--server", "ci.example"], "not one of ws, wss, tcp, tls, unix", "wss://"),
        (["--server", "wss:///agent"], "not a WebSocket URL", "wss://HOST/agent"),
        (["--server", "tcp://192.0.2.1:80"], "loopback only", "tls://"),
        (["--server", "ws://ci.example:8080/agent"], "in clear", "wss://ci.example:8080/agent, or --insecure"),
        (["--server", "ws://u:secret@192.0.2.1/agent"], "in clear", "wss://192.0.2.1/agent"),
        (["--server", NOWHERE, "--proxy", "gopher://x"], "not a proxy's URL", "socks5://"),
        (["--server", NOWHERE, "--skills", "script,foo"], "foo: no such skill", "script, sources, system"),
        (["--server", NOWHERE, "--skills", "script,"], "'': no such skill", "script"),
        (["--line", "gopher:1"], "not a line", "unix:PATH"),
        (["--line", "tls:1"], "needs host and port", "tls://HOST:PORT"),
    ],
)
def test_a_line_that_cannot_be_meant_is_wrong_use(words: list[str], what: str, hint: str, tmp_path: Path) -> None:
    code, err = ended(*words, "--state", str(tmp_path / "state"), "--code", "secret")
    said = complaint(err)
    assert (code, len(err.splitlines())) == (2, 2)
    assert said[0].startswith("paddock: agent: --")
    assert what in said[0]
    assert said[1].startswith("hint: ")
    assert hint in said[1]
    assert "secret" not in err
    assert not (tmp_path / "state").exists(), "nothing was begun"


@pytest.mark.slow
def test_without_a_code_and_an_identity_it_says_how_to_get_one(tmp_path: Path) -> None:
    code, err = ended("--server", NOWHERE, "--state", str(tmp_path / "state"))
    assert code == 2
    assert complaint(err)[0] == f"paddock: agent: {tmp_path}/state: no identity yet, and no --code"
    assert "paddock host add NAME" in complaint(err)[1]


def test_words_that_are_not_understood_are_told_in_two_lines(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_AGENT_CONF", "/no/such/file")
    for words in ([], ["dance"], ["run"], ["run", "--stat", "x"], ["ledger", "show", "--state", "x", "--limit", "0"]):
        code, out, err = line(*words)
        assert (code, out) == (2, "")
        what, hint = err.splitlines()
        assert what.startswith("paddock: agent")
        assert re.fullmatch(r"hint: paddock agent( run| ledger show)? -h", hint)


@pytest.mark.parametrize(
    "words", ["", "configure", "enrol", "run", "status", "stop", "methods", "ledger", "ledger show"]
)
def test_every_command_shows_an_example(line: Line, words: str) -> None:
    code, out, _ = line(*words.split(), "-h")
    assert code == 0
    assert re.search(rf"\nExamples?:\n  \$ paddock agent {words}", out)
    assert max(len(each) for each in out.splitlines()) <= 120


# Refused


@pytest.mark.slow
@pytest.mark.timeout(30)
async def test_a_code_that_is_not_taken_ends_it_once_and_for_all(desk: Desk, tmp_path: Path) -> None:
    words = ["--server", desk.url, "--state", str(tmp_path / "state"), "--code", "wrong"]
    code, err = await asyncio.to_thread(ended, *words)
    said = complaint(err)
    assert code == 3
    assert said[0] == "paddock: agent: enrol: unknown code"
    assert "paddock host add NAME" in said[1]
    assert not (tmp_path / "state" / "identity").exists()


@pytest.mark.slow
def test_a_state_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for state in (file, file / "below"):
        code, err = ended("--server", NOWHERE, "--state", str(state), "--code", "x")
        assert code == 3
        assert f"{file}" in complaint(err)[0]
        assert complaint(err)[0].endswith(": not a directory")
        assert "--state DIR" in complaint(err)[1]


@pytest.mark.slow
def test_an_identity_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "identity").write_text("no json")
    code, err = ended("--server", NOWHERE, "--state", str(tmp_path))
    assert code == 3
    assert f"{tmp_path}/identity: no identity" in complaint(err)[0]


@pytest.mark.slow
def test_a_ledger_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    code, err = ended("--server", NOWHERE, "--state", str(tmp_path), "--code", "x")
    assert code == 3
    assert f"{tmp_path}/ledger: " in complaint(err)[0]


@pytest.mark.slow
def test_a_certificate_that_is_none_is_told(tmp_path: Path) -> None:
    words = ["--server", "wss://127.0.0.1:1/agent", "--state", str(tmp_path / "state"), "--code", "x"]
    code, err = ended(*words, "--ca", str(tmp_path / "none.pem"))
    assert code == 3
    assert "Traceback" not in err
    assert err.startswith(f"paddock: agent: {tmp_path}/none.pem: ")


@pytest.mark.slow
def test_a_second_agent_on_one_state_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, err = ended("--server", NOWHERE, "--state", str(tmp_path), "--code", "x")
    assert code == 3
    assert complaint(err)[0] == f"paddock: agent: {tmp_path}: another agent runs on it"


# What may heal


@pytest.mark.slow
def test_a_server_that_is_not_there_is_told_once_and_tried_again(tmp_path: Path) -> None:
    """With --json every line is an object; the repeated reason is told at the level debug alone."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["--server", f"ws://127.0.0.1:{port}/agent", "--state", str(tmp_path), "--code", "x", "--json"]
    child = start(*words, "--log-level", "debug")
    lines: list[dict[str, object]] = []
    deadline = time.monotonic() + 20
    assert child.stderr is not None
    try:
        while len([one for one in lines if one["event"] == "link is over"]) < 3 and time.monotonic() < deadline:
            lines.append(json.loads(child.stderr.readline()))
    finally:
        child.send_signal(signal.SIGTERM)
        _, rest = child.communicate(timeout=10)
    assert child.returncode == 0
    lines += [json.loads(text) for text in rest.splitlines()]
    levels = [one["level"] for one in lines if one["event"] == "link is over"]
    assert levels[:3] == ["INFO", "DEBUG", "DEBUG"]
    assert {"at", "level", "logger", "event"} <= set(lines[0])


@pytest.mark.slow
async def test_a_server_that_forgot_the_agent_is_told_with_a_hint_and_taken_when_it_remembers(
    desk: Desk, host: Host
) -> None:
    host.state.mkdir(mode=0o700)
    identity.save(host.state, Identity(agent="host", token=TOKEN))
    desk.tokens = set()
    host.start()
    await desk.until(lambda: len(desk.refused) >= 2)
    told = [text for text in host.log.read_text().splitlines() if "not welcome" in text]
    assert len(told) == 1
    assert " warning " in told[0]
    assert "paddock host add NAME" in told[0]
    assert f"remove {host.state}/identity" in told[0]
    desk.tokens = {TOKEN}
    await desk.here()


# What is told of a state


async def test_status_is_one_object(line: Line, tmp_path: Path) -> None:
    code, out, _ = line("status", "--state", str(tmp_path), "--json")
    told = json.loads(out)
    assert (code, told["agent"], told["runs"], told["pid"], told["connected"]) == (4, None, False, None, False)
    identity.save(tmp_path, Identity(agent="a1", token="t"))
    identity.sign_in(tmp_path)
    code, out, _ = line("status", "--state", str(tmp_path), "--json")
    told = json.loads(out)
    assert (code, told["agent"], told["runs"], told["pid"]) == (0, "a1", True, os.getpid())
    assert line("status", "--state", str(tmp_path))[1].startswith(f"a1: runs as process {os.getpid()}\n")


def test_status_of_what_is_no_directory_is_refused(line: Line, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = line("status", "--state", str(tmp_path / "file"))
    assert (code, out) == (3, "")
    assert err == f"paddock: agent: {tmp_path}/file: Not a directory\n"


async def test_a_ledger_is_shown_an_object_a_line(line: Line, tmp_path: Path) -> None:
    code, _, err = line("ledger", "show", "--state", str(tmp_path))
    assert code == 4
    assert complaint(err)[0] == f"paddock: agent: {tmp_path}: no ledger"
    await (Ledger.open(tmp_path / "ledger")).close()
    assert line("ledger", "show", "--state", str(tmp_path), "--json") == (0, "", "")


@pytest.mark.slow
async def test_what_a_host_was_asked_is_shown_without_its_params(desk: Desk, host: Host, line: Line) -> None:
    host.start()
    await desk.here()
    await desk.ask(desk.command("c-1", "script.run", run="echo hush-hush", environment="e-1", fence=3))
    await desk.final("c-1")
    code, out, _ = line("ledger", "show", "--state", str(host.state), "--json")
    assert code == 0
    [entry] = [one for one in map(json.loads, out.splitlines()) if one["id"] == "c-1"]
    assert (entry["method"], entry["environment"], entry["fence"]) == ("script.run", "e-1", 3)
    assert entry["outcome"]["code"] is None
    assert "hush-hush" not in out


def test_methods_are_an_object_a_line_with_their_params(line: Line) -> None:
    code, out, _ = line("methods", "--json")
    found = {one["method"]: one for one in map(json.loads, out.splitlines())}
    assert code == 0
    assert "run" in [param["param"] for param in found["script.run"]["params"]]
    assert all(name for name in found)
