"""Machines of the skill `hypervisor`: made, forked, cleaned, adopted, destroyed; on a driver without machines."""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from paddock.agent import dialing, durable
from paddock.agent.channel import Carrying
from paddock.agent.entry import Outcome
from paddock.agent.identity import Identity
from paddock.agent.skills.hypervisor import console, machines
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.hypervisor.machines import Machines
from paddock.agent.skills.hypervisor.parts import Parts
from paddock.agent.skills.hypervisor.ports import Plan
from paddock.agent.skills.hypervisor.templates import Templates
from paddock.agent.skills.skill import Call, Work, code_of
from paddock.core.errors import Broken, Missing, PaddockError, Refused, Unbuilt
from paddock.core.image import Image
from paddock.core.machine import NetworkSettings, NicSettings, Start, mac, nics
from paddock.wire.messages import Code
from paddock.wire.specs import MachineSpec, NetworkSpec, Peer
from tests.agent.desk import TOKEN, Desk
from tests.agent.hypervisor.doubles import UPLINK, FakeDisks, FakeImages, FakeNetworks, Guests, told
from tests.agent.hypervisor.fakes import FakeDriver, Host, Woe

MIB = 1 << 20
DEBIAN = Image(name="debian", path="/srv/debian.raw")


class Fences:
    """What a relay asks a ledger."""

    def fence(self, environment: str) -> int:
        return 1


@dataclass
class Rig:
    """A host's agent's skill: `host` and its machines live on when `open` ends, as processes do."""

    root: Path
    desk: Desk
    host: Host = field(default_factory=Host)
    guests: Guests = field(default_factory=Guests)
    networks: FakeNetworks = field(default_factory=FakeNetworks)
    driver: FakeDriver = field(init=False)
    images: FakeImages = field(init=False)
    machines: Machines = field(init=False)

    def __post_init__(self) -> None:
        self.images = FakeImages(self.root)
        self.driver = FakeDriver(self.host, self.guests.live)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Rig"]:
        parts = Parts(
            layout=Layout.of(self.root),
            disks=FakeDisks(),
            driver=self.driver,
            networks=self.networks,
            images=self.images,
            channels=self.guests,
            variables=lambda environment, peers: {"no_proxy": " ".join([environment, *peers])},
            logins=["ssh-ed25519 AAAA operator"],
            user_data="#cloud-config\nruncmd: [date]\n",
        )
        carrying = Carrying(
            server=dialing.server((self.desk.url,), authorities=None, certificate=None, insecure=True),
            identity=lambda: Identity(agent="host", token=TOKEN),
            ledger=Fences(),  # type: ignore[arg-type]  # all that a relay wants of it
        )
        async with Machines(parts, carrying=carrying, templates=Templates(parts)) as opened:
            self.machines = opened
            yield self

    async def ask(
        self, method: str, *, environment: str = "lab-1", machine: str = "one", fence: int = 1, **params: Any
    ) -> Any:
        deed = self.machines.methods()[method]
        call = Call(
            task=f"{method}-{environment}-{machine}-{fence}",
            method=method,
            params={"machine": machine, **params},
            environment=environment,
            fence=fence,
            directory=self.root / "task",
        )
        async with asyncio.timeout(20):
            if isinstance(deed, Work):
                outcome: Outcome = await deed.act(call)
                assert outcome.code is None
                return outcome.result
            return await deed.answer(call)  # type: ignore[union-attr]  # a Read

    def directory(self, environment: str = "lab-1", machine: str = "one") -> Path:
        return self.root / "machines" / environment / machine

    def record(self, environment: str = "lab-1", machine: str = "one") -> dict[str, Any]:
        return told(self.directory(environment, machine) / "machine.json")


def spec(*, start: Start = Start.FORK, environment: str = "lab-1", machine: str = "one", **more: Any) -> dict[str, Any]:
    cards = nics(environment, machine, 0, [NicSettings(network="lan")], [NetworkSettings(name="lan")])
    told = {"image": (DEBIAN,), "layer": "layer-of-debian", "memory": 384 * MIB}
    told |= {"nics": cards, "networks": (NetworkSpec(name="lan"),), **more}
    return MachineSpec(start=start, **told).params()


@pytest.fixture
async def rig(desk: Desk, tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path / "hypervisor", desk)
    async with made.open():
        yield made
    await made.host.close()


async def test_a_machine_is_forked_from_a_template_that_is_made_once(rig: Rig) -> None:
    results = await asyncio.gather(*(rig.ask("machine.build", machine=name, spec=spec(machine=name)) for name in "ab"))
    assert [one["start"] for one in results] == ["fork", "fork"]
    assert sum(call.startswith("freeze") for call in rig.driver.calls) == 1
    assert sum(call.startswith("fork") for call in rig.driver.calls) == 2
    assert set(rig.desk.seats) >= {"lab-1/a", "lab-1/b"}


async def test_two_forks_share_no_identity_and_one_login_key(rig: Rig) -> None:
    for name in "ab":
        await rig.ask("machine.build", machine=name, spec=spec(machine=name))
    one, two = (rig.guests.wakes[rig.directory(machine=name)][-1] for name in "ab")
    for what in ("machine_id", "wake_id", "entropy", "host_keys", "hostname", "macs"):
        assert getattr(one, what) != getattr(two, what), what
    assert one.login_key == two.login_key
    assert one.authorized_keys == two.authorized_keys


async def test_the_template_was_nobody(rig: Rig) -> None:
    await rig.ask("machine.build", spec=spec())
    (nobody,) = [wakes[0] for place, wakes in rig.guests.wakes.items() if "making" in place.parts]
    assert (nobody.environment, nobody.host_keys, nobody.login_key) == ("nobody", {}, "")


async def test_who_asks_for_a_boot_gets_one(rig: Rig) -> None:
    result = await rig.ask("machine.build", spec=spec(start=Start.BOOT))
    assert (result["start"], result["why"]) == ("boot", "")
    assert not any(call.startswith(("fork", "freeze")) for call in rig.driver.calls)


async def test_a_machine_that_cannot_be_frozen_is_booted_and_says_why(rig: Rig) -> None:
    rig.driver.misbehave("freeze", Woe.FAIL)
    result = await rig.ask("machine.build", spec=spec())
    assert result["start"] == "boot"
    assert "cannot be frozen" in result["why"]
    assert rig.record()["stage"] == "awake"


async def test_a_template_is_made_only_where_there_is_room_for_it_and_forked_from_where_there_is_none(rig: Rig) -> None:
    booted = await rig.ask("machine.build", spec=spec(template=False))
    assert (booted["start"], booted["why"]) == ("boot", "there is no room on its host's disk for a template")
    first = await rig.ask("machine.build", environment="lab-2", spec=spec(environment="lab-2"))
    other = await rig.ask("machine.build", environment="lab-3", spec=spec(environment="lab-3", template=False))
    assert [first["start"], other["start"]] == ["fork", "fork"]


async def test_a_disk_that_is_full_while_it_is_frozen_means_a_boot_that_says_so(rig: Rig) -> None:
    rig.driver.misbehave("freeze", Woe.FULL)
    results = [await rig.ask("machine.build", machine=name, spec=spec(machine=name)) for name in "ab"]
    assert [one["start"] for one in results] == ["boot", "boot"]
    assert all("No space left" in one["why"] for one in results)
    assert sum(call.startswith("freeze") for call in rig.driver.calls) == 1, "it is tried again at once"
    assert not list((rig.root / "making").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["disks", "system", "made.json", "memory", "template.json"])
async def test_a_template_of_which_a_part_is_deleted_is_made_anew(rig: Rig, part: str) -> None:
    await rig.ask("machine.build", spec=spec())
    (template,) = (rig.root / "templates").iterdir()
    (disks,) = template.glob("disks*")
    place = {"disks": disks, "system": disks / "system"}.get(part, template / part)
    shutil.rmtree(place) if place.is_dir() else place.unlink()

    results = [await rig.ask("machine.clean", fence=fence, spec=spec()) for fence in (2, 3)]

    assert [(one["start"], one["why"]) for one in results] == [("fork", ""), ("fork", "")]
    assert sum(call.startswith("freeze") for call in rig.driver.calls) == 2, "once anew, not for each fork"
    assert list((rig.root / "templates").iterdir()) == [template]


async def test_what_was_forked_from_a_damaged_template_keeps_the_disks_that_it_lies_on(rig: Rig) -> None:
    await rig.ask("machine.build", machine="a", spec=spec(machine="a"))
    (template,) = (rig.root / "templates").iterdir()
    (disks,) = template.glob("disks*")
    (template / "memory").unlink()
    await rig.ask("machine.build", machine="b", spec=spec(machine="b"))
    assert (disks / "system").read_text() == "debian"
    assert len(list(template.glob("disks*"))) == 2, "the new ones have another name"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["kernel", "initrd"])
async def test_a_kernel_that_is_replaced_is_that_of_the_next_fork(rig: Rig, what: str) -> None:
    rig.root.mkdir(exist_ok=True)
    files = {name: rig.root / name for name in ("kernel", "initrd")}
    for file in files.values():
        file.write_text("old")
    wanted = spec(image=(replace(DEBIAN, kernel=str(files["kernel"]), initrd=str(files["initrd"])),))
    templates = []
    for fence in (1, 2, 3):
        assert (await rig.ask("machine.clean", fence=fence, spec=wanted))["start"] == "fork"
        templates.append(rig.record()["template"])
        if fence == 2:
            files[what].write_text("new")  # as large as it was

    assert templates[0] == templates[1] != templates[2]
    assert sum(call.startswith("freeze") for call in rig.driver.calls) == 2


async def test_a_kernel_that_is_not_there_is_said_with_its_path(rig: Rig) -> None:
    image = replace(DEBIAN, kernel=str(rig.root / "vmlinuz"))
    made = await rig.ask("machine.build", spec=spec(image=(image,)))

    assert (made["start"], made["why"]) == ("boot", f"{rig.root}/vmlinuz: No such file or directory")


@pytest.mark.slow
async def test_a_template_that_nobody_can_be_forked_from_is_made_anew_once_and_then_left_for_a_while(rig: Rig) -> None:
    def spoil() -> None:
        (memory,) = (rig.root / "templates").glob("*/memory")
        memory.write_text("x" * memory.stat().st_size)

    starts = []
    for fence in range(1, 7):
        starts.append((await rig.ask("machine.clean", fence=fence, spec=spec()))["start"])
        if fence in (1, 3):
            spoil()
    assert starts == ["fork", "boot", "fork", "boot", "boot", "boot"]
    assert sum(call.startswith("freeze") for call in rig.driver.calls) == 2


async def test_the_disks_of_a_template_are_synced_before_it_is_whole(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    sync = os.fsync

    def noted(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    await rig.ask("machine.build", spec=spec())

    (record,) = (number for number, path in enumerate(synced) if path.name == "made.json.new")
    before = {(path.parent.name.partition("-")[0], path.name) for path in synced[:record]}
    assert ("disks", "system") in before
    assert any(path.name.startswith("disks-") for path in synced[:record]), "their names, too"


async def test_a_fork_that_dies_is_booted_instead_and_nothing_of_it_is_left(rig: Rig) -> None:
    rig.driver.misbehave("fork", Woe.DIE)
    result = await rig.ask("machine.build", spec=spec())
    assert result["start"] == "boot"
    assert rig.record()["template"] == ""
    assert [one.name for one in await rig.driver.running(Layout.of(rig.root).instance)] == [rig.record()["name"]]


async def test_a_build_that_fails_leaves_nothing(rig: Rig) -> None:
    rig.guests.refuses += ["no"]
    with pytest.raises(PaddockError, match="no"):
        await rig.ask("machine.build", spec=spec(start=Start.BOOT))
    assert not rig.directory().exists()
    assert not rig.host.machines
    assert not rig.networks.opened
    assert not rig.networks.wired


@pytest.mark.parametrize("method", ["machine.build", "machine.clean"])
async def test_a_machine_whose_image_is_gone_is_not_made_and_its_host_says_what_is_to_be_done_first(
    rig: Rig, method: str
) -> None:
    if method == "machine.clean":
        await rig.ask("machine.build", spec=spec())
    rig.images.lost.add("debian")
    with pytest.raises(Unbuilt, match="layer layer-of-debian: it is not there") as raised:
        await rig.ask(method, fence=2, spec=spec())
    assert code_of(raised.value) is Code.UNBUILT
    assert not rig.directory().exists()
    assert not rig.host.machines


async def test_building_again_is_the_same_machine(rig: Rig) -> None:
    first = await rig.ask("machine.build", spec=spec())
    again = await rig.ask("machine.build", spec=spec())
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    assert len(rig.guests.wakes[rig.directory()]) == 1


async def test_a_cleaned_machine_is_another_one(rig: Rig) -> None:
    before = await rig.ask("machine.build", spec=spec())
    pid = rig.host.machines[rig.record()["name"]].pid
    after = await rig.ask("machine.clean", fence=3, spec=spec())
    assert (after["start"], after["ended"]) == ("fork", 1)
    assert after["host_key"] != before["host_key"]
    assert rig.host.machines[rig.record()["name"]].pid != pid
    one, two = rig.guests.wakes[rig.directory()]
    assert one.login_key != two.login_key


async def test_cleaning_that_was_interrupted_is_done_once(rig: Rig) -> None:
    await rig.ask("machine.build", spec=spec())
    await rig.ask("machine.clean", fence=3, spec=spec())
    assert (await rig.ask("machine.clean", fence=3, spec=spec()))["ended"] == 0
    assert len(rig.guests.wakes[rig.directory()]) == 2


async def test_destroying_leaves_nothing_and_networks_go_with_the_last_machine(rig: Rig) -> None:
    for name in "ab":
        await rig.ask("machine.build", machine=name, spec=spec(machine=name))
    await rig.ask("machine.destroy", machine="a")
    assert rig.networks.opened == {"lab-1": ["lan"]}
    await rig.ask("machine.destroy", machine="b")
    await rig.ask("machine.destroy", machine="b")
    assert not rig.networks.opened
    assert not rig.host.machines
    assert not (rig.root / "machines" / "lab-1").exists()


def left(rig: Rig) -> list[str]:
    """What is there of any machine or its environment."""
    return sorted(str(path.relative_to(rig.root)) for path in (rig.root / "machines").rglob("*"))


@pytest.mark.parametrize("method", ["machine.destroy", "machine.clean", "machine.save"])
async def test_one_that_is_ended_while_its_networks_close_is_taken_up_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    await rig.ask("machine.build", spec=spec())
    closing = asyncio.Event()

    async def close(environment: str) -> None:
        closing.set()
        await asyncio.Event().wait()

    params = {"machine.clean": {"spec": spec()}, "machine.save": {"saved": "lab-1.one"}}.get(method, {})
    with monkeypatch.context() as patch:
        patch.setattr(rig.networks, "close", close)
        asked = asyncio.create_task(rig.ask(method, fence=2, **params))
        await closing.wait()
        asked.cancel()  # a higher fence
        await asyncio.gather(asked, return_exceptions=True)

    await rig.ask("machine.destroy", fence=3)
    assert (left(rig), rig.networks.opened) == ([], {})
    assert (await rig.ask("machine.list"))["machines"] == []


async def test_who_is_built_while_the_last_one_goes_has_networks_and_a_key(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.ask("machine.build", machine="a", spec=spec(machine="a"))
    closing, go_on, close = asyncio.Event(), asyncio.Event(), rig.networks.close

    async def slowly(environment: str) -> None:
        closing.set()
        await go_on.wait()
        await close(environment)

    monkeypatch.setattr(rig.networks, "close", slowly)
    going = asyncio.create_task(rig.ask("machine.destroy", machine="a"))
    await closing.wait()
    coming = asyncio.create_task(rig.ask("machine.build", machine="b", spec=spec(machine="b")))
    done, _ = await asyncio.wait({coming}, timeout=0.1)
    assert not done, "it was built into what is being removed"
    go_on.set()
    await asyncio.gather(going, coming)
    assert rig.networks.opened == {"lab-1": ["lan"]}
    assert (rig.root / "machines" / "lab-1" / "login.json").exists()


async def test_destroying_what_is_not_there_leaves_nothing_of_its_environment(rig: Rig) -> None:
    await rig.ask("machine.build", spec=spec())
    key = rig.root / "machines" / "lab-1" / "login.json"
    told = key.read_text()
    await rig.ask("machine.destroy", fence=2)
    key.parent.mkdir()
    key.write_text(told)
    rig.networks.opened["lab-1"] = ["lan"]
    await rig.ask("machine.destroy", fence=3)
    assert (left(rig), rig.networks.opened) == ([], {})


@pytest.mark.slow
async def test_a_console_that_nobody_follows_is_kept_short(rig: Rig) -> None:
    await rig.ask("machine.build", spec=spec())
    being_made = rig.root / "making" / "image-1"
    being_made.mkdir(parents=True)
    files = [place / console.FILE for place in (rig.directory(), being_made)]
    for file in files:
        file.write_bytes(bytes([1]) * (3 * console.LAST))
    most = console.FIRST + console.LAST + 2 * MIB

    async with asyncio.timeout(10), rig.open():  # the next agent looks at once
        while any(file.stat().st_blocks * 512 > most for file in files):  # noqa: ASYNC110 - a disk tells nobody
            await asyncio.sleep(0.01)
    assert [file.stat().st_size for file in files] == [3 * console.LAST] * 2


async def test_a_running_machine_is_adopted_by_the_next_agent(rig: Rig) -> None:
    await rig.ask("machine.build", spec=spec())
    pid = rig.host.machines[rig.record()["name"]].pid
    del rig.desk.seats["lab-1/one"]
    again = Rig(rig.root, rig.desk, host=rig.host, guests=rig.guests, networks=rig.networks)
    async with again.open():
        await rig.desk.here("lab-1/one")
        (machine,) = (await again.ask("machine.list"))["machines"]
        assert (machine["pid"], machine["state"]) == (pid, "relayed")


@pytest.mark.parametrize("method", ["machine.build", "machine.clean"])
async def test_a_machine_that_was_made_and_whose_process_is_gone_is_made_anew(rig: Rig, method: str) -> None:
    await rig.ask(method, fence=2, spec=spec())
    rig.host.vanish(rig.record()["name"])
    again = await rig.ask(method, fence=2, spec=spec())
    assert again["start"] == "fork"
    assert [one.name for one in await rig.driver.running(Layout.of(rig.root).instance)] == [rig.record()["name"]]


async def test_a_machine_that_dies_before_the_server_heard_it_is_made_anew(rig: Rig) -> None:
    rig.driver.misbehave("boot", Woe.VANISH, times=2)
    result = await rig.ask("machine.build", spec=spec(start=Start.BOOT))
    assert result["start"] == "boot"
    assert sum(call.startswith("boot") for call in rig.driver.calls) == 3


async def test_one_that_always_dies_fails_and_leaves_nothing(rig: Rig) -> None:
    rig.driver.misbehave("boot", Woe.VANISH, times=9)
    with pytest.raises(Broken, match="dies before the server hears its agent, 3 times"):
        await rig.ask("machine.build", spec=spec(start=Start.BOOT))
    assert not rig.directory().exists()
    assert not rig.host.machines


@pytest.mark.slow
@pytest.mark.parametrize("method", ["machine.build", "machine.clean"])
async def test_a_server_that_is_away_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(machines, "_ANSWERED_LIMIT", timedelta(seconds=0.5))
    desk = Desk()
    async with desk.open():
        port = desk.port
    rig = Rig(tmp_path / "hypervisor", desk)
    async with rig.open():
        asked = asyncio.create_task(rig.ask(method, fence=2, spec=spec()))
        done, _ = await asyncio.wait({asked}, timeout=2)
        assert not done, "it gave up while the server was away"
        async with desk.open(port):
            assert (await asked)["start"] == "fork"
    await rig.host.close()


@pytest.mark.slow
async def test_a_machine_whose_hello_the_server_does_not_answer_fails(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "_ANSWERED_LIMIT", timedelta(seconds=0.2))
    rig.desk.answers_hello = False
    with pytest.raises(Broken, match="it is up, and the server does not hear its agent, 3 times in a row"):
        await rig.ask("machine.build", spec=spec())
    assert not rig.directory().exists()
    assert not rig.host.machines


@pytest.mark.slow
@pytest.mark.parametrize("method", ["machine.build", "machine.clean"])
async def test_a_machine_that_runs_and_hangs_before_the_server_heard_it_is_made_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(machines, "_ANSWERED_LIMIT", timedelta(seconds=0.5))
    rig.desk.unheard = 1
    await rig.ask(method, fence=2, spec=spec(start=Start.BOOT))
    assert sum(call.startswith("boot") for call in rig.driver.calls) == 2
    assert [one.name for one in await rig.driver.running(Layout.of(rig.root).instance)] == [rig.record()["name"]]


@pytest.mark.slow
async def test_one_that_hung_before_its_host_was_asked_again_is_made_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.ask("machine.build", spec=spec(start=Start.BOOT))
    monkeypatch.setattr(machines, "_ANSWERED_LIMIT", timedelta(seconds=0.5))
    again = Rig(rig.root, rig.desk, host=rig.host, guests=rig.guests, networks=rig.networks)
    rig.desk.unheard = 1
    async with again.open():
        await again.ask("machine.build", spec=spec(start=Start.BOOT))
        assert sum(call.startswith("boot") for call in again.driver.calls) == 1


async def test_what_nobody_owns_is_ended_at_the_next_start(rig: Rig, tmp_path: Path) -> None:
    await rig.ask("machine.build", spec=spec())
    (rig.directory() / "machine.json").unlink()
    again = Rig(rig.root, rig.desk, host=rig.host, guests=rig.guests, networks=rig.networks)
    async with again.open():
        assert not rig.host.machines
        assert not rig.networks.opened
        assert not rig.directory().exists()


@pytest.mark.parametrize("stage", ["making", "going"])
async def test_half_a_machine_is_removed_at_the_next_start(rig: Rig, stage: str) -> None:
    await rig.ask("machine.build", spec=spec())
    file = rig.directory() / "machine.json"
    file.write_text(file.read_text().replace('"awake"', f'"{stage}"'))
    again = Rig(rig.root, rig.desk, host=rig.host, guests=rig.guests, networks=rig.networks)
    async with again.open():
        assert not rig.host.machines
        assert not rig.directory().exists()


@pytest.mark.parametrize("how", ["killed before it was removed", "no machine's record"])
async def test_the_key_of_an_environment_without_machines_is_removed_at_the_next_start(rig: Rig, how: str) -> None:
    for environment in ("lab-1", "lab-2"):
        await rig.ask("machine.build", environment=environment, spec=spec(environment=environment))
    if how == "no machine's record":
        (rig.directory() / "machine.json").write_text("nonsense")
    else:
        shutil.rmtree(rig.directory())
    again = Rig(rig.root, rig.desk, host=rig.host, guests=rig.guests, networks=rig.networks)
    async with again.open():
        assert not (rig.root / "machines" / "lab-1").exists()
        assert (rig.root / "machines" / "lab-2" / "login.json").exists(), "of one that has a machine"
        assert list(rig.networks.opened) == ["lab-2"]


@pytest.mark.parametrize("damage", ["torn", "no record", "no spec"])
async def test_a_machine_whose_record_cannot_be_read_is_removed_at_the_next_start(rig: Rig, damage: str) -> None:
    await rig.ask("machine.build", spec=spec())
    file = rig.directory() / "machine.json"
    whole = file.read_text()
    told = {"torn": whole[: len(whole) // 2], "no record": '{"machine": 3}', "no spec": whole.replace("memory", "mem")}
    file.write_text(told[damage])
    again = Rig(rig.root, rig.desk, host=rig.host, guests=rig.guests, networks=rig.networks)
    async with again.open():
        assert not rig.host.machines
        assert not rig.directory().exists()
        assert not rig.networks.opened
        await again.ask("machine.build", spec=spec())


async def test_a_warm_up_that_fails_means_a_boot_that_says_so(rig: Rig) -> None:
    warm = Image(name="debian", path="/srv/debian.raw", warm_up="exit 7")
    rig.guests.exits["exit 7"] = 7
    params = {**spec(), "image": MachineSpec(image=(warm,), memory=MIB).params()["image"]}
    result = await rig.ask("machine.build", spec=params)
    assert (result["start"], "warm-up ended with 7" in result["why"]) == ("boot", True)


async def test_it_is_told_of_each_card_that_it_has_and_past_whom_the_proxy_is(rig: Rig) -> None:
    given = spec(egress=("example.org:443",), peers=(Peer(machine="two", addresses=("192.168.80.11/24",)),))
    await rig.ask("machine.build", spec=given)

    (wake,) = rig.guests.wakes[rig.directory()]

    assert wake.macs == (mac("lab-1", "one", 0), UPLINK.mac)
    assert wake.addresses == ("192.168.80.10/24", "10.0.2.15/24")
    assert wake.env == {"no_proxy": "lab-1 two 192.168.80.11"}


async def test_its_disks_are_kept_and_brought_up_again_in_another_environment(rig: Rig) -> None:
    await rig.ask("machine.build", spec=spec())
    (rig.directory() / "disks" / "system").write_text("what happened")
    await rig.ask("machine.save", saved="lab-1.one")
    assert not rig.host.machines
    assert any(call.startswith("power") and call.endswith("shutdown") for call in rig.driver.calls), (
        "what it wrote last is on its disks"
    )
    result = await rig.ask("machine.build", environment="lab-2", spec=spec(environment="lab-2", saved="lab-1.one"))
    assert result["start"] == "boot"
    assert (rig.directory("lab-2") / "disks" / "system").read_text() == "what happened"
    await rig.ask("machine.forget", saved="lab-1.one")
    assert not (rig.root / "saved" / "lab-1.one").exists()


async def test_disks_that_are_kept_are_moved_so_that_they_take_no_more_room(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = durable.sync
    monkeypatch.setattr(durable, "sync", lambda path: (synced.append(path.name), sync(path)))
    await rig.ask("machine.build", spec=spec())
    before = (rig.directory() / "disks" / "system").stat().st_ino
    synced.clear()
    await rig.ask("machine.save", saved="lab-1.one")
    assert (rig.root / "saved" / "lab-1.one" / "system").stat().st_ino == before
    assert synced[:3] == ["system", "disks", "saved"], "what QEMU wrote last is not on the disk before that"


async def test_what_is_kept_is_listed_with_the_highest_fence_that_the_host_saw(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.ask("machine.build", spec=spec())
    await rig.ask("machine.build", environment="lab-2", spec=spec(environment="lab-2"))
    await rig.ask("machine.save", saved="lab-1.one")
    monkeypatch.setattr(Fences, "fence", lambda self, environment: {"lab-1": 7, "lab-2": 9}[environment])
    told = await rig.ask("machine.list")
    assert told["saved"] == [{"environment": "lab-1", "machine": "one", "fence": 7}]
    assert [(one["environment"], one["fence"]) for one in told["machines"]] == [("lab-2", 9)]
    await rig.ask("machine.forget", saved="lab-1.one")
    assert (await rig.ask("machine.list"))["saved"] == []


async def test_the_disks_of_a_machine_that_does_not_hear_are_kept(rig: Rig) -> None:
    await rig.ask("machine.build", spec=spec())
    rig.driver.misbehave("power", Woe.FAIL)
    await rig.ask("machine.save", saved="lab-1.one")
    assert not rig.host.machines


async def test_a_machine_that_is_weighed_is_off_with_all_that_it_wrote_and_may_be_switched_on_again(rig: Rig) -> None:
    await rig.ask("machine.build", spec=spec())
    (rig.directory() / "disks" / "system").write_bytes(os.urandom(MIB))
    assert await rig.ask("machine.weigh", fence=2, saved="lab-1.one") == {"bytes": MIB}
    name = rig.record()["name"]
    assert f"power {name} shutdown" in rig.driver.calls
    assert (rig.host.machines, rig.record()["is_off"]) == ({}, True)
    assert [one["machine"] for one in (await rig.ask("machine.list"))["machines"]] == ["one"]
    assert not (rig.root / "saved").exists()
    assert await rig.ask("machine.weigh", fence=2, saved="lab-1.one") == {"bytes": MIB}, "as often as one likes"
    assert (await rig.ask("machine.power", fence=2, action="on"))["power"] == "on"
    assert name in rig.host.machines


async def test_disks_that_are_put_aside_weigh_what_they_take(rig: Rig) -> None:
    await rig.ask("machine.build", spec=spec())
    (rig.directory() / "disks" / "system").write_bytes(os.urandom(MIB))
    assert (await rig.ask("machine.save", saved="lab-1.one"))["bytes"] == MIB
    assert await rig.ask("machine.weigh", fence=2, saved="lab-1.one") == {"bytes": MIB}
    assert (await rig.ask("machine.save", fence=2, saved="lab-1.one"))["bytes"] == MIB
    with pytest.raises(Missing, match="lab-1/one: is not on this host"):
        await rig.ask("machine.weigh", fence=2, saved="lab-1.other")


async def test_buttons(rig: Rig) -> None:
    await rig.ask("machine.build", spec=spec())
    name = rig.record()["name"]
    assert (await rig.ask("machine.power", action="off"))["power"] == "off"
    assert name not in rig.host.machines
    assert (await rig.ask("machine.power", action="on", boot=["network", "disk"]))["power"] == "on"
    assert list(rig.host.machines[name].start.plan.boot) == ["network", "disk"]
    before = rig.host.machines[name]
    assert (await rig.ask("machine.power", action="reset"))["power"] == "on"
    assert rig.host.machines[name] is before, "its process stays, and so does where it boots from"
    assert (await rig.ask("machine.power", action="reset", boot=["disk"]))["power"] == "on"
    assert list(rig.host.machines[name].start.plan.boot) == ["disk"]
    assert not rig.record()["is_off"]
    await rig.ask("machine.power", action="off")
    with pytest.raises(Refused, match="is off"):
        await rig.ask("machine.power", action="reset", boot=["network"])
    assert rig.record()["spec"]["boot"] == ["disk"]


def seed(rig: Rig) -> dict[str, str]:
    """What the machine that runs finds on its seed."""
    plan = rig.host.machines[rig.record()["name"]].start.plan
    assert plan.seed == rig.directory() / "seed"
    return {path.name: path.read_text() for path in plan.seed.iterdir()}


async def test_a_machine_that_is_booted_has_a_seed_and_a_fork_has_none(rig: Rig) -> None:
    await rig.ask("machine.build", machine="fork", spec=spec(machine="fork"))
    await rig.ask("machine.build", spec=spec(start=Start.BOOT, egress=("example.org:443",)))
    told = seed(rig)
    (wake,) = rig.guests.wakes[rig.directory()]

    assert json.loads(told["meta-data"]) == {
        "instance-id": f"{rig.record()['name']}.1",
        "local-hostname": "one",
        "public-keys": [*wake.authorized_keys],
    }
    assert wake.authorized_keys[1:] == ("ssh-ed25519 AAAA operator",)
    cards = json.loads(told["network-config"])["ethernets"].values()
    told_of = [(card["match"]["macaddress"], *card["addresses"]) for card in cards]
    assert told_of == [*zip(wake.macs, wake.addresses, strict=True)]
    assert told["user-data"] == "#cloud-config\nruncmd: [date]\n"
    started = {name: one.start for name, one in rig.host.machines.items()}
    assert [one.plan.seed for name, one in started.items() if name.endswith("-fork")] == [None]
    assert not (rig.directory(machine="fork") / "seed").exists()


async def test_no_template_has_a_seed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    booted: list[Plan] = []
    boot = rig.driver.boot

    async def noted(plan: Plan) -> None:
        booted.append(plan)
        await boot(plan)

    monkeypatch.setattr(rig.driver, "boot", noted)
    await rig.ask("machine.build", spec=spec())
    assert [(plan.is_template, plan.seed) for plan in booted] == [(True, None)]
    assert not list((rig.root / "templates").rglob("seed*"))


async def test_a_fork_that_falls_back_and_one_of_kept_disks_boot_with_a_seed(rig: Rig) -> None:
    rig.driver.misbehave("fork", Woe.DIE)
    assert (await rig.ask("machine.build", spec=spec()))["start"] == "boot"
    before = json.loads(seed(rig)["meta-data"])["instance-id"]
    await rig.ask("machine.save", saved="lab-1.one")
    await rig.ask("machine.build", fence=2, spec=spec(saved="lab-1.one"))
    assert json.loads(seed(rig)["meta-data"])["instance-id"] not in (before, "")


async def test_a_seed_holds_nothing_that_opens_anything(rig: Rig) -> None:
    await rig.ask("machine.build", spec=spec(start=Start.BOOT))
    (wake,) = rig.guests.wakes[rig.directory()]
    told = "\n".join(seed(rig).values())
    assert "PRIVATE" in wake.login_key
    assert all("PRIVATE" not in text for text in (told, json.dumps(rig.record())))
    for secret in (wake.login_key, wake.host_keys["ssh_host_ed25519_key"]):
        assert not any(line in told for line in secret.splitlines() if line)


async def test_a_card_on_a_bridge_of_the_host_asks_for_its_address(rig: Rig) -> None:
    cards = nics("lab-1", "one", 0, [NicSettings(network="lan")], [NetworkSettings(name="lan", bridge="virbr0")])
    told = MachineSpec(
        image=(DEBIAN,),
        memory=384 * MIB,
        nics=cards,
        networks=(NetworkSpec(name="lan", bridge="virbr0"),),
        start=Start.BOOT,
    )
    await rig.ask("machine.build", spec=told.params())
    (card,) = json.loads(seed(rig)["network-config"])["ethernets"].values()
    assert (card["match"]["macaddress"], card["dhcp4"]) == (cards[0].mac, True)


@pytest.mark.parametrize("start", list(Start))
async def test_a_machine_that_is_switched_on_again_finds_a_seed_which_stays_the_same(rig: Rig, start: Start) -> None:
    await rig.ask("machine.build", spec=spec(start=start))
    (wake,) = rig.guests.wakes[rig.directory()]
    found = []
    for fence in (1, 2):
        await rig.ask("machine.build", fence=fence, spec=spec(start=start))
        await rig.ask("machine.power", action="off")
        await rig.ask("machine.power", action="on", boot=[])
        found.append(seed(rig))
    assert found[0] == found[1]
    assert json.loads(found[0]["meta-data"])["public-keys"] == [*wake.authorized_keys]


async def test_a_seed_goes_with_its_machine(rig: Rig) -> None:
    await rig.ask("machine.build", spec=spec(start=Start.BOOT))
    before = seed(rig)
    await rig.ask("machine.clean", fence=2, spec=spec(start=Start.BOOT))
    after = seed(rig)
    for key in ("instance-id", "public-keys"):
        assert json.loads(after["meta-data"])[key] != json.loads(before["meta-data"])[key]
    await rig.ask("machine.destroy")
    assert not rig.directory().exists()


async def test_a_machine_without_a_spec_is_refused(rig: Rig) -> None:
    with pytest.raises(Refused, match="spec"):
        await rig.ask("machine.build")
