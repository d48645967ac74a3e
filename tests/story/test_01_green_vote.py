"""A comment becomes a round of two runs on real machines, and one report with a vote."""

import pytest

from tests.story.house import RECHECK, House

pytestmark = pytest.mark.slow

CONFIG = """
- environment: {name: pair, machines: [{name: one}, {name: two}], host: local, max: 1}
- job:
    name: pair
    environment: pair
    trusted: true
    before: [{run: "echo prepared > prepared.txt"}]
    steps:
      - {name: who, run: 'echo "$PADDOCK_MACHINE of change $PADDOCK_CHANGE"; cat prepared.txt'}
      - {name: only-two, on: two, run: 'mkdir -p "$PADDOCK_RESULTS/logs"; echo kept > "$PADDOCK_RESULTS/logs/kept.txt"'}
    after:
      - run: |
          cat > "$PADDOCK_RESULTS/result.xml" <<XML
          <testsuite name="pair"><testcase classname="pair" name="$PADDOCK_MACHINE says $PADDOCK_VERDICT"/></testsuite>
          XML
    results: ["*.xml"]
    artifacts: ["logs/**"]
- project: {name: openstack-dev/ci-sandbox, branches: [master], jobs: [noop, pair]}
"""


def test_a_recheck_becomes_a_green_report_with_a_vote(paddock: House) -> None:
    paddock.configure(CONFIG, vote="full")
    paddock.tell(RECHECK)
    paddock.start_server()
    paddock.start_agent(PADDOCK_BUBBLEWRAP="yes")

    (report,) = paddock.until_reported()

    assert report["labels"] == {"Verified": 1}
    headline, _, noop, pair, *_, link = report["message"].splitlines()
    assert headline == "Build succeeded."
    assert noop.startswith(f"- noop {paddock.url}/runs/1/ : SUCCESS in ")
    assert pair.startswith(f"- pair {paddock.url}/runs/2/ : SUCCESS in ")
    assert link == f"{paddock.url}/rounds/1"

    run = paddock.get("runs/2")
    assert run["verdict"] == "success"
    assert {case["name"] for case in run["cases"]} == {"one says success", "two says success"}
    assert [artifact["path"] for artifact in run["artifacts"]] == ["two/logs/kept.txt"]
    log = paddock.text("/api/v1/runs/2/log/main-1-one")
    assert log == "one of change 189221\nprepared\n"
    assert paddock.until_environments("ready")[0]["fence"] > paddock.get(f"leases/{run['lease']}")["fence"]
