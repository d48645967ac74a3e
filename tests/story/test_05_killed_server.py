"""The server is killed in each phase of a run and started again: the run goes on, and is reported once."""

from pathlib import Path

import pytest

from tests.story.house import RECHECK, House, assert_whole, waiting

pytestmark = pytest.mark.slow

PHASES = ("before", "main", "after")


def config(directory: Path) -> str:
    gates = {phase: directory / f"{phase}.gate" for phase in PHASES}
    return f"""
- environment: {{name: single, machines: [{{name: one}}], host: local}}
- job:
    name: long
    environment: single
    trusted: true
    before: [{{run: '{waiting("before", gates["before"])}'}}]
    steps: [{{run: '{waiting("main", gates["main"])}'}}]
    after:
      - run: '{waiting("after", gates["after"])}; head -c 3000000 /dev/zero > "$PADDOCK_RESULTS/zeros"'
    artifacts: ["zeros"]
- project: {{name: openstack-dev/ci-sandbox, jobs: [long]}}
"""


def test_a_run_goes_on_where_a_killed_server_left_it(paddock: House) -> None:
    paddock.configure(config(paddock.directory), vote="full")
    paddock.tell(RECHECK)
    paddock.start_server()
    paddock.until(paddock.runs, "the run waits for its host")
    again(paddock)
    paddock.start_agent()
    for phase in PHASES:
        paddock.in_phase(phase)
        again(paddock)
        (paddock.directory / f"{phase}.gate").touch()
    paddock.run("collecting", "done")
    again(paddock)

    (report,) = paddock.until_reported()
    run = paddock.run("done")

    assert (run["verdict"], run["reason"]) == ("success", "")
    for phase in PHASES:
        assert_whole(paddock.step_log(run["id"], f"{phase}-1-one"), phase)
    assert run["artifacts"] == [{"path": "one/zeros", "size": 3_000_000}]
    assert [command["method"] for command in run["commands"]] == [*["script.run"] * 3, "file.collect"]
    assert report["labels"] == {"Verified": 1}
    paddock.until_environments("ready")
    assert len(paddock.reports()) == 1
    assert not paddock.tasks()


def again(paddock: House) -> None:
    paddock.kill(paddock.server)
    paddock.start_server()
