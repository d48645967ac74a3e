"""script.run as a skill: what an order says, and what is refused before anything is touched."""

import os
import resource
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.skills import script
from paddock.agent.skills.skill import Call, Place
from paddock.core.errors import Refused
from paddock.hands.exit import Exit, Reason
from paddock.hands.order import NO_LIMITS, Limits
from paddock.wire import methods
from paddock.wire.fields import BadParams


def call(tmp_path: Path, **params: Any) -> Call:
    checked = methods.check("script.run", {"run": "true", **params})
    return Call(task="t", method="script.run", params=checked, environment="", fence=0, directory=tmp_path / "task")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(work=tmp_path / "work", temporary=tmp_path, tasks=tmp_path)


def ended(**fields: Any) -> Exit:
    whole: dict[str, Any] = {
        "ran": True,
        "reason": Reason.EXITED,
        "exit": 0,
        "signal": None,
        "message": "",
        "started": None,
        "ended": datetime.now(UTC),
        "output": 0,
        "dropped": 0,
        "lingered": 0,
        **fields,
    }
    return Exit(**whole)


def test_without_limits_an_order_has_none(tmp_path: Path, place: Place) -> None:
    assert script.prepare(place, call(tmp_path)).limits == NO_LIMITS


def test_limits_are_those_of_the_params(tmp_path: Path, place: Place) -> None:
    asked = call(tmp_path, memory=1 << 30, pids=50, cpus=1.5, limits={"nofile": 99, "core": 0})
    assert script.prepare(place, asked).limits == Limits(
        memory=1 << 30, pids=50, cpus=1.5, each={"nofile": 99, "core": 0}
    )


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"memory": 5}, "params.memory"),
        ({"memory": "1G"}, "params.memory"),
        ({"pids": 0}, "params.pids"),
        ({"cpus": 0}, "params.cpus"),
        ({"limits": {"nofiles": 9}}, "params.limits"),
        ({"limits": {"nofile": -1}}, "params.limits"),
        ({"limits": {"core": "0"}}, "params.limits"),
    ],
)
def test_a_limit_that_means_nothing_is_refused_by_its_path(tmp_path: Path, params: dict[str, Any], path: str) -> None:
    with pytest.raises(BadParams) as caught:
        call(tmp_path, **params)
    assert path in str(caught.value)


def test_who_is_not_root_cannot_give_more_than_it_has(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with pytest.raises(Refused, match=r"limits\.nofile"):
        script.prepare(place, call(tmp_path, limits={"nofile": hard + 1}))


def test_a_tree_that_its_memory_limit_killed_says_so(tmp_path: Path) -> None:
    outcome = script.conclude(call(tmp_path, memory=1 << 30), ended(exit=None, signal=9, oom_kills=2))
    assert outcome.code is None
    assert outcome.result == {"dropped": 0, "signal": 9, "oom_kills": 2}
    assert script.conclude(call(tmp_path), ended()).result == {"dropped": 0, "exit": 0}
