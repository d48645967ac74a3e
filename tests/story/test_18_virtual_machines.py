"""Virtual machines with a real server and a real host's agent: forked, cleaned, given back; killed at every step.

The driver is one of paper (paper.py): its machines are processes with a parked agent each, which start in a second.
That QEMU's machines keep their promises is shown in ../agent/hypervisor and ../e2e.
"""

import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.story.house import House, house
from tests.story.paper import machines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HOST = "- host: {{name: local, skills: [hypervisor], memory: {memory}MiB, vcpus: 64, disk: 100GiB}}\n"
IMAGE = "- image: {{name: base, path: {path}, entry: none, memory: 64MiB}}\n"
LAB = (
    "- environment: {{name: lab, machines: [{{name: one, image: base, memory: 64MiB}}], host: local, max: {most},"
    " start: {start}}}\n"
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as built:
        built.host_program = ("-m", "tests.story.paper", "host", "run", "--skills", "hypervisor")
        disk = tmp_path / "base.raw"
        disk.write_bytes(bytes(1 << 20))
        yield built


def furnish(lab: House, *, most: int = 1, start: str = "fork", memory: int = 1024, pools: str = LAB) -> None:
    lab.host = HOST.format(memory=memory)
    lab.configure(IMAGE.format(path=lab.directory / "base.raw") + pools.format(most=most, start=start))


def hypervisor(lab: House) -> Path:
    return lab.agent_state / "hypervisor"


def owned(lab: House) -> list[dict[str, Any]]:
    """The records of machines."""
    return [json.loads(file.read_text()) for file in hypervisor(lab).glob("machines/*/*/machine.json")]


def running(lab: House) -> list[str]:
    """Names of the machines of this house that run."""
    ours = {one.pid for one in lab.living()}
    return sorted(name for one, name in machines() if one.pid in ours)


def borrow(lab: House) -> dict[str, Any]:
    """A lease, granted: whoever died on the way is started again.

    Who was not answered looks whether it was heard before it asks again.
    """

    def granted() -> dict[str, Any] | None:
        lab.tend()
        asked = [*lab.get("leases", state="queued")["items"], *lab.get("leases", state="granted")["items"]]
        # One that is granted between the two questions is in both answers; the later one counts.
        (lease,) = {one["id"]: one for one in asked}.values() or [lab.post("leases", pool="lab", ttl=3600)]
        return lease if lease["state"] == "granted" else None

    found = lab.until(granted, "the lease is granted", limit=120)
    assert found is not None
    return found


def give_back(lab: House, lease: dict[str, Any]) -> None:
    """Told until somebody heard it."""
    told = f"leases/{lease['id']}/release"
    lab.until(lambda: lab.tended() and lab.post(told, fence=lease["fence"]), "it is given back")


def assert_nothing_is_left(lab: House) -> None:
    """What runs is what has a record, what has a record is of an environment, and nothing is half-made."""
    lab.until(lambda: running(lab) == sorted(one["name"] for one in owned(lab)), "only what is owned runs")
    living = {one["id"] for one in lab.get("environments")["items"] if one["state"] != "gone"}
    assert {one["environment"] for one in owned(lab)} <= living
    assert list((hypervisor(lab) / "making").iterdir()) == []


def test_a_machine_is_lent_again_as_another_one(lab: House) -> None:
    furnish(lab)
    lab.tend()
    first = borrow(lab)
    (before,) = owned(lab)
    (machine,) = lab.get(f"environments/{first['environment']}")["machines"]
    assert before["start"] == "fork"
    give_back(lab, first)
    second = borrow(lab)
    assert second["environment"] == first["environment"]
    (after,) = owned(lab)
    assert before["host_key"] != after["host_key"]
    assert machine["name"] == "one"
    assert_nothing_is_left(lab)


def test_an_image_that_was_removed_by_hand_is_built_again_by_an_order_of_its_own(lab: House) -> None:
    furnish(lab)
    lab.tend()
    lease = borrow(lab)
    (first,) = lab.get("images")["items"][0]["hosts"]
    shutil.rmtree(hypervisor(lab) / "images")
    # One that is lost at once would wait like one that failed.
    lab.until(lambda: age(first["built"]) > 10, "it is not new any more")
    give_back(lab, lease)
    again = borrow(lab)
    assert again["environment"] != lease["environment"]
    (second,) = lab.get("images")["items"][0]["hosts"]
    assert (second["state"], second["digest"]) == ("ready", first["digest"])
    assert second["built"] > first["built"]
    assert_nothing_is_left(lab)


def age(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


STEPS = (
    *("hypervisor.machine_recording", "hypervisor.machine_recorded", "hypervisor.template_freezing"),
    *("hypervisor.template_naming", "hypervisor.template_named", "hypervisor.forking", "hypervisor.forked"),
    *("hypervisor.woken", "hypervisor.machine_awake", "hypervisor.machine_going", "hypervisor.machine_gone"),
    *("hypervisor.net_recording", "hypervisor.net_recorded", "hypervisor.image_cloned", "hypervisor.image_sealed"),
)
BOOTS = ("hypervisor.booting", "hypervisor.planting", "hypervisor.planted", "hypervisor.booted")


@pytest.mark.parametrize(
    ("start", "point"), [*(("fork", point) for point in STEPS), *(("boot", point) for point in BOOTS)]
)
def test_a_kill_of_the_hosts_agent_leaves_nothing_and_lends_nothing_twice(lab: House, start: str, point: str) -> None:
    furnish(lab, start=start)
    died = lab.directory / "died"
    lab.tend(PADDOCK_FAULT=point, PADDOCK_FAULT_ONCE=str(died))
    lease = borrow(lab)
    (machine,) = owned(lab)
    assert machine["environment"] == lease["environment"]
    assert_nothing_is_left(lab)
    give_back(lab, lease)
    lab.until_environments("ready", limit=120)
    assert_nothing_is_left(lab)
    again = borrow(lab)
    assert again["fence"] > lease["fence"]
    assert died.exists(), f"{point} was not passed"
    assert lab.get("leases", state="granted")["items"] == [lab.get(f"leases/{again['id']}")]


@pytest.mark.parametrize("when", ["leased", "cleaning"])
def test_a_machine_that_dies_is_replaced(lab: House, when: str) -> None:
    """kill -9 of what would be QEMU."""
    furnish(lab)
    lab.tend()
    lease = borrow(lab)
    (name,) = running(lab)
    (victim,) = [one.pid for one, called in machines() if called == name]
    if when == "cleaning":
        give_back(lab, lease)
    os.kill(victim, signal.SIGKILL)
    if when != "cleaning":
        give_back(lab, lease)
    lab.until_environments("ready", limit=120)
    assert running(lab) == [name]
    assert [one.pid for one, called in machines() if called == name] != [victim]
    assert_nothing_is_left(lab)


@pytest.mark.parametrize("start", ["fork", "boot"])
def test_a_machine_that_dies_while_it_is_built_is_replaced(lab: House, start: str) -> None:
    """kill -9 of what would be QEMU, when its agent is not awake yet: its record says that it is being made."""
    furnish(lab, start=start)
    lab.tend()
    lab.post("leases", pool="lab", ttl=3600)

    def making() -> tuple[str, int] | None:
        known = {one["name"] for one in owned(lab) if one["stage"] == "making"}
        return next(((name, one.pid) for one, name in machines() if name in known), None)

    found = lab.until(making, "a machine is being built")
    assert found is not None
    name, victim = found
    os.kill(victim, signal.SIGKILL)
    assert [one["stage"] for one in owned(lab) if one["name"] == name] == ["making"], "it was built before it died"
    lease = borrow(lab)
    (survivor,) = owned(lab)
    assert survivor["environment"] == lease["environment"]
    assert running(lab) == [survivor["name"]]
    assert [one.pid for one, called in machines() if called == survivor["name"]] != [victim]
    assert_nothing_is_left(lab)


@pytest.mark.parametrize("point", ["building.ordered", "cleaning.ordered", "leasing.served"])
def test_a_kill_of_the_server_leaves_nothing_and_lends_nothing_twice(lab: House, point: str) -> None:
    furnish(lab)
    lab.tend(PADDOCK_FAULT=point, PADDOCK_FAULT_ONCE=str(lab.directory / "died"))
    lease = borrow(lab)
    give_back(lab, lease)
    lab.until_environments("ready", limit=120)
    assert borrow(lab)["fence"] > lease["fence"]
    assert (lab.directory / "died").exists()
    assert_nothing_is_left(lab)


@pytest.mark.parametrize("point", ["hypervisor.saving", "hypervisor.saved"])
def test_a_kill_while_disks_are_kept_keeps_them_once(lab: House, point: str) -> None:
    furnish(lab, most=2)
    died = lab.directory / "died"
    lab.tend(PADDOCK_FAULT=point, PADDOCK_FAULT_ONCE=str(died))
    lease = borrow(lab)
    held = lease["environment"]
    lab.post(f"environments/{held}/hold", ttl=3600, disks=True)
    give_back(lab, lease)
    lab.until(
        lambda: lab.tended() and lab.get(f"environments/{held}")["state"] == "saved", "its disks are kept", limit=120
    )
    assert died.exists(), f"{point} was not passed"
    assert running(lab) == []
    (saved,) = (hypervisor(lab) / "saved").iterdir()
    asked = lab.post(f"environments/{held}/fork", ttl=3600)
    lab.tend()
    forked = lab.granted(asked["id"])
    assert forked["environment"] != held
    assert [one["start"] for one in owned(lab)] == ["boot"]
    lab.post(f"environments/{held}/release")
    assert saved.exists(), "what was made of them may need them"
    give_back(lab, forked)
    lab.until(lambda: lab.tended() and not saved.exists(), "the copies are gone")
    assert_nothing_is_left(lab)


def test_fifty_who_ask_at_once_are_served_one_after_another_on_a_host_for_six(lab: House) -> None:
    furnish(lab, most=50, memory=6 * 64)
    lab.tend()
    asked = [lab.post("leases", pool="lab", ttl=3600)["id"] for _ in range(50)]
    served: list[str] = []
    most = 0
    lab.until(lambda: len(running(lab)) == 6, "as many run as the host has memory for", limit=120)
    for _ in itertools.takewhile(lambda _: len(served) < len(asked), itertools.count()):
        granted = [one for one in lab.get("leases", state="granted", limit=100)["items"] if one["id"] in asked]
        held = [one["environment"] for one in granted]
        assert len(held) == len(set(held)), "lent twice"
        most = max(most, len(running(lab)))
        assert most <= 6, "more machines than the host has memory for"
        for lease in granted:
            give_back(lab, lease)
            served.append(lease["id"])
        time.sleep(0.1)
    assert sorted(served) == sorted(asked)
    assert most == 6
