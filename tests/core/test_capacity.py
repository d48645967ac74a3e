"""What is booked of a host: each byte once."""

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.core.capacity import DEVICES, booked, build_size, templates_size
from paddock.core.environment import Environment
from paddock.core.host import Stored
from paddock.core.image import HELPER, Chain, Entry, HostImage, Image, Layer
from paddock.core.image import State as ImageState
from paddock.core.machine import MachineSettings, NicSettings, Size

NOW = datetime(2026, 11, 20, tzinfo=UTC)
DEBIAN = Image(name="debian", path="/srv/debian.raw", size=100, memory=7)


def row(name: str, *layers: tuple[str, int], chain: Chain = (), state: ImageState = ImageState.READY) -> HostImage:
    told = tuple(Layer(digest=digest, image=name, bytes=size) for digest, size in layers)
    return HostImage(
        id=f"{name}@vm-1", image=name, host="vm-1", since=NOW, state=state, layers=told, chain=chain, serving=chain
    )


def disk(*images: HostImage, stored: Stored | None = None) -> int:
    return booked((), images, stored).disk


def test_layers_that_images_share_are_booked_once() -> None:
    assert disk(row("a", ("base", 10), ("one", 3)), row("b", ("base", 10), ("two", 4))) == 17


def test_layers_that_no_row_knows_any_more_are_booked_as_their_host_counts_them() -> None:
    assert disk(row("a", ("base", 10)), stored=Stored(images=30)) == 30
    assert disk(stored=Stored(images=30)) == 30


def test_what_its_rows_and_its_agent_both_know_is_not_booked_twice() -> None:
    images = row("a", ("base", 10), ("one", 3))
    assert disk(images, stored=Stored(images=13)) == disk(images) == 13


def test_a_layer_that_was_removed_by_hand_stays_booked_as_it_is_built_again() -> None:
    assert disk(row("a", ("base", 10), ("one", 3)), stored=Stored(images=3)) == 13


def test_templates_are_booked_beside_the_images() -> None:
    assert disk(row("a", ("base", 10)), stored=Stored(images=10, templates=50)) == 60


def test_machines_of_one_make_share_a_template_which_takes_their_memory_and_their_disks_at_most() -> None:
    node = MachineSettings(name="one", image="debian", memory=1000, disks=(5,))
    other = replace(node, name="two", nets=(NicSettings(network="lan"),))
    assert templates_size([node], {"debian": 100}) == 1000 + 105 + DEVICES
    assert templates_size([node, other], {"debian": 100}) == templates_size([node], {"debian": 100})
    for change in ({"memory": 1001}, {"vcpus": 2}, {"disks": (6,)}, {"display": True}, {"image": "stack"}):
        two = templates_size([node, replace(other, **change)], {"debian": 100, "stack": 100})  # type: ignore[arg-type]
        assert two >= 2 * (1000 + 105 + DEVICES), change


def test_what_is_booked_for_templates_is_of_the_disk() -> None:
    size = Size(memory=7, vcpus=1, disk=100)
    one = Environment(id="a-1", pool="a", host="vm-1", since=NOW, size=size, for_templates=50)
    assert booked([one], ()) == Size(memory=7, vcpus=1, disk=150)


def test_a_build_is_booked_beside_what_is_there() -> None:
    building = row("a", ("base", 10), chain=(DEBIAN,), state=ImageState.BUILDING)
    assert booked((), [building], Stored(images=10, templates=1)) == Size(memory=7, vcpus=1, disk=111)


def test_a_build_takes_what_the_largest_of_its_machines_does_the_helper_included() -> None:
    small, large = replace(DEBIAN, entry=Entry.HELPER), replace(DEBIAN, entry=Entry.HELPER, memory=1 << 30, vcpus=4)
    assert build_size((DEBIAN,), ()) == Size(memory=7, vcpus=1, disk=100)
    assert build_size((small,), ()) == Size(memory=HELPER.memory, vcpus=1, disk=100)
    assert build_size((large,), ()) == Size(memory=1 << 30, vcpus=4, disk=100)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 99), max_size=5), st.integers(0, 500), st.integers(0, 500))
def test_never_less_than_either_knows_and_never_the_sum_of_both(sizes: list[int], images: int, templates: int) -> None:
    known = row("a", *((str(place), size) for place, size in enumerate(sizes)))
    found = disk(known, stored=Stored(images=images, templates=templates)) - templates
    assert found in (sum(sizes), images)
    assert found >= max(sum(sizes), images)
