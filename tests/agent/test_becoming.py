"""script.run as another user: what the agent's own closed directories mean for it, and what is left behind."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.entry import Outcome
from paddock.agent.skills import script
from paddock.agent.skills.becoming import account
from paddock.agent.skills.skill import Place, Program
from paddock.core.errors import Refused
from paddock.hands.launcher import Launcher
from paddock.wire.fields import BadParams
from paddock.wire.messages import Code
from tests.agent.conftest import Host
from tests.agent.desk import Desk
from tests.agent.doing import Doer

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


@pytest.fixture
def base() -> Iterator[Path]:
    """As an installed agent has it: a base that all may enter, a state directory that is its own."""
    directory = Path(tempfile.mkdtemp(prefix="paddock-base-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
async def doer(base: Path) -> AsyncIterator[Doer]:
    async with Launcher() as launcher:
        doer = Doer(base, launcher)
        state = base / "state"
        for name in ("state", "state/tmp", "state/tasks"):
            (base / name).mkdir(mode=0o700)
        doer.place = Place(work=base / "work", temporary=state / "tmp", tasks=state / "tasks", state=state)
        yield doer


async def run(doer: Doer, **params: Any) -> tuple[Outcome, list[str]]:
    deed = script.methods(doer.place)["script.run"]
    assert isinstance(deed, Program)
    call = doer.call("script.run", **params)
    outcome = await doer.do(deed, call)
    return outcome, doer.output(call).splitlines()


SAY = """
id -un; echo "$HOME:$USER:$LOGNAME:$SHELL"; pwd
file=$(mktemp -p "$TMPDIR"); echo ok > "$file"; cat "$file"; rm "$file"
"""


@root
@pytest.mark.parametrize("how", ["run", "argv"])
async def test_another_user_runs_in_an_installed_agent(doer: Doer, base: Path, how: str) -> None:
    params: dict[str, Any] = {"run": SAY} if how == "run" else {"argv": ["/bin/sh", "-ec", SAY]}
    outcome, said = await run(doer, user="nobody", **params)
    nobody = account("nobody")
    assert nobody is not None
    assert (outcome.code, outcome.result["exit"]) == (None, 0), said
    assert said == ["nobody", f"{nobody.home}:nobody:nobody:{nobody.shell}", str(base / "work"), "ok"]


@root
async def test_the_text_is_nobody_elses_and_lies_with_the_task(doer: Doer, base: Path) -> None:
    outcome, said = await run(doer, user="nobody", run='stat -Lc "%U %a" "$0"; exit 3', interpreter="/bin/sh")
    assert (outcome.result["exit"], said) == (3, ["nobody 600"])
    assert list((base / "state" / "tmp").iterdir()) == []
    assert [path.name for path in (base / "state" / "tasks").rglob("script*")] == ["script"]


@root
async def test_a_user_who_cannot_enter_the_work_starts_elsewhere(doer: Doer, base: Path) -> None:
    os.chmod(base, 0o700)
    outcome, said = await run(doer, user="nobody", run="pwd")
    assert (outcome.code, said) == (None, ["/"])
    assert (await run(doer, user="root", run="pwd"))[1] == [str(base / "work")]


@root
@pytest.mark.slow
async def test_in_a_real_agent_the_text_goes_with_its_task(desk: Desk, host: Host) -> None:
    host.start()
    await desk.ask(desk.command("good", "script.run", user="nobody", run="id -un; exit 3"))
    await desk.ask(desk.command("bad", "script.run", user="nobody-of-that-name", run="true", cwd="made"))
    good, bad = await desk.final("good"), await desk.final("bad")
    assert (good.code, (good.result or {})["exit"], await desk.whole("good")) == (None, 3, b"nobody\n")
    assert (bad.code, bad.msg) == (Code.REFUSED, "user nobody-of-that-name: unknown")
    await desk.until(lambda: not any((host.state / "tasks").iterdir()))
    assert not list(host.state.rglob("script*"))
    assert not (host.state / "work" / "made").exists()


@root
@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"user": "nobody-of-that-name"}, "user nobody-of-that-name: unknown"),
        ({"user": "nobody", "cwd": "state/made"}, "user nobody cannot enter"),
        ({"interpreter": " "}, "params.interpreter: names no program"),
        ({"limits": {"nofile": 5}, "user": "nobody-of-that-name"}, "unknown"),
    ],
)
def test_what_is_refused_has_touched_nothing(doer: Doer, base: Path, params: dict[str, Any], why: str) -> None:
    (base / "state").chmod(0o700)
    before = sorted(base.rglob("*"))
    asked = {"run": "true", "cwd": "made/here", **params}
    asked["cwd"] = str(base / asked["cwd"])
    with pytest.raises(Refused, match=why):
        script.prepare(doer.place, doer.call("script.run", **asked))
    assert sorted(base.rglob("*")) == before


def test_a_command_line_without_a_program_is_a_bad_param(doer: Doer) -> None:
    with pytest.raises(BadParams, match=r"argv\[0\]"):
        script.prepare(doer.place, doer.call("script.run", argv=[""]))


def test_who_is_not_root_becomes_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(Refused, match="only root"):
        account("nobody")
