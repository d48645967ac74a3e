"""Watching a machine: what lasts raises an alert, what has passed for a while ends it, and no restart forgets it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.alerts import Alerts
from paddock.agent.skills.system import health
from paddock.agent.skills.system.collectors import Sampler
from paddock.agent.skills.system.health import Check, Checks, Condition, define, measure, step
from paddock.core.errors import Refused
from paddock.wire.fields import BadParams
from tests.agent.proc import Proc


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def check(what: str, *, of: str = "", lasting: float = 0, **limit: float) -> Check:
    above, below = limit.get("above"), limit.get("below")
    return define("c", what, of=of, above=above, below=below, lasting=lasting, every=0.02, level="error")


# ---- what counts


def looked(lasting: float, looks: list[tuple[float, bool]]) -> list[bool]:
    """What is true after each look: at a moment, bad or not."""
    condition, found = Condition(), []
    for now, is_bad in looks:
        condition = step(condition, is_bad=is_bad, now=now, lasting=lasting)
        found.append(condition.is_bad)
    return found


def test_it_counts_once_it_has_lasted_and_is_over_once_it_has_not_been_for_as_long() -> None:
    looks = [(0, True), (10, True), (20, True), (30, False), (40, False), (50, False)]
    assert looked(20, looks) == [False, False, True, True, True, False]


def test_a_peak_is_no_alert_and_a_breath_is_no_end() -> None:
    assert looked(20, [(0, True), (10, False), (20, True), (30, True)]) == [False] * 4
    assert looked(10, [(0, True), (10, True), (20, False), (25, True), (32, False)]) == [False] + [True] * 4


def test_without_a_time_the_first_look_counts() -> None:
    assert looked(0, [(0, True), (1, False), (2, True)]) == [True, False, True]


# ---- what is measured


def test_each_thing_is_measured_as_it_is_meant(proc: Proc) -> None:
    proc.memory(available=40, swap=50)
    proc.load(3.5)
    proc.process(10, "sshd")
    proc.process(11, "sshd", state="Z")
    proc.process(12, "a-very-long-nam")
    sampler = Sampler(root=proc.root)

    def value(what: str, of: str = "") -> float | None:
        return measure(check(what, of=of, above=1), sampler)

    assert value("memory.available") == 4.0
    assert value("swap.used") == 75.0
    assert value("load.one") == 3.5
    assert value("process", "sshd") == 1.0
    assert value("process", "nobody") == 0.0
    assert value("process", "a-very-long-name-indeed") == 1.0
    assert 0 < (value("disk.used") or 0) < 100
    assert value("cpu.busy") is None
    proc.cpu(user=30, idle=70)
    assert value("cpu.busy") == 30.0


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ({"what": "gpu"}, "params.what"),
        ({"what": "process"}, "params.of"),
        ({"what": "load.one", "of": "/"}, "params.of"),
        ({"what": "memory.available", "above": 101}, "params.above"),
    ],
)
def test_a_check_that_cannot_be_meant_is_refused(words: dict[str, Any], path: str) -> None:
    with pytest.raises(BadParams) as refused:
        check(words.pop("what"), **{"above": 1, **words})
    assert refused.value.path == path


# ---- from a look to an alert


class Watched:
    """Checks with their duty, and what they told."""

    def __init__(self, proc: Proc, directory: Path) -> None:
        self.alerts = Alerts(directory / "alerts")
        self.alerts.load()
        self.checks = Checks(directory / "checks", root=proc.root, alerts=self.alerts)
        self.checks.load()
        self.duty = asyncio.ensure_future(self.checks.watch())

    @property
    def is_raised(self) -> bool:
        return self.alerts.find("health c") is not None

    async def until(self, what: Any) -> None:
        async with asyncio.timeout(5):
            while True:
                if what():
                    return
                await asyncio.sleep(0.01)

    def state(self) -> str:
        (one,) = self.checks.told()
        return str(one["state"])

    def kill(self) -> None:
        self.duty.cancel()


async def test_an_alert_is_raised_and_ended_with_its_condition(proc: Proc, tmp_path: Path) -> None:
    proc.memory(available=500)
    watched = Watched(proc, tmp_path)
    await watched.checks.begin(check("memory.available", below=5))
    await watched.until(lambda: watched.state() == "fine")
    proc.memory(available=30)
    await watched.until(lambda: watched.is_raised)
    alert = watched.alerts.find("health c")
    assert alert is not None
    assert alert.msg == "memory.available is 3 %, watched for below 5 % for 0 s"
    assert (alert.level, alert.fields["value"], alert.fields["below"]) == ("error", 3.0, 5)
    proc.memory(available=400)
    await watched.until(lambda: not watched.is_raised)
    watched.kill()


async def test_what_was_bad_before_a_restart_is_one_alert_and_not_two(proc: Proc, tmp_path: Path) -> None:
    proc.load(9)
    watched = Watched(proc, tmp_path)
    await watched.checks.begin(check("load.one", above=4))
    await watched.until(lambda: watched.is_raised)
    first = watched.alerts.find("health c")
    watched.kill()

    again = Watched(proc, tmp_path)
    await again.until(lambda: again.state() == "bad")
    assert again.alerts.find("health c") == first
    proc.load(1)
    await again.until(lambda: not again.is_raised)
    again.kill()


async def test_what_cannot_be_measured_is_unknown_and_changes_nothing(proc: Proc, tmp_path: Path) -> None:
    proc.load(9)
    watched = Watched(proc, tmp_path)
    await watched.checks.begin(check("load.one", above=4))
    await watched.until(lambda: watched.is_raised)
    (proc.root / "proc/loadavg").unlink()
    await watched.until(lambda: watched.state() == "unknown")
    assert watched.is_raised
    assert "FileNotFoundError" in str(watched.checks.told()[0]["why"])
    watched.kill()


async def test_what_is_watched_no_more_has_no_alert(proc: Proc, tmp_path: Path) -> None:
    proc.load(9)
    watched = Watched(proc, tmp_path)
    await watched.checks.begin(check("load.one", above=4))
    await watched.until(lambda: watched.is_raised)
    await watched.checks.end("c")
    await watched.checks.end("c")
    assert not watched.is_raised
    assert watched.checks.told() == []
    watched.kill()
    again = Watched(proc, tmp_path)
    assert again.checks.told() == []
    again.kill()


async def test_another_limit_for_the_same_name_takes_its_place(proc: Proc, tmp_path: Path) -> None:
    proc.load(9)
    watched = Watched(proc, tmp_path)
    await watched.checks.begin(check("load.one", above=4))
    await watched.until(lambda: watched.is_raised)
    await watched.checks.begin(check("load.one", above=20))
    assert not watched.is_raised
    await watched.until(lambda: watched.state() == "fine")
    watched.kill()


async def test_there_are_only_so_many_checks(proc: Proc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "AT_MOST", 0)
    watched = Watched(proc, tmp_path)
    with pytest.raises(Refused, match="0 checks are watched already"):
        await watched.checks.begin(check("load.one", above=4))
    watched.kill()
