"""The driver qemu without QEMU: its command line, monitor, last words, pictures, and how it chooses an accelerator."""

import asyncio
import base64
import json
import os
import random
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.agent.skills.hypervisor.drivers.qemu import (
    Qemu,
    accel,
    command,
    freezing,
    kernels,
    process,
    qmp,
    screens,
    words,
)
from paddock.agent.skills.hypervisor.drivers.qemu.command import Accelerator, Start
from paddock.agent.skills.hypervisor.drivers.qemu.freezing import Frozen
from paddock.agent.skills.hypervisor.drivers.qemu.process import Record
from paddock.agent.skills.hypervisor.ports import Card, Disk, Plan
from paddock.core.errors import Broken, PaddockError, Refused
from paddock.hands import trees
from paddock.hands.keeper import boot_id
from paddock.wire import framing
from paddock.wire.framing import JSON

MIB = 1 << 20
DIRECTORY = Path("/state/hypervisor/machines/pool-1/one")
PLAN = Plan(
    name="paddock-0c0ffee0-pool-1-one",
    directory=DIRECTORY,
    memory=384 * MIB,
    vcpus=1,
    disks=[
        Disk(name="system", path=DIRECTORY / "disks" / "system.qcow2", format="qcow2"),
        Disk(name="blank-1", path=Path("/else,where/blank.raw"), format="raw"),
    ],
)
TCG, KVM = Accelerator(name="tcg"), Accelerator(name="kvm")
START = Start(accelerator=TCG, uuid="6f8b7f5e-0000-4000-8000-000000000001", monitor=5, channel=6, console=7)
CARD = Card(mac="52:54:00:01:02:03", netdev="stream,server=off,addr.type=unix,addr.path=/n/switch")
SECOND = timedelta(seconds=1)


def _line(plan: Plan = PLAN, start: Start = START) -> list[str]:
    return command.command(plan, start)


def _all(option: str, line: list[str]) -> list[str]:
    return [line[index + 1] for index, word in enumerate(line) if word == option]


def _device(kind: str, line: list[str]) -> dict[str, str]:
    (found,) = (one for one in _all("-device", line) if one.startswith(f"{kind},"))
    return dict(part.partition("=")[::2] for part in found.split(",")[1:])


# ---- the command line ------------------------------------------------------------------------------------------------


def test_nothing_is_there_that_was_not_asked_for() -> None:
    line = _line()

    assert {"-nodefaults", "-no-user-config"} <= set(line)
    assert _all("-display", line) == ["none"]
    assert _all("-name", line) == [PLAN.name]
    assert _all("-netdev", line) == []
    assert _all("-kernel", line) == []
    assert not [one for one in _all("-device", line) if one.startswith("VGA")]


def test_what_escapes_from_qemu_starts_nothing_and_becomes_nobody() -> None:
    (sandbox,) = _all("-sandbox", _line())

    assert sandbox.split(",")[0] == "on"
    assert {"elevateprivileges=deny", "spawn=deny", "resourcecontrol=deny"} <= set(sandbox.split(","))


def test_a_card_whose_far_end_is_a_program_may_start_it() -> None:
    card = replace(CARD, netdev="user,restrict=on,guestfwd=tcp:10.0.2.100:80-cmd:/usr/bin/program")

    assert "spawn=deny" not in _all("-sandbox", _line(replace(PLAN, cards=[card])))[0]


def test_lines_are_sockets_that_listen_already() -> None:
    lines = _all("-chardev", _line())

    assert lines[0] == "socket,id=monitor,fd=5,server=on,wait=off"
    assert lines[1].startswith("socket,id=console,fd=7,server=on,wait=off,logfile=console.log,logappend=on")
    assert lines[2] == "socket,id=channel,fd=6,server=on,wait=off"
    assert _device("virtserialport", _line())["name"] == "org.paddock.0"


def test_paths_are_from_the_machines_directory_and_no_comma_in_one_ends_an_option() -> None:
    own, other = (json.loads(word) for word in _all("-blockdev", _line()))

    assert own["file"]["filename"] == "disks/system.qcow2"
    assert own["driver"] == "qcow2"
    assert other["file"]["filename"] == "/else,where/blank.raw"
    assert own["cache"] == {"no-flush": True}


def test_disks_are_known_by_their_names() -> None:
    devices = [one for one in _all("-device", _line()) if one.startswith("virtio-blk-pci")]

    assert ["serial=system" in devices[0], "serial=blank-1" in devices[1]] == [True, True]


@pytest.mark.parametrize(("boot", "first"), [(("disk", "network"), "disk"), (("network", "disk"), "network")])
def test_it_boots_in_the_order_that_it_is_told(boot: tuple[str, ...], first: str) -> None:
    plan = replace(PLAN, cards=[CARD, replace(CARD, netdev="")], boot=boot)
    turns = {
        int(part.removeprefix("bootindex=")): "disk" if "virtio-blk" in one else "network"
        for one in _all("-device", _line(plan))
        for part in one.split(",")
        if part.startswith("bootindex=")
    }

    assert turns[min(turns)] == first
    assert len(turns) == 3


def test_a_card_that_is_not_booted_from_carries_no_rom() -> None:
    plan = replace(PLAN, cards=[CARD])

    assert _device("virtio-net-pci", _line(plan))["romfile"] == ""
    assert "bootindex" not in _device("virtio-net-pci", _line(plan))
    assert _all("-netdev", _line(plan)) == ["stream,id=net-0,server=off,addr.type=unix,addr.path=/n/switch"]


def test_a_blank_card_has_no_far_end() -> None:
    line = _line(replace(PLAN, cards=[replace(CARD, netdev="")]))

    assert _all("-netdev", line) == []
    assert "netdev" not in _device("virtio-net-pci", line)


def test_a_forks_devices_stand_where_its_templates_do_whatever_cards_it_has() -> None:
    template = _line(replace(PLAN, is_template=True))
    fork = _line(replace(PLAN, cards=[CARD]), replace(START, memory=Path("/templates/one/memory")))
    places = [
        {part for part in one.split(",") if part.startswith(("addr=", "id="))} for one in _all("-device", template)
    ]

    found = [{part for part in one.split(",") if part.startswith(("addr=", "id="))} for one in _all("-device", fork)]
    assert [one for one in found if one in places] == places
    assert len(found) == len(places) + 1


def test_a_template_writes_its_memory_and_a_fork_does_not() -> None:
    (template,) = _all("-object", _line(replace(PLAN, is_template=True)))
    (fork,) = _all("-object", _line(start=replace(START, memory=Path("/templates/one/memory"))))

    assert json.loads(template)["share"] is True
    assert json.loads(template)["mem-path"] == "memory"
    assert json.loads(fork)["share"] is False
    assert json.loads(fork)["size"] == PLAN.memory
    assert _all("-incoming", _line()) == []
    assert _all("-object", _line()) == []


def test_a_fork_translates_into_less_memory() -> None:
    assert _all("-accel", _line())[0].endswith("tb-size=96")
    assert _all("-accel", _line(start=replace(START, memory=Path("/t/memory"))))[0].endswith("tb-size=24")
    assert _all("-accel", _line(start=replace(START, accelerator=KVM))) == ["kvm"]
    assert _all("-cpu", _line(start=replace(START, accelerator=KVM))) == ["host"]


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (replace(PLAN, memory=8 * MIB), "too little"),
        (replace(PLAN, vcpus=0), "too little"),
        (replace(PLAN, cards=[CARD] * 40), "40 cards"),
        (replace(PLAN, is_template=True, cards=[CARD]), "is to be frozen and has cards"),
        (replace(PLAN, boot=("tape",)), "cannot boot from tape"),
    ],
)
async def test_what_no_machine_can_be_is_refused_before_anything_is_touched(
    plan: Plan, why: str, tmp_path: Path
) -> None:
    plan = replace(plan, directory=tmp_path / "machine")
    with pytest.raises(Refused, match=why):
        await Qemu(tmp_path, instance="0c0ffee0", wanted="tcg").boot(plan)
    assert os.listdir(tmp_path) == []


# ---- kernels ---------------------------------------------------------------------------------------------------------


def _kernel(path: Path, *, bulk: bytes = b"bulk" * 2000, version: int = 0x020F) -> Path:
    """A header as kernels have it, two sectors of real mode code, and what is said to be the kernel."""
    real = bytearray(3 * 512)
    real[0x1F1] = 2
    real[0x202:0x208] = b"HdrS" + struct.pack("<H", version)
    real[0x211] = 1
    path.write_bytes(bytes(real) + bulk)
    return path


def test_the_bulk_of_a_kernel_goes_before_the_initrd(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"initrd")
    kernel = _kernel(tmp_path / "kernel")
    given, rest = kernels.lean(tmp_path, replace(PLAN, kernel=kernel, initrd=tmp_path / "initrd"))
    assert given is not None
    assert rest is not None

    size = 8192  # in whole pages
    assert given.read_bytes() == kernel.read_bytes()[: 3 * 512] + kernels.mover(size)
    assert rest.read_bytes() == b"bulk" * 2000 + bytes(size - 8000) + b"initrd"


def test_a_kernel_is_taken_apart_once_and_another_one_anew(tmp_path: Path) -> None:
    plan = replace(PLAN, kernel=_kernel(tmp_path / "kernel"))
    first, _ = kernels.lean(tmp_path, plan)
    assert first is not None
    before = first.stat()
    again, _ = kernels.lean(tmp_path, plan)
    _kernel(tmp_path / "kernel", bulk=b"other")
    other, _ = kernels.lean(tmp_path, plan)

    assert (again, first.stat().st_ino) == (first, before.st_ino)
    assert other != first


def test_no_more_kernels_are_kept_than_are_likely_used(tmp_path: Path) -> None:
    for number in range(20):
        kernel = _kernel(tmp_path / f"kernel-{number}")
        found, _ = kernels.lean(tmp_path, replace(PLAN, kernel=kernel))

    assert found is not None
    assert found.exists()
    assert len(list((tmp_path / kernels.PLACE).iterdir())) == 16


@pytest.mark.parametrize("version", [0x0201, None])
def test_what_is_no_such_kernel_is_given_as_it_is(tmp_path: Path, version: int | None) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"another" * 500) if version is None else _kernel(kernel, version=version)

    assert kernels.lean(tmp_path, replace(PLAN, kernel=kernel)) == (kernel, None)
    assert kernels.lean(tmp_path, replace(PLAN, kernel=tmp_path / "none"))[0] == tmp_path / "none"
    assert kernels.lean(tmp_path, PLAN) == (None, None)


# ---- last words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "fact"),
    [
        ("qemu-system-x86_64: -blockdev {...}: Could not open 'disks/a.raw': No such file or directory", "disks/a.raw"),
        ('qemu-system-x86_64: Failed to get "write" lock\nIs another process using the image [a.qcow2]?', "in use"),
        ("qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory", "no memory"),
        ("Could not access KVM kernel module: Permission denied\nqemu: failed to initialize kvm", "KVM"),
        ("qemu-system-x86_64: -netdev x: Failed to bind socket: Address already in use", "address"),
        ("qemu: could not open kernel file '/boot/x': No such file or directory", "no kernel /boot/x"),
        ("../target/i386/kvm/kvm.c:3183: kvm_buf_set_msrs: Assertion `ret == cpu->kvm_msr_buf->nmsrs' failed.", "KVM"),
        ("qemu-system-x86_64: Could not set up host forwarding rule 'tcp:127.0.0.1:22-:22'", "address"),
        ("qemu: error reading initrd /boot/initrd: Failed to open file “/boot/initrd”: open() failed", "/boot/initrd"),
        ('qemu-system-x86_64: failed to find romfile "efi-virtio.rom"', "efi-virtio.rom"),
        ("qemu-system-x86_64: write failed: No space left on device", "disk is full"),
    ],
)
def test_last_words_are_translated_with_what_to_do(said: str, fact: str) -> None:
    found = words.translate(said)

    assert fact in found.fact
    assert found.hint
    assert found.is_known


def test_words_that_nobody_knows_are_kept_and_warnings_are_none() -> None:
    said = "qemu-system-x86_64: -device x: is odd\nqemu-system-x86_64: warning: nic has no peer\n"

    assert words.translate(said).fact == "-device x: is odd"
    assert words.translate("").fact == "it said nothing"


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_a_picture_is_the_same_as_a_png() -> None:
    pixels = bytes(range(18))
    found = screens.png(b"P6\n3 2\n255\n" + pixels)

    assert found[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II5B", found[16:29]) == (3, 2, 8, 2, 0, 0, 0)
    start = found.index(b"IDAT") + 4
    size = struct.unpack(">I", found[start - 8 : start - 4])[0]
    assert zlib.decompress(found[start : start + size]) == b"\0" + pixels[:9] + b"\0" + pixels[9:]
    for kind in (b"IHDR", b"IDAT", b"IEND"):
        place = found.index(kind)
        length = struct.unpack(">I", found[place - 4 : place])[0]
        assert struct.unpack(">I", found[place + 4 + length :][:4])[0] == zlib.crc32(found[place : place + 4 + length])


def shown(png: bytes) -> tuple[int, int, bytes]:
    """Width, height and pixels of a picture as `screens` packs it."""
    width, height = struct.unpack(">II", png[16:24])
    start = png.index(b"IDAT") + 4
    rows = zlib.decompress(png[start : start + struct.unpack(">I", png[start - 8 : start - 4])[0]])
    length = 1 + width * 3
    assert len(rows) == height * length
    return width, height, b"".join(rows[at + 1 : at + length] for at in range(0, len(rows), length))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "smaller"),
    [((640, 480), (640, 480)), ((1024, 768), (1024, 768)), ((1920, 1080), (960, 540))],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
def test_noise_fits_into_one_message_with_fewer_colours_or_fewer_pixels(
    size: tuple[int, int], smaller: tuple[int, int]
) -> None:
    noise = random.Random(4).randbytes(size[0] * size[1] * 3)

    png = screens.png(b"P6\n%d %d\n255\n" % size + noise)

    answer: dict[str, JSON] = {"png": base64.b64encode(png).decode("ascii"), "at": "2026-11-20T12:00:00.000Z"}
    framing.dump({"id": "1", "result": answer})  # Malformed if it is too long
    width, height, pixels = shown(png)
    assert (width, height) == smaller
    step = size[0] // width
    kept = [noise[(y * step * size[0] + x * step) * 3 + c] for y in range(9) for x in range(width) for c in range(3)]
    assert max(abs(a - b) for a, b in zip(pixels, kept, strict=False)) <= 256 // 6


def test_a_picture_that_fits_keeps_all_its_colours_and_one_that_does_not_its_black_and_white() -> None:
    words = (b"\0\0\0" * 3 + b"\xff\xff\xff") * 40 * 100
    colours = random.Random(4).randbytes(160 * 20 * 3)
    ppm = b"P6\n160 120\n255\n" + words + colours

    assert shown(screens.png(ppm)) == (160, 120, words + colours)
    width, height, pixels = shown(screens.png(ppm, 7_000))

    assert (width, height, pixels[: len(words)]) == (160, 120, words)
    with pytest.raises(Broken, match="160x120 pixels do not fit into 60 bytes"):
        screens.png(ppm, 60)


@pytest.mark.parametrize("half", [b"", b"P6\n3 2\n255\n123", b"P5\n1 1\n255\n1"])
def test_half_a_picture_is_none(half: bytes) -> None:
    with pytest.raises(Broken, match="picture"):
        screens.png(half)


# ---- the monitor -----------------------------------------------------------------------------------------------------

GREETING = {"QMP": {"version": {}, "capabilities": []}}
Answer = Callable[[Mapping[str, object]], Sequence[Mapping[str, object]]]


@asynccontextmanager
async def _monitor(path: Path, answer: Answer) -> AsyncIterator[qmp.Monitor]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(GREETING).encode() + b"\r\n")
        while line := await reader.readline():
            for said in answer(json.loads(line)):
                if said.get("close"):
                    break
                writer.write(json.dumps(said).encode() + b"\r\n")
            else:
                continue
            break
        writer.close()

    async with await asyncio.start_unix_server(serve, path), qmp.opened(path, "one") as monitor:
        yield monitor


async def test_answers_are_told_from_events_and_events_wait(tmp_path: Path) -> None:
    def answer(asked: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
        return [{"event": "STOP", "data": {}}, {"return": asked["execute"]}]

    async with _monitor(tmp_path / "qmp", answer) as monitor:
        await monitor.greet()
        assert await monitor.ask("stop") == "stop"
        event = await monitor.event(lambda said: said["event"] == "STOP", limit=SECOND)
        assert event["event"] == "STOP"


async def test_a_refusal_has_qemus_words(tmp_path: Path) -> None:
    def answer(asked: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
        refused = {"error": {"class": "GenericError", "desc": "there is no such thing"}}
        return [refused if asked["execute"] == "second" else {"return": {}}]

    async with _monitor(tmp_path / "qmp", answer) as monitor:
        with pytest.raises(Broken, match="one: second: there is no such thing"):
            await monitor.ask_all([qmp.Command(execute=name) for name in ("first", "second", "third")])
        assert await monitor.ask("fourth") == {}


async def test_a_monitor_that_says_nothing_is_waited_for_to_its_limit(tmp_path: Path) -> None:
    async with _monitor(tmp_path / "qmp", lambda asked: []) as monitor:
        with pytest.raises(Broken, match="does not answer query-status within"):
            await monitor.ask("query-status", limit=timedelta(milliseconds=20))


async def test_a_monitor_that_goes_away_is_gone(tmp_path: Path) -> None:
    async with _monitor(tmp_path / "qmp", lambda asked: [{"close": True}]) as monitor:
        with pytest.raises(qmp.Gone):
            await monitor.ask("quit")
    with pytest.raises(qmp.Gone):
        async with qmp.opened(tmp_path / "none", "one"):
            pass


async def test_a_descriptor_goes_with_its_command(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "qmp"))
    listener.listen()
    (tmp_path / "state").write_text("frozen")
    handle = os.open(tmp_path / "state", os.O_RDONLY)
    async with qmp.opened(tmp_path / "qmp", "one") as monitor:
        peer, _ = listener.accept()
        asking = asyncio.create_task(monitor.ask_all([qmp.Command(execute="getfd", files=[handle])]))
        await asyncio.sleep(0)
        line, handles, _, _ = socket.recv_fds(peer, 1000, 4)
        peer.sendall(b'{"return": {}}\n')
        await asking
    for one in (peer, listener):
        one.close()

    assert json.loads(line)["execute"] == "getfd"
    assert os.read(handles[0], 100) == b"frozen"
    for one_handle in (handle, *handles):
        os.close(one_handle)


# ---- templates -------------------------------------------------------------------------------------------------------

FROZEN = Frozen.of(replace(PLAN, is_template=True), stamp="a" * 64, version="7.2.22", uuid=START.uuid)


def _sealed(root: Path, frozen: Frozen) -> Path:
    root.mkdir()
    for name in ("memory", "state.new"):
        (root / name).write_text(name)
    freezing.seal(root, root, frozen)
    return root


def test_a_sealed_template_is_found_again(tmp_path: Path) -> None:
    template = _sealed(tmp_path / "template", FROZEN)

    assert freezing.check(template, FROZEN) == FROZEN
    assert sorted(one.name for one in template.iterdir()) == ["memory", "state", "template.json"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"stamp": "b" * 64}, "was frozen by QEMU 7.2.22 on another host, with other emulator"),
        ({"memory": 512 * MIB}, "memory: it was frozen with 402653184, and this has 536870912"),
        ({"vcpus": 2}, "vcpus"),
        ({"disks": ("system",)}, "disks"),
        ({"display": True}, "display"),
    ],
)
def test_what_would_not_fit_a_template_is_told_from_it(tmp_path: Path, change: dict[str, object], why: str) -> None:
    template = _sealed(tmp_path / "template", FROZEN)

    with pytest.raises(Broken, match=why):
        freezing.check(template, replace(FROZEN, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"stamp": 1, "disks": []}'])
def test_a_template_that_cannot_be_read_is_none(tmp_path: Path, said: str) -> None:
    (tmp_path / "template.json").write_text(said)

    with pytest.raises(Broken, match="template"):
        freezing.check(tmp_path, FROZEN)


# ---- the accelerator -------------------------------------------------------------------------------------------------


def _probe(tried: list[str], why: str = "") -> Callable[[Accelerator], Awaitable[None]]:
    async def probe(accelerator: Accelerator) -> None:
        tried.append(accelerator.name)
        if why:
            raise Broken(why)

    return probe


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "kvm"
    found.touch()
    monkeypatch.setattr(accel, "DEVICE", found)
    return found


async def test_kvm_is_taken_where_a_guest_has_run_with_it(tmp_path: Path, device: Path) -> None:
    tried: list[str] = []
    chosen = await accel.Choice(tmp_path, "auto", _probe(tried)).made()

    assert chosen == accel.Chosen(accelerator=KVM)
    assert tried == ["kvm"]


async def test_a_kvm_that_runs_no_guest_is_not_taken_and_not_tried_again(tmp_path: Path, device: Path) -> None:
    tried: list[str] = []
    for _ in range(2):
        chosen = await accel.Choice(tmp_path, "auto", _probe(tried, "it did not end")).made()
        assert chosen == accel.Chosen(accelerator=TCG, why="it did not end")
    assert tried == ["kvm"]


async def test_what_was_found_under_another_boot_is_not_believed(tmp_path: Path, device: Path) -> None:
    tried: list[str] = []
    await accel.Choice(tmp_path, "auto", _probe(tried, "not yet")).made()
    known = json.loads((tmp_path / accel.FILE).read_text())
    (tmp_path / accel.FILE).write_text(json.dumps({**known, "of": "another boot"}))
    chosen = await accel.Choice(tmp_path, "auto", _probe(tried)).made()

    assert chosen.accelerator == KVM
    assert tried == ["kvm", "kvm"]


async def test_no_device_is_no_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "DEVICE", tmp_path / "none")
    tried: list[str] = []
    chosen = await accel.Choice(tmp_path, "auto", _probe(tried)).made()

    assert chosen.accelerator == TCG
    assert "there is no" in chosen.why
    assert tried == []
    with pytest.raises(Refused, match="kvm: there is no"):
        await Qemu(tmp_path, instance="0c0ffee0", wanted="kvm").check()
    with pytest.raises(Refused, match="kvm: there is no"):
        await accel.Choice(tmp_path, "kvm", _probe(tried)).made()


async def test_what_is_configured_is_not_tried(tmp_path: Path, device: Path) -> None:
    tried: list[str] = []

    assert (await accel.Choice(tmp_path, "tcg", _probe(tried)).made()).accelerator == TCG
    assert (await accel.Choice(tmp_path, "kvm", _probe(tried)).made()).accelerator == KVM
    assert tried == []


# ---- processes -------------------------------------------------------------------------------------------------------


@contextmanager
def _started(*words: str, cwd: Path | None = None) -> Iterator[int]:
    """A process with these words that sleeps."""
    pipe = subprocess.PIPE
    with subprocess.Popen(words, executable=sys.executable, stdin=pipe, stdout=pipe, cwd=cwd) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"  # before that the kernel may not tell its words
        yield child.pid
        child.kill()


_SLEEP = ("-c", "import sys; print('up', flush=True); sys.stdin.read()", "-name")


def test_a_machine_is_found_by_its_program_and_its_whole_name() -> None:
    with _started(command.PROGRAM, *_SLEEP, f"{PLAN.name}0") as pid:
        assert process.named(PLAN.name) == []
        assert [one.pid for one in process.named(f"{PLAN.name}0")] == [pid]


def test_a_stranger_that_bears_the_name_is_not_ours() -> None:
    with _started("another-program", *_SLEEP, PLAN.name):
        assert process.named(PLAN.name) == []


async def test_who_has_a_machines_name_in_another_directory_outlives_its_end(tmp_path: Path) -> None:
    places = [tmp_path / "a-1" / "2-x", tmp_path / "a-1-2" / "x"]
    for place in places:
        place.mkdir(parents=True)
        process.write(place, Record(uuid=START.uuid))
    with (
        _started(command.PROGRAM, *_SLEEP, PLAN.name, cwd=places[0]),
        _started(command.PROGRAM, *_SLEEP, PLAN.name, cwd=places[1]) as pid,
    ):
        processes = process.Processes()
        await processes.end(places[0], PLAN.name)

        assert [one.pid for one in process.named(PLAN.name)] == [pid]
        assert processes.find(places[0], PLAN.name) is None
        found = processes.find(places[1], PLAN.name)
        assert found is not None
        assert found.pid == pid


def test_a_machine_whose_directory_was_removed_is_still_that_one(tmp_path: Path) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    with _started(command.PROGRAM, *_SLEEP, PLAN.name, cwd=place) as pid:
        place.rmdir()
        assert [one.pid for one in process.of_machine(place, PLAN.name)] == [pid]


def test_a_record_of_another_boot_names_nobody(tmp_path: Path) -> None:
    process.write(tmp_path, Record(uuid=START.uuid, boot="another", pid=os.getpid(), started=1, stage="up"))

    assert process.Processes().find(tmp_path, PLAN.name) is None
    assert process.identity_of(tmp_path, PLAN.name) == START.uuid


def test_a_pid_that_is_somebody_elses_now_is_not_the_machine(tmp_path: Path) -> None:
    me = trees.identify(os.getpid())
    assert me is not None
    process.write(tmp_path, Record(uuid=START.uuid, boot=boot_id(), pid=me.pid, started=me.started, stage="up"))

    assert process.Processes().find(tmp_path, PLAN.name) is None


async def test_a_record_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    (tmp_path / process.RECORD).write_text("{")
    with pytest.raises(PaddockError, match="no record of a machine"):
        process.Processes().find(tmp_path, PLAN.name)


async def test_a_host_without_qemu_is_told_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PROGRAM", "qemu-system-none")
    with pytest.raises(Refused, match="is not installed") as refused:
        await Qemu(tmp_path, instance="0c0ffee0", wanted="tcg").check()
    assert "qemu-system-x86" in refused.value.hint
