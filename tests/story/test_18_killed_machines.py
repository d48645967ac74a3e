"""kill -9 of what would be QEMU, at every step of build, boot, fork and clean, while the host's agent lives on.

The driver is one of paper (paper.py). Machines that build images, and QEMU itself, killed while it starts, restores and
is frozen, are in ../agent/hypervisor/test_killed_machines.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.story import paper
from tests.story.house import House, house
from tests.story.test_18_virtual_machines import (
    assert_nothing_is_left,
    borrow,
    furnish,
    give_back,
    hypervisor,
    owned,
    running,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def opened(start: str, directories: pytest.TempPathFactory) -> Iterator[House]:
    directory = directories.mktemp(start)
    with house(directory) as built:
        built.host_program = ("-m", "tests.story.paper", "host", "run", "--skills", "hypervisor")
        (directory / "base.raw").write_bytes(bytes(1 << 20))
        furnish(built, start=start)
        built.tend(**{paper.ORDER: str(directory / "kill")})
        yield built


@pytest.fixture(scope="module")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One for all steps: the lease that one test ends with is given back by the next."""
    with opened("fork", tmp_path_factory) as lab:
        yield lab


@pytest.fixture(scope="module")
def booting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with opened("boot", tmp_path_factory) as lab:
        yield lab


def kill_at(lab: House, point: str) -> dict[str, Any]:
    """A lease, granted after the machine was killed at a step: while it was built, if there was none, else cleaned."""
    order = lab.directory / "kill"
    order.write_text(f"hypervisor.{point}")
    before = lab.get("leases", state="granted")["items"]
    for lease in before:
        give_back(lab, lease)
    found = borrow(lab)
    assert not order.exists(), f"nobody was killed at {point}"
    assert all(found["fence"] > lease["fence"] for lease in before)
    return found


def assert_it_is_lent_once(lab: House, lease: dict[str, Any]) -> None:
    assert lab.get("leases", state="granted")["items"] == [lab.get(f"leases/{lease['id']}")]
    (machine,) = owned(lab)
    assert (machine["environment"], machine["stage"]) == (lease["environment"], "awake")
    assert running(lab) == [machine["name"]]
    assert_nothing_is_left(lab)


@pytest.mark.parametrize("point", ["machine_awake", "woken", "forked", "machine_going", "template_freezing"])
def test_a_fork_that_is_killed_at_a_step_is_made_anew_and_lent_once(forking: House, point: str) -> None:
    if point == "template_freezing":
        for record in hypervisor(forking).glob("templates/*/made.json"):
            record.unlink()
    assert_it_is_lent_once(forking, kill_at(forking, point))
    (machine,) = owned(forking)
    whole = list(hypervisor(forking).glob("templates/*/made.json"))
    assert len(whole) == (0 if point == "template_freezing" else 1), "no template is made of a half"
    if point != "forked":  # it may have answered before it died
        assert machine["start"] == ("boot" if point == "template_freezing" else "fork")


@pytest.mark.parametrize("point", ["booted", "woken", "machine_awake", "machine_going"])
def test_a_boot_that_is_killed_at_a_step_is_made_anew_and_lent_once(booting: House, point: str) -> None:
    assert_it_is_lent_once(booting, kill_at(booting, point))
