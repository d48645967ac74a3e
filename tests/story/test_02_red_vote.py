"""A step that fails makes a red report; what the job does afterwards, and its files, are kept all the same."""

import pytest

from tests.story.house import RECHECK, House

pytestmark = pytest.mark.slow

CONFIG = """
- environment: {name: single, machines: [{name: one}], host: local}
- job:
    name: broken
    environment: single
    trusted: true
    steps:
      - {name: fails, run: "echo going down; exit 3"}
      - {name: never, run: "echo never > $PADDOCK_RESULTS/never.txt"}
    after: [{run: 'mkdir -p "$PADDOCK_RESULTS"; echo "$PADDOCK_VERDICT" > "$PADDOCK_RESULTS/verdict.txt"'}]
    artifacts: ["*.txt"]
- job:
    name: too-slow
    environment: single
    trusted: true
    limit: 1s
    steps: [{name: sleeps, run: "setsid sleep 600 & sleep 600"}]
- project: {name: openstack-dev/ci-sandbox, jobs: [broken], non-voting-jobs: [too-slow]}
"""


def test_a_failing_step_and_a_limit_make_a_red_report(paddock: House) -> None:
    paddock.configure(CONFIG, vote="full")
    paddock.tell(RECHECK)
    paddock.start_server()
    paddock.start_agent()

    (report,) = paddock.until_reported()

    assert report["labels"] == {"Verified": -1}
    assert " : FAILURE in " in report["message"]
    assert " : TIMED_OUT in " in report["message"]
    assert "(non-voting)" in report["message"]
    broken, slow = paddock.runs()
    assert broken["reason"] == "main 1 (fails) on one exited 3"
    assert [artifact["path"] for artifact in broken["artifacts"]] == ["one/verdict.txt"]
    assert paddock.text(f"/runs/{broken['id']}/artifacts/one/verdict.txt") == "failure\n"
    assert slow["verdict"] == "timed_out"
    paddock.until_environments("ready")
    assert not paddock.tasks()
