"""A kill at every crash point that the code names: nothing is lost, doubled or left behind."""

import ast
import os
from pathlib import Path

import pytest

from tests.story.house import RECHECK, ROOT, House

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CONFIG = """
- environment: {{name: pair, machines: [{{name: one}}, {{name: two}}], host: local, max: 1}}
- job:
    name: pair
    environment: pair
    trusted: true
    steps:
      - name: victim
        interpreter: {python} {victim}
        run: main
    after:
      - name: victim
        interpreter: {python} {victim}
        run: after
    results: ["*.xml"]
    artifacts: ["logs/**"]
- project: {{name: openstack-dev/ci-sandbox, jobs: [noop, pair]}}
"""

VICTIM = '''
import os, pathlib, sys
here = pathlib.Path(sys.argv[1]).read_text().strip()
results = pathlib.Path(os.environ["PADDOCK_RESULTS"])
fd = os.open({count!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(fd, (here + " " + os.environ["PADDOCK_MACHINE"] + " " + os.environ["PADDOCK_TASK"] + "\\n").encode())
os.fsync(fd)
for number in range(2000):
    print(here, number)
(results / "logs").mkdir(parents=True, exist_ok=True)
(results / "logs" / (here + ".txt")).write_text(here * 1000)
(results / "result.xml").write_text('<testsuite><testcase name="a"/></testsuite>')
'''

ELSEWHERE = {
    "gerrit.": "told to a Gerrit: tests/e2e",
    "keeping.": "passed once something is old enough to be forgotten: test_11",
    "agent.prun": "passed once something is old enough to be forgotten: tests/agent",
    "agent.put": "no job of this story puts a file: tests/agent",
}
"""Points that this story does not pass, by prefix, and where they are passed."""

ENDS_IN_ERROR = {"keeper.gate_opening", "keeper.gate_opened", "keeper.ended", "keeper.recording"}
"""A keeper that dies while its task may have run: nobody knows how it ended, so it is never run again."""


def points() -> list[str]:
    """Every literal that the code passes to `faults.at`."""
    found = set()
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "at"
            if is_call and isinstance(node.func.value, ast.Name) and node.func.value.id == "faults":  # type: ignore[attr-defined]
                (name,) = node.args  # type: ignore[attr-defined]
                assert isinstance(name, ast.Constant), f"{file}: a crash point is named by a literal"
                found.add(str(name.value))
    return sorted(found)


def here() -> list[str]:
    return [point for point in points() if not point.startswith(tuple(ELSEWHERE))]


def test_the_code_names_crash_points() -> None:
    assert len(here()) > 30


@pytest.mark.parametrize("point", here())
def test_a_kill_loses_and_doubles_nothing(point: str, paddock: House) -> None:
    count, victim, died = paddock.directory / "count", paddock.directory / "victim.py", paddock.directory / "died"
    victim.write_text(VICTIM.format(count=str(count)))
    paddock.configure(CONFIG.format(python=os.sys.executable, victim=victim))  # type: ignore[attr-defined]
    paddock.tell(RECHECK)

    paddock.tend(PADDOCK_FAULT=point, PADDOCK_FAULT_ONCE=str(died))
    paddock.until(lambda: (paddock.tend(), paddock.reports())[1], "the report is posted", limit=90)
    paddock.until_environments("ready", limit=60)

    assert died.exists(), f"{point} was not passed"
    (report,) = paddock.reports()
    noop, pair = paddock.runs()
    assert noop["verdict"] == "success"
    assert pair["verdict"] == ("error" if point in ENDS_IN_ERROR else "success"), pair["reason"]
    counted = count.read_text().splitlines()
    assert len(counted) == len(set(counted)), "a command was executed twice"
    if pair["verdict"] == "success":
        assert sorted(line.rsplit(" ", 1)[0] for line in counted) == ["after one", "after two", "main one", "main two"]
        for phase, machine in (("main", "one"), ("main", "two"), ("after", "one"), ("after", "two")):
            log = paddock.text(f"/api/v1/runs/{pair['id']}/log/{phase}-1-{machine}")
            assert log == "".join(f"{phase} {number}\\n" for number in range(2000))
        assert len(pair["artifacts"]) == 4
    assert report["labels"] == {}
    assert not paddock.tasks()
    assert not left_behind(paddock.agent_state)


def left_behind(state: Path) -> list[str]:
    """Files of jobs that are still on the machines."""
    return [str(file) for file in state.glob("machines/*/*/work/**/*") if file.is_file()]
