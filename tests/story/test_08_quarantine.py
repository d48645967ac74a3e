"""A cleaning that proves nothing shuts the environment away with the reason, until a person says: clean it."""

import pytest

from tests.story.house import RECHECK, House

pytestmark = pytest.mark.slow

CONFIG = """
- environment: {name: single, machines: [{name: one}], host: local, max: 1}
- job:
    name: saboteur
    environment: single
    trusted: true
    steps: [{run: "rm ../agent/fence; mkdir ../agent/fence"}]
- project: {name: openstack-dev/ci-sandbox, jobs: [saboteur]}
"""


def test_what_cannot_be_cleaned_is_quarantined_and_replaced_once_a_person_says_so(paddock: House) -> None:
    paddock.configure(CONFIG)
    paddock.tell(RECHECK)
    paddock.start_server()
    paddock.start_agent()
    paddock.until_reported()

    (environment,) = paddock.until_environments("quarantined")
    lease = paddock.post("leases", pool="single", holder="next", ttl=60)

    assert "fence" in environment["reason"]
    assert lease["state"] == "queued"
    assert "quarantined" in str(paddock.get(f"leases/{lease['id']}/why"))

    paddock.post(f"environments/{environment['id']}/clean")
    granted = paddock.granted(lease["id"])

    assert granted["environment"] != environment["id"]
    assert paddock.get(f"environments/{environment['id']}")["state"] == "gone"
    paddock.post(f"leases/{lease['id']}/release", fence=granted["fence"])
    paddock.until_environments("ready")
    assert [place.name for place in paddock.agent_state.glob("machines/*")] == [granted["environment"]]
