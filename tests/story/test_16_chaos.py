"""Chaos: commands by the thousand while everything breaks, and then each of them is counted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from paddock.hands import trees
from tests.story.house import ROOT

pytestmark = pytest.mark.slow

ALWAYS = {
    "kill -9 of the agent",
    "kill -9 of the server",
    "restart of the agent",
    "kill -9 of a keeper",
    "connection cut",
    "connection half-open",
    "partition",
    "old commands repeated",
    "SIGSTOP of the agent",
    "SIGSTOP of the server",
    "pause of the whole guest",
    "clock jump of the agent",
    "clock jump of the server",
}
NEEDS_A_ROOM = {"disk full", "disk nearly full", "reboot of the guest"}


def play(place: Path, *words: str, limit: float, **env: str) -> tuple[int, str, str]:
    """`paddock chaos agent` as a person types it: its exit code and what it said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **env}
    argv = [sys.executable, "-m", "paddock", "chaos", "agent", "--keep", str(place), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=limit, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


def assert_it_holds(place: Path, *words: str, limit: float) -> dict[str, Any]:
    """Every check holds, and nobody who was started there is left."""
    code, said, told = play(place, *words, "--json", limit=limit)
    assert said, told
    result: dict[str, Any] = json.loads(said)
    against = {check["name"]: check["shown"] for check in result["checks"] if check["against"]}
    assert against == {}, f"seed {result['seed']}"
    assert code == 0
    assert len(result["checks"]) == 9
    assert [trees.name(one) for one in trees.inside(place) if one.pid != os.getpid()] == []
    return result


def acts_of(result: dict[str, Any]) -> set[str]:
    """What was done to it; without namespaces some of it cannot be, and that is said."""
    assert set(result["left_out"]) in (set(), NEEDS_A_ROOM)
    return set(result["acts"])


@pytest.mark.timeout(900)
def test_five_thousand_commands_are_neither_lost_nor_repeated(tmp_path: Path) -> None:
    """docs/agent.md says how to make it ten thousand, or another seed."""
    result = assert_it_holds(tmp_path / "chaos", "--commands", "5000", "--seed", "10", limit=880)
    assert result["commands"] == 5_000
    assert acts_of(result) | set(result["left_out"]) >= ALWAYS | NEEDS_A_ROOM
    assert result["states"]["complete"] > 2500
    assert result["given_again"] > 0
    assert result["said_again"] > 0


@pytest.mark.timeout(120)
def test_a_person_is_shown_a_table_and_where_the_logs_are(tmp_path: Path) -> None:
    place = tmp_path / "chaos"
    code, said, told = play(place, "--commands", "20", "--seed", "3", limit=100)
    assert code == 0, said
    assert "every id was executed at most once" in said
    assert "every check holds: 20 commands" in said
    assert f"logs, server and witness: {place}" in said
    assert "seed 3  starting the server" in told
    assert {"acts.log", "agent.log", "server.log", "witness"} <= {path.name for path in place.iterdir()}


@pytest.mark.timeout(200)
def test_what_cannot_be_done_here_is_left_out_and_said(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for directory in reversed(os.environ["PATH"].split(os.pathsep)):
        for tool in Path(directory).glob("*"):
            if tool.name != "unshare":
                (tools / tool.name).unlink(missing_ok=True)
                (tools / tool.name).symlink_to(tool)
    code, said, _ = play(tmp_path / "chaos", "--commands", "150", "--seed", "5", limit=180, PATH=str(tools))
    assert code == 0, said
    for act in sorted(NEEDS_A_ROOM):
        assert any(line.startswith(act) and "left out: unshare is not installed" in line for line in said.splitlines())
    assert f"left out: {', '.join(sorted(NEEDS_A_ROOM))}" in said


@pytest.mark.timeout(120)
def test_one_that_is_killed_takes_its_server_and_its_victim_along(tmp_path: Path) -> None:
    place = tmp_path / "chaos"
    argv = [sys.executable, "-m", "paddock", "chaos", "agent", "--keep", str(place), "--commands", "1000"]
    run = subprocess.Popen(
        argv, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        assert run.stderr is not None
        for line in run.stderr:
            if b"running" in line:
                break
        below = trees.descendants(run.pid)
        assert len(below) > 3
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    until = time.monotonic() + 20
    while left := [trees.name(one) for one in below if trees.is_alive(one)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)
