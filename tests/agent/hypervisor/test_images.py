"""Images: each layer built once, whoever asks; healed when it was removed by hand; served once it has booted."""

import asyncio
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from paddock.agent import durable
from paddock.agent.skills.hypervisor import record
from paddock.agent.skills.hypervisor.disks import headers
from paddock.agent.skills.hypervisor.disks.qcow2 import Qcow2
from paddock.agent.skills.hypervisor.images import downloading
from paddock.agent.skills.hypervisor.record import Record, Stage
from paddock.agent.skills.skill import Call, Read, Work
from paddock.core.errors import Broken, Refused, Unbuilt
from paddock.core.image import Chain, Entry, Image, steps
from paddock.wire import methods
from paddock.wire.messages import Code
from paddock.wire.specs import chain_params
from tests.agent.hypervisor.builders import MIB, House, disk, image, script, serving
from tests.agent.hypervisor.doubles import UPLINK
from tests.agent.hypervisor.fakes import Woe
from tools.filesystems import mounted
from tools.maven import Unavailable

pytestmark = pytest.mark.slow


@pytest.fixture
async def house(tmp_path: Path) -> Any:
    house = House(tmp_path / "root")
    (tmp_path / "root").mkdir()
    await house.images.open()
    yield house
    await house.images.close()
    await house.host.close()


def content_of(image: Image) -> bytes:
    return Path(image.path).read_bytes()


def output_of(outcome: Any) -> bytes:
    return Path(outcome.streams["out"].path).read_bytes()


@pytest.fixture
def debian(tmp_path: Path) -> Image:
    return image("debian", path=disk(tmp_path / "debian.raw"))


def chain_of(first: Image, *scripts: str, name: str = "web") -> Chain:
    return (first, image(name, *scripts, parent=first.name))


def digests(chain: Chain) -> list[str]:
    base = hashlib.sha256(Path(chain[0].path).read_bytes()).hexdigest()
    return [base, *(step.digest for step in steps(chain, base))]


# ---- built -----------------------------------------------------------------------------------------------------------


async def test_an_image_is_built_layer_by_layer_and_only_once(house: House, debian: Image) -> None:
    chain = chain_of(debian, "one", "two")

    digest = await house.images.ensure(chain)
    again = await house.images.ensure(chain)

    assert house.agents.ran == ["one", "two"]
    assert digest == again == digests(chain)[-1]
    assert house.boots == 4, "agent, two scripts, and the leaf once before it serves"
    assert {layer.digest for layer in house.store.all()} == set(digests(chain))
    assert (house.making, house.host.machines) == ([], {})
    assert [one.name for one in await house.disks.disks(house.images.volume(digest))] == ["system"]


async def test_a_script_that_has_changed_is_built_anew_with_all_above_it(house: House, debian: Image) -> None:
    await house.images.ensure(chain_of(debian, "one", "two", "three"))
    house.agents.ran.clear()

    await house.images.ensure(chain_of(debian, "one", "two/changed", "three"))

    assert house.agents.ran == ["two/changed", "three"]


async def test_images_share_what_they_have_in_common(house: House, debian: Image) -> None:
    web = chain_of(debian, "one", "two")

    await house.images.ensure(web)
    await house.images.ensure((*web, image("shop", "three", parent="web")))
    await house.images.ensure(chain_of(debian, "one", "four", name="mail"))

    assert house.agents.ran == ["one", "two", "three", "four"]


async def test_a_script_is_told_what_its_configuration_says(house: House, debian: Image) -> None:
    asked = replace(script("one"), interpreter="/usr/bin/python3", env={"LEVEL": "3"}, files={"/etc/motd": "welcome\n"})
    await house.images.ensure((debian, replace(image("web", parent="debian"), scripts=(asked,))))

    assert house.agents.told == [
        {"interpreter": "/usr/bin/python3", "env": {"LEVEL": "3"}, "files": {"/etc/motd": "welcome\n"}}
    ]
    assert {wake.environment for wake in house.agents.wakes} == {"nobody"}
    assert not any(wake.host_keys or wake.login_key or wake.authorized_keys for wake in house.agents.wakes)


async def test_a_machine_that_builds_has_no_card_and_is_as_large_as_is_booked(house: House, debian: Image) -> None:
    plans = []
    house.agents.mute = lambda start: bool(plans.append(start.plan))

    await house.images.ensure(chain_of(debian, "one"))

    assert not any(plan.cards or plan.is_template for plan in plans)
    assert [(plan.memory, plan.vcpus) for plan in plans] == [(64 * MIB, 1)] * 3


async def test_scripts_reach_what_their_own_image_lists_and_only_while_they_run(house: House, debian: Image) -> None:
    seen: list[tuple[int, list[str]]] = []
    house.agents.mute = lambda start: bool(seen.append((len(start.plan.cards), list(house.networks.opened))))
    web = image("web", "one", parent="debian", egress=("a.org:443",))
    shop = image("shop", "two", parent="web")

    await house.images.ensure((replace(debian, egress=("b.org:80",)), web, shop))

    assert [cards for cards, _ in seen] == [0, 1, 0, 0], "the agent, one, two, the boot before it serves"
    assert [len(opened) for _, opened in seen] == [0, 1, 0, 0]
    assert [told["env"] for told in house.agents.told] == [{"http_proxy": "http://fake"}, {}]
    one, two = house.agents.wakes
    assert (one.macs, one.addresses, dict(one.env)) == ((UPLINK.mac,), (UPLINK.address,), house.agents.told[0]["env"])
    assert (two.macs, two.addresses, dict(two.env)) == ((), (), {})
    assert not any(wake.host_keys or wake.login_key or wake.authorized_keys for wake in house.agents.wakes)
    assert await house.networks.found(house.layout.instance) == []


async def test_a_scripts_own_variables_go_before_those_that_lead_outside(house: House, debian: Image) -> None:
    asked = replace(script("one"), env={"http_proxy": "http://own", "LEVEL": "3"})
    web = replace(image("web", parent="debian", egress=("a.org:443",)), scripts=(asked,))

    await house.images.ensure((debian, web))

    assert [told["env"] for told in house.agents.told] == [{"http_proxy": "http://own", "LEVEL": "3"}]


async def test_each_build_asks_outside_under_a_name_that_no_other_has(house: House, debian: Image) -> None:
    names: set[str] = set()
    house.agents.mute = lambda start: bool(names.update(house.networks.opened))
    said: list[bytes] = []

    await house.images.ensure((debian, image("web", "one", "two", parent="debian", egress=("a.org:443",))), said.append)

    assert len(names) == 2
    for name in names:
        assert f"it may reach a.org:443; its access log is {name}.log".encode() in b"".join(said)
        assert f"paddock-{house.layout.instance}-{name}" in " ".join(house.driver.calls), "as its machine is called"


async def test_another_list_makes_no_other_layer(house: House, debian: Image) -> None:
    chain = chain_of(debian, "one")
    digest = await house.images.ensure(chain)
    house.agents.ran.clear()

    assert await house.images.ensure((debian, replace(chain[1], egress=("a.org:443",)))) == digest
    assert house.agents.ran == []


@pytest.mark.parametrize("end", ["fails", "does not come up", "is given up"])
async def test_however_a_build_ends_its_way_outside_is_closed(house: House, debian: Image, end: str) -> None:
    chain = (debian, image("web", "one", parent="debian", egress=("a.org:443",)))
    await house.images.ensure((debian,))
    if end == "fails":
        house.agents.exits["one"] = 1
    if end == "does not come up":
        house.driver.misbehave("boot", Woe.DIE)
    if end == "is given up":
        house.agents.gates["one"] = asyncio.Event()
        job = asyncio.create_task(house.images.ensure(chain))
        await house.agents.began.get()
        assert len(house.networks.opened) == 1
        job.cancel()
        with suppress(asyncio.CancelledError):
            await job
        await house.images.close()
    else:
        with pytest.raises(Broken):
            await house.images.ensure(chain)

    assert await house.networks.found(house.layout.instance) == []
    assert (house.making, house.host.machines) == ([], {})


async def test_a_list_that_this_host_cannot_read_is_refused_before_anything_is_done(
    house: House, debian: Image
) -> None:
    with pytest.raises(Refused, match=r"image web: egress: \+\.org:443 names no host"):
        await house.images.ensure((debian, image("web", "one", parent="debian", egress=("+.org:443",))))

    assert house.driver.calls == [f"running {house.layout.instance}"]


async def test_a_larger_disk_alone_is_a_layer_that_no_machine_makes(house: House, debian: Image) -> None:
    await house.images.ensure((debian,))
    boots = house.boots

    digest = await house.images.ensure((debian, replace(image("large", parent="debian"), size=8 * MIB)))

    assert house.boots == boots + 1, "booted once before it serves"
    assert (await house.disks.usage(house.images.volume(digest))).apparent == 8 * MIB


async def test_an_image_with_cloud_init_is_given_a_seed_once(house: House, debian: Image) -> None:
    seeds: list[dict[str, str] | None] = []

    def look(start: Any) -> bool:
        seed = start.plan.seed
        seeds.append(None if seed is None else {path.name: path.read_text() for path in seed.iterdir()})
        return False

    house.agents.mute = look
    await house.images.ensure(chain_of(replace(debian, entry=Entry.NOCLOUD), "one"))

    assert seeds[0] is not None
    assert set(seeds[0]) == {"meta-data", "user-data", "paddock-agent.pyz"}
    assert seeds[0]["paddock-agent.pyz"] == "the agent"
    assert seeds[1:] == [None, None]


async def test_what_a_script_printed_is_in_the_log_with_what_became_of_it(house: House, debian: Image) -> None:
    seen: list[bytes] = []
    await house.images.ensure(chain_of(debian, "one"), seen.append)

    log = b"".join(seen).decode()

    assert "one prints\n" in log
    assert [word for word in ("is read", "the agent goes in", "script one", "is booted once") if word not in log] == []
    kept = house.layout.images / "logs" / f"{digests(chain_of(debian, 'one'))[-1]}.log"
    assert "one prints\n" in kept.read_text()


# ---- asked for by several --------------------------------------------------------------------------------------------


async def test_two_jobs_that_want_one_image_build_it_once(house: House, debian: Image) -> None:
    house.agents.gates["one"] = asyncio.Event()
    first: list[bytes] = []
    second: list[bytes] = []
    heard = asyncio.Event()

    def hear(data: bytes) -> None:
        second.append(data)
        heard.set()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        jobs = [group.create_task(house.images.ensure(chain_of(debian, "one"), first.append))]
        await house.agents.began.get()
        jobs.append(group.create_task(house.images.ensure(chain_of(debian, "one"), hear)))
        jobs.append(group.create_task(house.images.ensure(chain_of(debian, "one", "two", name="other"))))
        await heard.wait()
        house.agents.gates["one"].set()

    assert house.agents.ran == ["one", "two"]
    assert jobs[0].result() == jobs[1].result()
    assert b"one prints" in b"".join(first)
    assert b"one prints" in b"".join(second), "who came later has the whole log"


async def test_one_of_several_that_leaves_does_not_end_the_build_and_the_last_one_does(
    house: House, debian: Image
) -> None:
    house.agents.gates["one"] = asyncio.Event()
    jobs = [asyncio.create_task(house.images.ensure(chain_of(debian, "one"))) for _ in range(2)]
    await house.agents.began.get()
    await _turn()

    jobs[0].cancel()
    await asyncio.wait({jobs[0]})
    assert len(house.host.machines) == 1

    jobs[1].cancel()
    await asyncio.wait({jobs[1]})
    assert house.host.machines == {}
    assert house.making == []

    house.agents.gates["one"].set()
    await house.images.ensure(chain_of(debian, "one"))
    assert house.agents.ran == ["one", "one"]


async def test_who_comes_while_a_build_is_given_up_begins_anew(house: House, debian: Image) -> None:
    house.agents.gates["one"] = asyncio.Event()
    first = asyncio.create_task(house.images.ensure(chain_of(debian, "one")))
    await house.agents.began.get()
    first.cancel()
    second = asyncio.create_task(house.images.ensure(chain_of(debian, "one")))
    await house.agents.began.get()
    house.agents.gates["one"].set()

    assert await second == digests(chain_of(debian, "one"))[-1]
    with suppress(asyncio.CancelledError):
        await first
    assert house.agents.ran == ["one", "one"]


async def _turn() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


# ---- failed ----------------------------------------------------------------------------------------------------------


async def test_a_script_that_fails_is_named_with_its_last_words_and_leaves_nothing(house: House, debian: Image) -> None:
    house.agents.exits["two"] = 3
    chain = chain_of(debian, "one", "two")

    with pytest.raises(Broken, match=r"image web: script two ended with 3: .*two prints"):
        await house.images.ensure(chain)

    assert (house.making, house.host.machines) == ([], {})
    assert house.store.find(digests(chain)[-1]) is None
    house.agents.exits.clear()
    house.agents.ran.clear()
    assert await house.images.ensure(chain) == digests(chain)[-1]
    assert house.agents.ran == ["two"], "what was whole before is not built again"


async def test_a_script_that_takes_too_long_is_ended_with_its_machine(house: House, debian: Image) -> None:
    house.agents.gates["one"] = asyncio.Event()
    slow = replace(image("web", "one", parent="debian"), limit=timedelta(seconds=0.05))

    with pytest.raises(Broken, match=r"image web: one took longer than 0\.05 s"):
        await house.images.ensure((debian, slow))
    assert (house.making, house.host.machines) == ([], {})


@pytest.mark.parametrize("woe", [Woe.DIE, Woe.VANISH])
async def test_a_machine_that_does_not_run_is_said_with_its_console(house: House, debian: Image, woe: Woe) -> None:
    seen: list[bytes] = []
    house.driver.misbehave("boot", woe)

    with pytest.raises(Broken, match="ended at once" if woe is Woe.DIE else "its channel is dead"):
        await house.images.ensure((debian,), seen.append)
    assert woe is Woe.DIE or b"the last of its console:\nboot of" in b"".join(seen)
    assert (house.making, house.host.machines) == ([], {})


async def test_the_previous_image_serves_until_the_new_one_has_booted(house: House, debian: Image) -> None:
    old = await house.images.ensure(chain_of(debian, "one"))
    leaves: list[str] = []

    def does_not_boot(start: Any) -> bool:
        leaves.append(start.plan.disks[0].path.parent.name)
        return leaves[-1] == "disks"  # the clone that is only booted

    house.agents.mute = does_not_boot
    with pytest.raises(Broken, match="its agent does not come"):
        await house.images.ensure(chain_of(debian, "one/changed"))

    assert house.images.volume(old).is_dir()
    assert house.making == []
    house.agents.mute = lambda start: False
    house.agents.ran.clear()
    await house.images.ensure(chain_of(debian, "one/changed"))
    assert house.agents.ran == [], "it was built; it only had to boot"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"path": "/nowhere/at/all"}, "is no file on this host"),
        ({"path": "", "url": "ftp://images.example/debian"}, "is neither http"),
        ({"kernel": "/nowhere/vmlinuz"}, "/nowhere/vmlinuz is no file on this host"),
        ({"entry": Entry.HELPER}, "has no helper machine"),
    ],
)
async def test_what_cannot_be_built_here_is_refused_before_anything_is_begun(
    house: House, debian: Image, change: dict[str, Any], why: str
) -> None:
    with pytest.raises(Refused, match=why):
        await house.images.ensure((replace(debian, **change),))
    assert house.boots == 0
    assert house.store.all() == []


# ---- removed or changed by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2, 3])
async def test_what_was_removed_by_hand_is_built_again_with_what_needs_it(
    house: House, debian: Image, number: int
) -> None:
    chain = chain_of(debian, "one", "two")
    leaf = await house.images.ensure(chain)
    before = house.images.volume(leaf)
    shutil.rmtree(house.store.place(digests(chain)[number]))
    house.agents.ran.clear()

    assert await house.images.ensure(chain) == leaf

    # Overlays are nothing without what they lie on, and another build of that is something else.
    assert house.agents.ran == ["one", "two"][max(0, number - 2) :]
    assert house.images.volume(leaf) != before
    assert (await house.disks.disks(house.images.volume(leaf)))[0].path.is_file()


@pytest.mark.parametrize("part", ["base", "agent", "leaf", "proof"])
async def test_who_makes_machines_finds_an_image_only_whole_and_builds_nothing(
    house: House, debian: Image, part: str
) -> None:
    chain = chain_of(debian, "one")
    with pytest.raises(Unbuilt, match="it is not there"):
        await house.images.find(digests(chain)[-1])
    leaf = await house.images.ensure(chain)
    await house.images.find(leaf)

    base, agent, _ = digests(chain)
    lost = {"base": house.store.place(base), "agent": house.store.place(agent), "leaf": house.store.place(leaf)}
    if part == "proof":
        (house.store.place(leaf) / "proven").unlink()
    else:
        shutil.rmtree(lost[part])
    boots = house.boots
    with pytest.raises(Unbuilt, match="it is not there, or a part of what it lies on is not"):
        await house.images.find(leaf)
    assert house.boots == boots


@pytest.mark.parametrize("change", ["replaced", "touched", "removed", "forgotten", "failed"])
async def test_an_image_serves_whatever_became_of_what_it_was_made_from(
    house: House, debian: Image, change: str
) -> None:
    chain = chain_of(debian, "one")
    leaf = await house.images.ensure(chain)
    file = Path(debian.path)
    match change:
        case "replaced":
            disk(file, b"another disk")
        case "touched":
            os.utime(file, (1, 1))
        case "removed":
            os.unlink(file)
        case "forgotten":
            os.unlink(house.layout.images / "sources.json")
        case "failed":
            disk(file, b"another disk")
            house.agents.exits["one"] = 1
            with pytest.raises(Broken, match="script one ended with 1"):
                await house.images.ensure(chain)
    _age(house)
    await house.images.find(leaf)
    assert all(house.store.used(layer.digest) > time.time() - 60 for layer in house.store.all()[:3])


async def test_a_disk_that_was_removed_or_written_by_hand_is_noticed(house: House, debian: Image) -> None:
    chain = chain_of(debian, "one")
    leaf = await house.images.ensure(chain)
    (house.images.volume(leaf) / "system.qcow2").unlink()
    await house.images.ensure(chain)
    assert house.agents.ran == ["one", "one"]

    with (house.images.volume(digests(chain)[0]) / "system.raw").open("r+b") as file:
        file.write(b"changed")
    await house.images.ensure(chain)
    assert house.agents.ran == ["one", "one", "one"]


async def test_where_clones_stand_alone_a_layer_needs_no_parent(tmp_path: Path, debian: Image) -> None:
    try:
        with mounted("btrfs", tmp_path) as root:
            house = House(root, "btrfs")
            chain = chain_of(debian, "one", "two")
            leaf = await house.images.ensure(chain)
            for digest in digests(chain)[:-1]:
                await house.store.remove(digest)
            house.agents.ran.clear()

            assert await house.images.ensure(chain) == leaf
            assert house.agents.ran == []
            await house.images.ensure(chain_of(debian, "one", "two/changed"))
            assert house.agents.ran == ["one", "two/changed"]
            await house.host.close()
    except Unavailable as exc:
        pytest.skip(str(exc))


# ---- where bases are from --------------------------------------------------------------------------------------------


async def test_a_file_of_the_host_is_read_once_and_again_when_it_has_changed(house: House, debian: Image) -> None:
    first = await house.images.ensure((debian,))
    counted = json.loads((house.layout.images / "sources.json").read_text())
    assert list(counted.values()) == [digests((debian,))[0]]

    disk(Path(debian.path), b"another disk")
    second = await house.images.ensure((debian,))

    assert first != second
    known = json.loads((house.layout.images / "sources.json").read_text())
    assert list(known.values()) == [digests((debian,))[0]], "what it was before is forgotten"
    assert second == digests((debian,))[-1]


async def test_a_file_of_the_host_with_another_digest_is_refused(house: House, debian: Image) -> None:
    with pytest.raises(Refused, match=r"the sha256 of .* is"):
        await house.images.ensure((replace(debian, sha256="0" * 64),))
    assert house.store.all() == []


@pytest.mark.parametrize("packed", ["", "gz"])
async def test_an_image_is_downloaded_once_for_all_that_are_made_of_it(
    house: House, debian: Image, packed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = content_of(debian)
    content = gzip.compress(content) if packed else content
    with serving(content={"debian": content}) as files:
        remote = replace(debian, path="", url=f"{files.url}/debian")
        seen: list[bytes] = []
        tasks = [house.images.ensure((remote,), seen.append) for _ in range(3)]
        found = set(await asyncio.gather(*tasks))
        await house.images.ensure((remote, image("web", "one", parent="debian")))

    assert len(found) == 1
    assert files.counted["debian"] == 1
    assert list((house.layout.images / "downloads").iterdir()) == []
    base = house.images.volume(hashlib.sha256(content).hexdigest())
    assert (base / "system.raw").read_bytes() == content_of(debian)
    assert b"is downloaded from" in b"".join(seen)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["by hand", "another address", "its sha256"])
async def test_what_a_url_has_by_now_is_fetched_when_somebody_says_so(house: House, tmp_path: Path, how: str) -> None:
    with serving() as files:
        files.content["debian"] = disk(tmp_path / "one").read_bytes()
        debian = image("debian", url=f"{files.url}/debian")
        first = await house.images.ensure((debian,))
        now = disk(tmp_path / "two", b"another").read_bytes()
        files.content.update({"debian": now, "debian?2026-11": now})
        assert (await house.images.ensure((debian,)), len(files.asked)) == (first, 1), "it is fetched once"

        if how == "by hand":
            os.unlink(house.layout.images / "sources.json")
        elif how == "another address":
            debian = replace(debian, url=f"{debian.url}?2026-11")
        else:
            debian = replace(debian, sha256=hashlib.sha256(now).hexdigest())
        second = await house.images.ensure((debian,))
        assert second != first
        assert {layer.digest for layer in house.store.all()} >= {hashlib.sha256(now).hexdigest(), first, second}
        assert (await house.images.ensure((debian,)), len(files.asked)) == (second, 2)


@pytest.mark.parametrize("first", ["right", "wrong", "unsaid"])
async def test_each_who_asks_for_a_url_at_the_same_time_has_its_own_checksum_looked_at(
    house: House, debian: Image, first: str
) -> None:
    content = content_of(debian)
    sums = {"right": hashlib.sha256(content).hexdigest(), "wrong": "0" * 64, "unsaid": ""}
    order = [first, *(one for one in sums if one != first)]
    with serving(content={"debian": content}, hang=threading.Event()) as files:
        url = f"{files.url}/debian"
        jobs = {}
        for name in order:
            chain = (image(name, url=url, sha256=sums[name]), image(f"{name}-web", "one", parent=name))
            jobs[name] = asyncio.create_task(house.images.ensure(chain))
            assert await asyncio.to_thread(files.halfway.wait, 20)
        assert files.hang is not None
        files.hang.set()
        async with asyncio.timeout(20):
            await asyncio.wait(jobs.values())

    with pytest.raises(Refused, match=f"its sha256 is {sums['right']}, not 000"):
        jobs["wrong"].result()
    assert jobs["right"].result() == jobs["unsaid"].result()
    assert house.agents.ran == ["one"], "what has the same content is one base"
    assert house.store.find(jobs["right"].result()) is not None
    assert list((house.layout.images / "downloads").iterdir()) == []


@pytest.mark.parametrize("first", ["right", "wrong", "unsaid"])
async def test_each_who_asks_for_a_file_at_the_same_time_has_its_own_checksum_looked_at(
    house: House, debian: Image, first: str
) -> None:
    sums = {"right": hashlib.sha256(content_of(debian)).hexdigest(), "wrong": "0" * 64, "unsaid": ""}
    order = [first, *(one for one in sums if one != first)]
    chains = {name: chain_of(replace(debian, sha256=sums[name]), "one") for name in order}
    seen: list[bytes] = []
    tasks = [house.images.ensure(chains[name], seen.append) for name in order]
    made = await asyncio.gather(*tasks, return_exceptions=True)
    found = dict(zip(order, made, strict=True))

    assert isinstance(found["wrong"], Refused)
    assert found["right"] == found["unsaid"] == digests(chains["right"])[-1]
    assert b"".join(seen).count(b"becomes a volume") == 1, "what has the same content is one base"
    assert house.agents.ran == ["one"]


async def test_a_download_that_goes_wrong_yields_no_image(
    house: House, debian: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "_PAUSES", ())
    content = content_of(debian)
    with serving(content={"debian": content}, cut=[MIB]) as files:
        remote = replace(debian, path="", url=f"{files.url}/debian")
        with pytest.raises(Broken, match="ended after"):
            await house.images.ensure((remote,))
        with pytest.raises(Refused, match="its sha256 is"):
            await house.images.ensure((replace(remote, sha256="0" * 64),))
        assert house.store.all() == []
        assert house.making == []

        await house.images.ensure((replace(remote, sha256=hashlib.sha256(content).hexdigest()),))


async def test_a_foreign_disk_that_names_a_file_of_the_host_is_refused(
    house: House, debian: Image, tmp_path: Path
) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("there is no qemu-img here; ./dev host-setup installs it")
    evil = tmp_path / "evil.qcow2"
    words = ("qemu-img", "create", "-q", "-f", "qcow2", "-b", debian.path, "-F", "raw", str(evil))
    await asyncio.to_thread(subprocess.run, words, check=True)

    with pytest.raises(Refused, match="names a backing file"):
        await house.images.ensure((replace(debian, path=str(evil)),))
    assert (house.store.all(), house.making) == ([], [])


async def test_a_full_disk_yields_no_image(tmp_path: Path) -> None:
    try:
        with mounted("ext4", tmp_path, 160 * MIB) as root:
            house = House(root)
            large = tmp_path / "large.raw"
            large.write_bytes(os.urandom(MIB) * 200)
            packed = tmp_path / "large.gz"
            packed.write_bytes(gzip.compress(large.read_bytes(), 1))
            for path in (large, packed):
                with pytest.raises(Broken, match=r"No space left|no room"):
                    await house.images.ensure((image("large", path=path),))
                assert (house.store.all(), house.making) == ([], [])
            with serving(content={"large": content_of(image("large", path=large))}) as files:
                with pytest.raises(Broken, match=r"bytes, and .* are free"):
                    await house.images.ensure((image("large", url=f"{files.url}/large"),))
                assert (house.store.all(), house.making) == ([], [])
    except Unavailable as exc:
        pytest.skip(str(exc))


# ---- after a death ---------------------------------------------------------------------------------------------------


async def test_what_a_dead_agent_left_is_gone_at_the_next_start(house: House, debian: Image) -> None:
    house.agents.gates["one"] = asyncio.Event()
    job = asyncio.create_task(house.images.ensure(chain_of(debian, "one")))
    await house.agents.began.get()
    (machine,) = house.host.machines
    left = house.layout.making / machine.partition("-image-")[2].join(("image-", ""))
    assert left.is_dir()

    await house.again().open()

    assert (house.making, house.host.machines) == ([], {})
    job.cancel()
    await asyncio.wait({job})


# ---- the methods -----------------------------------------------------------------------------------------------------


def call_of(house: House, method: str, progress: Callable[..., None], **params: Any) -> Call:
    return Call(
        progress=progress,
        task="t1",
        method=method,
        params=methods.check(method, params),
        environment="",
        fence=0,
        directory=house.layout.root / "task",
    )


def _unheard(percent: float | None, eta: timedelta | None) -> None:
    """Nobody listens."""


async def ask(house: House, method: str, *, progress: Callable[..., None] = _unheard, **params: Any) -> Any:
    deed = house.images.methods()[method]
    call = call_of(house, method, progress, **params)
    if isinstance(deed, Read):
        return dict(await deed.answer(call))
    assert isinstance(deed, Work)
    return await deed.act(call)


async def test_image_build_tells_its_layers_and_its_output_is_the_log(house: House, debian: Image) -> None:
    chain = chain_of(debian, "one")

    built = await ask(house, "image.build", chain=chain_params(chain))

    assert built.code is None
    assert (built.result["image"], built.result["digest"]) == ("web", digests(chain)[-1])
    assert built.result["apparent"] == 4 * MIB
    assert [(one["digest"], one["image"], one["script"]) for one in built.result["layers"]] == list(
        zip(digests(chain), ("debian", "debian", "web"), ("", "", "one"), strict=True)
    )
    output = output_of(built)
    assert len(output) == built.streams["out"].length
    assert b"one prints\n" in output


async def test_image_build_says_how_far_it_is(house: House, debian: Image) -> None:
    told: list[float] = []
    with serving(content={"debian": content_of(debian)}) as files:
        remote = replace(debian, path="", url=f"{files.url}/debian")
        await ask(
            house,
            "image.build",
            progress=lambda percent, eta: told.append(percent),
            chain=chain_params((remote, image("web", "one", parent="debian"))),
        )

    assert told == sorted(told)
    assert told[-1] == 100
    assert {20.0, 90.0} < set(told), "once the base is there, and once all layers are"


async def test_image_build_that_fails_has_its_log_all_the_same(house: House, debian: Image) -> None:
    house.agents.exits["one"] = 1

    built = await ask(house, "image.build", chain=chain_params(chain_of(debian, "one")))

    assert built.code is Code.FAILED
    assert "script one ended with 1" in built.msg
    assert b"failed: image web: script one ended with 1" in output_of(built)


async def test_image_list_tells_layers_templates_and_who_needs_them(house: House, debian: Image) -> None:
    chain = chain_of(debian, "one")
    leaf = await house.images.ensure(chain)
    _template(house, "t1", leaf)
    _machine(house, "e1", layer=leaf, template="t1")

    told = await ask(house, "image.list")

    assert [(one["digest"], one["parent"], one["clones"]) for one in told["layers"]] == [
        (digest, parent, 1 if digest == leaf else 0)
        for digest, parent in zip(digests(chain), ["", *digests(chain)], strict=False)
    ]
    assert [(one["key"], one["layer"], one["clones"]) for one in told["templates"]] == [("t1", leaf, 1)]
    shutil.rmtree(house.images.volume(leaf))
    assert "there is no such volume" in (await ask(house, "image.list"))["layers"][-1]["damage"]


def _template(house: House, key: str, layer: str) -> None:
    place = house.layout.templates / key
    place.mkdir(parents=True)
    (place / "memory").write_bytes(bytes(8192))
    durable.write(place / "made.json", {"layer": layer, "made": 1.0, "seconds": 1.0})


def _machine(house: House, environment: str, **rest: str) -> None:
    directory = house.layout.machine(environment, "m")
    record.save(
        directory,
        Record(environment=environment, machine="m", fence=1, name="n", stage=Stage.AWAKE, spec={}, **rest),  # type: ignore[arg-type]  # texts only
    )


def _age(house: House, seconds: float = 90 * 86400) -> None:
    for place in (*house.layout.images.glob("*/used"), *house.layout.templates.glob("*/used")):
        os.utime(place, (place.stat().st_mtime - seconds,) * 2)


async def test_image_collect_says_what_would_go_and_then_it_goes(house: House, debian: Image) -> None:
    chain = chain_of(debian, "one", "two")
    leaf = await house.images.ensure(chain)
    _template(house, "t1", leaf)
    _age(house)

    dry = await ask(house, "image.collect", unused=30 * 86400, dry_run=True)
    assert [one["digest"] for one in dry.result["removed"]] == ["t1", *reversed(digests(chain))]
    assert len(house.store.all()) == 4

    gone = await ask(house, "image.collect", unused=30 * 86400)
    assert gone.result == dry.result
    assert gone.result["freed"] > 0
    assert house.store.all() == []
    assert list(house.store.templates()) == []
    assert house.making == []

    house.agents.ran.clear()
    assert await house.images.ensure(chain) == leaf
    assert house.agents.ran == ["one", "two"]


async def test_what_a_machine_or_saved_disks_stand_on_is_never_collected(house: House, debian: Image) -> None:
    chain, other = chain_of(debian, "one"), chain_of(debian, "two", name="mail")
    leaf, saved = await house.images.ensure(chain), await house.images.ensure(other)
    _machine(house, "e1", layer=leaf)
    await house.disks.clone(house.images.volume(saved), house.layout.saved / "kept")
    _age(house)

    gone = await ask(house, "image.collect")

    assert gone.result["removed"] == []


async def test_what_is_being_built_or_was_used_just_now_is_not_collected(house: House, debian: Image) -> None:
    house.agents.gates["two"] = asyncio.Event()
    await house.images.ensure(chain_of(debian, "one"))
    job = asyncio.create_task(house.images.ensure(chain_of(debian, "two", name="mail")))
    while await house.agents.began.get() != "two":
        pass
    _age(house)

    gone = await ask(house, "image.collect")
    house.agents.gates["two"].set()
    await job

    left = digests(chain_of(debian, "one"))
    assert [one["digest"] for one in gone.result["removed"]] == [left[-1]]
    assert (await ask(house, "image.collect")).result["removed"] == [], "all of it was used just now"


class Gated(Qcow2):
    """Disks whose next removal waits."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.began, self.gate = asyncio.Event(), asyncio.Event()

    async def remove(self, volume: Path) -> None:
        self.began.set()
        await self.gate.wait()
        await super().remove(volume)


async def _first_template_goes(house: House, leaf: str) -> tuple[Gated, asyncio.Task[Any]]:
    """A collection of two templates of a layer, which stands still while it removes the first."""
    for key in ("t0", "t1"):
        _template(house, key, leaf)
        await house.disks.clone(house.images.volume(leaf), house.layout.templates / key / "disks")
    _age(house)
    house.store.disks = gated = Gated(house.layout.root)

    collecting = asyncio.create_task(ask(house, "image.collect"))
    await gated.began.wait()
    return gated, collecting


async def test_a_template_that_is_taken_while_another_one_goes_stays(house: House, debian: Image) -> None:
    leaf = await house.images.ensure(chain_of(debian, "one"))
    gated, collecting = await _first_template_goes(house, leaf)
    _machine(house, "e1", layer=leaf, template="t1")
    own = house.layout.machine("e1", "m") / "disks"
    await house.disks.clone(house.layout.templates / "t1" / "disks", own)
    gated.gate.set()

    assert [one["digest"] for one in (await collecting).result["removed"]] == ["t0"]
    assert headers.backing(Path(headers.backing(own / "system.qcow2"))), (
        "what it lies on is there, and lies on its layer"
    )


async def test_a_template_that_is_about_to_be_cloned_stays(house: House, debian: Image) -> None:
    leaf = await house.images.ensure(chain_of(debian, "one"))
    gated, collecting = await _first_template_goes(house, leaf)
    taking = asyncio.create_task(_take(house, "t1"))
    await asyncio.sleep(0)  # it stands in line
    gated.gate.set()

    assert await taking
    assert [one["digest"] for one in (await collecting).result["removed"]] == ["t0"]


async def _take(house: House, key: str) -> bool:
    """As whoever forks from it: what was found there is used, and its record comes later."""
    async with house.images.staying():
        if is_there := (house.layout.templates / key).exists():
            (house.layout.templates / key / "used").touch()
    return is_there


@pytest.fixture(params=["qcow2", "reflink-on-xfs", "reflink-on-btrfs", "btrfs"])
async def grounded(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A host with disks of one kind, on a file system that they are for."""
    kind, _, where = request.param.partition("-on-")
    with ExitStack() as stack:
        try:
            root = stack.enter_context(mounted(where or {"qcow2": "ext4"}.get(kind, kind), tmp_path, 1 << 29))
        except Unavailable as exc:
            pytest.skip(str(exc))
        house = House(root, kind)
        await house.images.open()
        yield house
        await house.images.close()
        await house.host.close()


async def _two_chains(house: House, scratch: Path) -> None:
    """One was not used for longer than the other; what each has of its own lies in its base."""
    for name in ("old", "new"):
        (scratch / f"{name}.raw").write_bytes(os.urandom(32 * MIB))
        await house.images.ensure(chain_of(image(name, path=scratch / f"{name}.raw"), "one", name=f"web-{name}"))
        _age(house, 30 * 86400)
    os.sync()


def _mib(count: int) -> int:
    return round(count / MIB)


async def test_a_layer_takes_what_it_has_not_from_below(grounded: House, tmp_path: Path) -> None:
    await _two_chains(grounded, tmp_path)

    told = await ask(grounded, "image.list")

    assert [_mib(one["bytes"]) for one in told["layers"]] == [32, 0, 0, 32, 0, 0]


async def test_collecting_frees_what_it_says_and_no_more_than_is_asked(grounded: House, tmp_path: Path) -> None:
    await _two_chains(grounded, tmp_path)
    before = await grounded.disks.room()

    dry = await ask(grounded, "image.collect", room=before + 20 * MIB, dry_run=True)
    gone = await ask(grounded, "image.collect", room=before + 20 * MIB)

    assert gone.result == dry.result
    assert (len(gone.result["removed"]), _mib(gone.result["freed"])) == (3, 32)
    assert len(grounded.store.all()) == 3
    if grounded.disks.name != "btrfs":  # which empties subvolumes with its next transaction, 30 s later
        assert await _has_room(grounded, before + gone.result["freed"] - MIB)


async def _has_room(house: House, wanted: int) -> bool:
    """Soon: file systems give back what was removed in the background, and tell nobody."""
    for _ in range(200):
        os.sync()
        if await house.disks.room() >= wanted:
            return True
        await asyncio.sleep(0.05)
    return False


async def test_what_saved_disks_share_is_not_freed(grounded: House, tmp_path: Path) -> None:
    if grounded.disks.needs_source:
        pytest.skip("what saved disks of this kind lie on stays")
    await _two_chains(grounded, tmp_path)
    base = next(layer.digest for layer in grounded.store.all() if layer.image == "old")
    await grounded.disks.copy(grounded.images.volume(base), grounded.layout.saved / "kept")
    os.sync()

    dry = await ask(grounded, "image.collect", dry_run=True)

    assert (len(dry.result["removed"]), _mib(dry.result["freed"])) == (6, 32)
