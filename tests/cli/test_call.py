"""`paddock agent call` ends as the program did that it ran; what was not carried out is said on stderr."""

from dataclasses import replace
from typing import Any

import pytest

from paddock.wire import shapes
from tests.cli.conftest import Paddock
from tests.client.desk import NOW, Desk

COMMAND = shapes.AgentCommand(
    id="c1",
    agent="a1",
    seq=1,
    method="script.run",
    by="anna",
    run="",
    environment="",
    fence=0,
    state="complete",
    code="",
    message="",
    result={},
    outputs={},
    percent=None,
    eta=None,
    exit=None,
    asked=NOW,
    sent=NOW,
    started=NOW,
    ended=NOW,
)
AGENT = shapes.AgentDetail(
    id="a1",
    name="vm-1",
    kind="host",
    host="vm-1",
    environment="",
    machine="",
    software="paddock 1",
    skills=("script",),
    methods=("script.run",),
    connected=True,
    shut_out="",
    boot_id="b",
    seen=NOW,
    created=NOW,
    commands=(),
    log=(),
)
ALERT = shapes.Alert(
    id="17",
    agent="a1",
    name="disk:/",
    subject="/",
    level="error",
    state="acknowledged",
    message="full",
    at=NOW,
    told=NOW,
    count=3,
    acknowledged=NOW,
    acknowledged_by="anna",
    ended=None,
)


@pytest.fixture(autouse=True)
def answers(desk: Desk) -> dict[tuple[str, str], object]:
    desk.extra |= {
        ("GET", "/agents/vm-1"): AGENT,
        ("GET", "/agents"): shapes.Agents(items=(AGENT,)),
        ("POST", "/agents/a1/commands"): replace(COMMAND, state="queued"),
        ("GET", "/agents/a1/commands/c1"): COMMAND,
        ("GET", "/alerts"): shapes.Alerts(items=(ALERT,)),
        ("POST", "/alerts/17/acknowledge"): ALERT,
    }
    return desk.extra


@pytest.mark.parametrize(
    ("over", "code", "err"),
    [
        ({"exit": 0, "result": {"exit": 0}}, 0, ""),
        ({"exit": 7, "result": {"exit": 7}}, 7, ""),
        ({"result": {"signal": 9}}, 137, ""),
        ({"result": {"uptime": 3}}, 0, ""),
        ({"state": "failed", "code": "refused", "message": "no"}, 3, "paddock: command c1: refused: no\n"),
        ({"state": "failed", "code": "expired", "message": "late"}, 3, "paddock: command c1: expired: late\n"),
        ({"state": "failed", "code": "timed_out", "message": "long"}, 1, "paddock: command c1: timed_out: long\n"),
    ],
)
def test_the_exit_code_is_the_programs_or_stands_for_the_failure(
    paddock: Paddock, answers: dict[tuple[str, str], object], over: dict[str, Any], code: int, err: str
) -> None:
    answers["GET", "/agents/a1/commands/c1"] = replace(COMMAND, **over)
    said = paddock("agent", "call", "vm-1", "script.run", "run=true")
    assert (said.code, said.err) == (code, err)


def test_the_result_is_told_line_by_line_or_as_json(paddock: Paddock, answers: dict[tuple[str, str], object]) -> None:
    over = replace(COMMAND, result={"exit": 0, "dropped": 0}, exit=0, outputs={"out": 1234})
    answers["GET", "/agents/a1/commands/c1"] = over
    said = paddock("agent", "call", "vm-1", "script.run", "run=true")
    assert said.out.splitlines() == ["exit: 0", "dropped: 0", "printed 1,234 bytes (out): paddock agent output a1 c1"]
    said = paddock("agent", "call", "vm-1", "script.run", "run=true", "--json")
    assert said.objects[0]["outputs"] == {"out": 1234}


def test_who_does_not_wait_is_told_the_id(paddock: Paddock) -> None:
    said = paddock("agent", "call", "vm-1", "script.run", "run=true", "--no-wait")
    assert (said.code, said.out) == (0, "command c1: queued\n")


def test_following_and_json_exclude_each_other(paddock: Paddock) -> None:
    said = paddock("agent", "call", "vm-1", "script.run", "run=true", "--follow", "--json")
    assert said.code == 2
    assert "choose one" in said.err


def test_an_agent_is_known_by_the_beginning_of_its_id(paddock: Paddock, answers: dict[tuple[str, str], object]) -> None:
    answers["GET", "/agents/a1"] = AGENT
    said = paddock("agent", "show", "a")
    assert said.code == 0
    assert "methods   script.run" in said.out
    assert paddock("agent", "show", "zzz").code == 4


def test_alerts_are_listed_and_acknowledged(paddock: Paddock) -> None:
    said = paddock("agent", "alerts")
    assert "acknowledged" in said.out
    assert "/: full" in said.out
    assert paddock("agent", "acknowledge", "17").out == "alert 17 of a1: acknowledged, anna knows\n"
    assert paddock("agent", "alerts", "--json").objects[0]["count"] == 3


def test_an_upgrade_names_what_replaces_it(paddock: Paddock, desk: Desk) -> None:
    said = paddock("agent", "upgrade", "vm-1", "--url", "https://x.example/a.pyz", "--sha256", "a" * 64)
    assert said.code == 0
    assert ("POST", "/api/v1/agents/a1/commands") in desk.asked


def test_an_upgrade_is_to_what_the_server_offers_unless_told_otherwise(
    paddock: Paddock, desk: Desk, answers: dict[tuple[str, str], object]
) -> None:
    offered = shapes.Program(name="paddock-agent.pyz", url="https://ci/agent/x", sha256="b" * 64, size=7)
    answers["GET", "/programs"] = shapes.Programs(items=(offered,))
    assert paddock("agent", "upgrade", "vm-1").code == 0
    said = paddock("agent", "upgrade", "vm-1", "--program", "other")
    assert (said.code, said.err.splitlines()[1]) == (4, "hint: it offers paddock-agent.pyz")
    assert paddock("agent", "upgrade", "vm-1", "--url", "https://x.example/a.pyz").code == 2
    assert desk.count("POST", "/agents/a1/commands") == 1
