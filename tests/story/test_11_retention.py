"""What ended long ago is forgotten, rows and files; what runs never is, however old it gets."""

import time

import pytest

from tests.story.house import RECHECK, House, assert_whole, waiting

pytestmark = pytest.mark.slow

CONFIG = """
- environment: {{name: single, machines: [{{name: one}}], host: local, max: 2}}
- job: {{name: short, environment: single, trusted: true, steps: [{{run: "echo short"}}]}}
- job: {{name: long, environment: single, trusted: true, steps: [{{run: '{script}'}}]}}
- project: {{name: openstack-dev/ci-sandbox, jobs: [short]}}
- project: {{name: other/project, jobs: [long]}}
"""

OTHER = {**RECHECK, "change": {**RECHECK["change"], "project": "other/project", "number": "7"}}


def live_through_one_of_two(paddock: House) -> None:
    """Two rounds on a server that keeps runs for a second: one is reported, one runs; then more than that is over."""
    paddock.configure(CONFIG.format(script=waiting("main", paddock.directory / "gate")), keep="1s")
    paddock.tell(RECHECK, OTHER)
    paddock.start_server()
    paddock.start_agent()
    paddock.in_phase("main")
    paddock.until_reported()
    paddock.until(lambda: {run["state"] for run in paddock.runs()} == {"done", "running"}, "one is done, one runs")
    time.sleep(1.5)


def the_rest_ends_well(paddock: House) -> None:
    (long,) = paddock.runs()
    assert (long["job"], long["state"]) == ("long", "running")
    (paddock.directory / "gate").touch()
    run = paddock.run("done", id=long["id"])

    assert run["verdict"] == "success"
    assert_whole(paddock.step_log(run["id"], "main-1-one"), "main")
    assert len(paddock.until_reported(2)) == 2
    paddock.until_environments("ready")
    archive = paddock.state / "archive" / "review"
    assert [path.name for path in archive.glob("*/*")] == ["project"]
    assert [path.name for path in archive.glob("other/project/*")] == ["7"]


def test_what_is_done_is_forgotten_while_what_runs_goes_on(paddock: House) -> None:
    live_through_one_of_two(paddock)

    paddock.kill(paddock.server)
    paddock.start_server()
    paddock.until(lambda: len(paddock.get("runs")["items"]) == 1, "the run that was done is forgotten")

    with pytest.raises(AssertionError, match="404"):
        paddock.post("runs/1/cancel")
    the_rest_ends_well(paddock)


def test_a_kill_while_forgetting_leaves_the_rest_to_the_next_start(paddock: House) -> None:
    live_through_one_of_two(paddock)

    paddock.kill(paddock.server)
    paddock.launch_server(PADDOCK_FAULT="keeping.removed")
    paddock.until(lambda: not paddock.serves(), "the server dies with files removed and rows left")
    paddock.start_server()
    paddock.until(lambda: len(paddock.get("runs")["items"]) == 1, "the run that was done is forgotten")

    the_rest_ends_well(paddock)
