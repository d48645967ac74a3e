"""`paddock run log` tells what machines said on their serial lines apart from what steps printed."""

from typing import Any

import pytest

from paddock.wire import shapes
from tests.cli.conftest import Paddock
from tests.client.desk import NOW, Desk


def line(stream: str, text: str) -> shapes.Line:
    machine = stream.split("-", 2)[2]
    return shapes.Line(stream=stream, machine=machine, offset=0, at="2026-01-01T09:42:00.125Z", text=text)


def log(name: str) -> shapes.Log:
    phase, step, machine = name.split("-", 2)
    return shapes.Log(name=name, phase=phase, step=int(step), title="", machine=machine, length=9, ended=True)


@pytest.fixture(autouse=True)
def answers(desk: Desk) -> dict[tuple[str, str], object]:
    given: dict[str, Any] = dict.fromkeys(shapes.Run.__dataclass_fields__, "")
    names = ("attempt", "number", "patchset")
    given |= dict.fromkeys(names, 1) | dict.fromkeys(("started", "ended", "verdict", "ending", "phase"))
    rest: dict[str, Any] = dict.fromkeys(("spans", "commands", "cases", "problems", "artifacts"), ())
    logs = (log("main-1-one"), log("console-1-one"))
    whole = {**given, **rest, "id": "7", "state": "done", "voting": True, "created": NOW, "logs": logs}
    desk.extra |= {
        ("GET", "/runs/7"): shapes.RunDetail(**whole),
        ("GET", "/runs/7/lines"): shapes.Lines(
            items=(line("console-1-one", "one login: "), line("main-1-one", "hello")), cursor="c", ended=True
        ),
    }
    return desk.extra


def test_a_serial_line_is_named_beside_what_steps_print(paddock: Paddock) -> None:
    assert paddock("run", "log", "7").out.splitlines() == ["09:42:00 one console| one login: ", "hello"]


def test_it_is_left_out_where_nobody_wants_it(paddock: Paddock) -> None:
    assert paddock("run", "log", "7", "--no-console").out == "hello\n"
    assert [one["stream"] for one in paddock("run", "log", "7", "--json", "--no-console").objects] == ["main-1-one"]
