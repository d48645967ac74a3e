"""A machine's agent is killed and takes its step up again; a keeper is killed and nobody knows how the step ended."""

import os
import signal
from pathlib import Path

import pytest

from paddock.hands import trees
from tests.story.house import RECHECK, House, assert_whole, variable, waiting

pytestmark = pytest.mark.slow

CONFIG = """
- environment: {{name: single, machines: [{{name: one}}], host: local, max: 1}}
- job:
    name: long
    environment: single
    trusted: true
    steps: [{{run: '{script}'}}]
    after: [{{run: 'echo "$PADDOCK_VERDICT" > "$PADDOCK_RESULTS/verdict.txt"'}}]
    artifacts: ["*.txt"]
- project: {{name: openstack-dev/ci-sandbox, jobs: [long]}}
"""


def test_a_killed_agent_of_a_machine_is_started_on_its_ledger_and_finds_its_keeper(paddock: House) -> None:
    gate = paddock.directory / "gate"
    paddock.configure(CONFIG.format(script=waiting("main", gate)), vote="full")
    paddock.tell(RECHECK)
    paddock.start_server()
    paddock.start_agent()
    paddock.in_phase("main")
    (agent,) = paddock.machines()
    steps = set(paddock.tasks())

    os.kill(agent.pid, signal.SIGKILL)
    paddock.until(lambda: paddock.machines() not in ([], [agent]), "the machine has another agent")
    assert steps & set(paddock.tasks()), "the step did not notice"
    gate.touch()
    run = paddock.run("done")

    assert (run["verdict"], run["reason"]) == ("success", "")
    assert_whole(paddock.step_log(run["id"], "main-1-one"), "main")
    assert [report["labels"] for report in paddock.until_reported()] == [{"Verified": 1}]
    paddock.until_environments("ready")
    assert not paddock.tasks()


def test_a_step_whose_keeper_is_killed_is_interrupted_and_never_votes(paddock: House) -> None:
    gate = paddock.directory / "gate"
    paddock.configure(CONFIG.format(script=f"setsid sleep 600 & {waiting('main', gate)}"), vote="full")
    paddock.tell(RECHECK)
    paddock.start_server()
    paddock.start_agent()
    paddock.in_phase("main")
    steps = paddock.tasks()

    os.kill(keeper_of(steps).pid, signal.SIGKILL)
    run = paddock.run("done")
    (report,) = paddock.until_reported()

    assert run["verdict"] == "error"
    assert "interrupted" in run["reason"]
    assert report["labels"] == {}
    assert paddock.text(f"/runs/{run['id']}/artifacts/one/verdict.txt") == "error\n"
    assert not [one for one in steps if trees.is_alive(one)]
    log = paddock.step_log(run["id"], "main-1-one").splitlines()
    assert log == [f"main {number}" for number in range(len(log))]
    paddock.until_environments("ready")
    assert not paddock.tasks()


def keeper_of(steps: list[trees.Identity]) -> trees.Identity:
    """The nearest process above a step that is no part of it."""
    pid = steps[0].pid
    while variable(pid, "PADDOCK_TASK"):
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    found = trees.identify(pid)
    assert found is not None
    assert "keeper" in Path(f"/proc/{pid}/comm").read_text()
    return found
