"""An outside holder that does not renew loses its environment; the next one gets it clean, under a higher fence."""

import httpx
import pytest

from tests.story.house import House

pytestmark = pytest.mark.slow

CONFIG = """
- environment: {name: single, machines: [{name: one}], host: local, max: 1}
- project: {name: openstack-dev/ci-sandbox, jobs: [noop]}
"""


def test_an_expired_lease_goes_to_who_waits(paddock: House) -> None:
    paddock.configure(CONFIG)
    paddock.start_server()
    paddock.start_agent()
    first = paddock.post("leases", pool="single", holder="first", ttl=3, wait=30)
    assert first["state"] == "granted"
    second = paddock.post("leases", pool="single", holder="second", ttl=60)
    assert second["state"] == "queued"
    assert paddock.get(f"leases/{second['id']}/why")["ahead"] == 0

    granted = paddock.granted(second["id"])

    assert granted["environment"] == first["environment"]
    assert granted["fence"] > first["fence"] + 1
    assert paddock.get(f"leases/{first['id']}")["state"] == "expired"
    with pytest.raises(AssertionError, match="412"):
        paddock.post(f"leases/{first['id']}/release", fence=first["fence"])
    released = paddock.post(f"leases/{second['id']}/release", fence=granted["fence"])
    assert released["state"] == "released"
    paddock.until_environments("ready")


def test_a_lease_survives_a_kill_of_the_server_with_a_full_ttl(paddock: House) -> None:
    paddock.configure(CONFIG)
    paddock.start_server()
    paddock.start_agent()
    lease = paddock.post("leases", pool="single", holder="first", ttl=30, wait=30)
    paddock.kill(paddock.server)
    paddock.start_server()

    after = paddock.get(f"leases/{lease['id']}")

    assert (after["state"], after["fence"]) == ("granted", lease["fence"])
    assert after["deadline"] > lease["deadline"]
    assert httpx.get(f"{paddock.url}/healthz").status_code == 200
    paddock.post(f"leases/{lease['id']}/release", fence=lease["fence"])
    paddock.until_environments("ready")
