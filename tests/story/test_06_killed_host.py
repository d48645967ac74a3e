"""The host's agent is killed: machines live on and are adopted; away too long, what it carried is broken and mended."""

import pytest

from tests.story.house import RECHECK, House, assert_whole, waiting

pytestmark = pytest.mark.slow

CONFIG = """
- environment: {{name: single, machines: [{{name: one}}], host: local, max: 1}}
- job:
    name: long
    environment: single
    trusted: true
    steps: [{{run: '{script}'}}]
- project: {{name: openstack-dev/ci-sandbox, jobs: [long]}}
"""


def test_machines_are_adopted_by_the_next_agent_of_their_host(paddock: House) -> None:
    gate = paddock.directory / "gate"
    paddock.configure(CONFIG.format(script=waiting("main", gate)))
    paddock.tell(RECHECK)
    paddock.start_server()
    paddock.start_agent()
    paddock.in_phase("main")
    before = paddock.machines()

    paddock.kill(paddock.agent)
    assert paddock.tasks(), "the step runs on while its host's agent is dead"
    paddock.start_agent()
    gate.touch()
    run = paddock.run("done")

    assert (run["verdict"], run["reason"]) == ("success", "")
    assert_whole(paddock.step_log(run["id"], "main-1-one"), "main")
    assert paddock.machines() == before != []
    assert len(paddock.until_reported()) == 1
    paddock.until_environments("ready")
    assert not paddock.tasks()


def test_a_host_away_past_its_grace_breaks_what_it_carried_and_mends_it_when_it_is_back(paddock: House) -> None:
    paddock.configure(CONFIG.format(script=waiting("main", paddock.directory / "gate")), grace="2s", vote="full")
    paddock.tell(RECHECK)
    paddock.start_server()
    paddock.start_agent()
    environment = paddock.in_phase("main")["environment"]

    paddock.kill(paddock.agent)
    run = paddock.run("done")
    (report,) = paddock.until_reported()
    paddock.until_environments("broken")

    assert run["verdict"] == "error"
    assert "has been away since" in run["reason"]
    assert report["labels"] == {}
    asked = paddock.post("leases", pool="single", holder="next", ttl=60)
    assert asked["state"] == "queued", "time alone frees nothing"

    paddock.start_agent()
    lease = paddock.granted(asked["id"])

    assert paddock.get(f"environments/{environment}")["state"] == "gone"
    assert lease["environment"] != environment
    paddock.post(f"leases/{lease['id']}/release", fence=lease["fence"])
    paddock.until_environments("ready")
    assert not paddock.tasks()
    assert [place.name for place in paddock.agent_state.glob("machines/*")] == [lease["environment"]]
