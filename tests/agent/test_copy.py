"""A copied disk: noticed, shut out, and never a word or a command of the machine that it is from."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paddock.agent import identity, origin
from paddock.agent.origin import Origin
from paddock.core.errors import Broken
from paddock.wire.messages import Success
from tests.agent.conftest import SOURCE, Host
from tests.agent.desk import CODE, TOKEN, Desk

ONE = Origin(product_uuid="4c4c4544-0042-3510-8052-b4c04f4e3732", machine_id="0123456789abcdef0123456789abcdef")
OTHER = "11111111-2222-3333-4444-555555555555"
CLOSE, FAR = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210")
NEW_CODE = "code-of-the-copy"


# What is compared


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (ONE, ""),
        (Origin(), ""),
        (Origin(product_uuid=ONE.product_uuid), ""),
        (Origin(machine_id=CLOSE), ""),
        (Origin(product_uuid="44454c4c-4200-1035-8052-b4c04f4e3732", machine_id=CLOSE), ""),
        (Origin(product_uuid=OTHER, machine_id=CLOSE), "product UUID"),
        (Origin(product_uuid=ONE.product_uuid, machine_id=FAR), "machine-id"),
        (Origin(machine_id=FAR), "machine-id"),
    ],
)
def test_a_machine_differs_where_both_are_known(found: Origin, why: str) -> None:
    assert why in origin.difference(ONE, found)
    assert bool(why) == bool(origin.difference(ONE, found))
    assert origin.difference(Origin(), found) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "Not Settable",
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "03000200-0400-0500-0006-000700080009",
    ],
)
def test_a_uuid_that_many_machines_have_is_none(text: str) -> None:
    assert origin.product_uuid(text) == ""


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0" * 32, "abc"])
def test_a_machine_id_that_is_not_made_yet_is_none(text: str) -> None:
    assert origin.machine_id(text) == ""


def test_a_machine_is_read_from_its_files_and_a_container_is_none(tmp_path: Path) -> None:
    machine(tmp_path, ONE)
    assert origin.look(tmp_path) == ONE
    (tmp_path / ".dockerenv").touch()
    assert origin.look(tmp_path) == Origin()


def test_what_cannot_be_seen_this_time_stays_as_it_was() -> None:
    assert origin.complete(ONE, Origin(machine_id=CLOSE)) == ONE
    assert origin.complete(Origin(machine_id=CLOSE), ONE) == ONE


def test_a_record_that_is_none_is_told_and_nothing_is_guessed(tmp_path: Path) -> None:
    (tmp_path / origin.FILE).write_text("{")
    with pytest.raises(Broken, match="no origin"):
        origin.load(tmp_path)


def test_what_was_moved_aside_once_is_not_lost_when_it_happens_again(tmp_path: Path) -> None:
    for content in ("first", "second", "third"):
        (tmp_path / "ledger").write_text(content)
        aside = origin.set_aside(tmp_path)
    assert {path.read_text() for path in aside.iterdir()} == {"first", "second", "third"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [origin.ASIDE]


# Real agents


def machine(root: Path, found: Origin) -> Path:
    """The files of a machine below `root`."""
    firmware = root / "sys/class/dmi/id"
    firmware.mkdir(parents=True, exist_ok=True)
    (firmware / "product_uuid").write_text(f"{found.product_uuid.upper()}\n")
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/machine-id").write_text(f"{found.machine_id}\n")
    return root


async def until(condition: Callable[[], object], limit: float = 60) -> None:
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110 - nobody tells us of files
            await asyncio.sleep(0.02)


def says(*words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "paddock.agent", *words],
        env={"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def copy(source: Path, target: Path) -> None:
    """As a disk is copied: with its sockets."""
    subprocess.run(["cp", "-a", source, target], check=True)


class Clones:
    """An original that has enrolled and holds an open command, and a copy of its disk on another machine."""

    def __init__(self, desk: Desk, host: Host, tmp_path: Path) -> None:
        self.desk = desk
        self.original = host
        self.root = machine(tmp_path / "root", ONE)
        self.copied_root = machine(tmp_path / "copied-root", Origin(product_uuid=OTHER, machine_id=CLOSE))
        self.copy = Host(desk, tmp_path / "copied" / "state")
        self.copy.state.parent.mkdir()
        self.count = tmp_path / "count"

    async def part(self) -> None:
        """Run the original until it has an open command, kill it, copy its disk."""
        self.original.start("--rootfs", str(self.root))
        await self.desk.here()
        answer = await self.desk.ask(self.desk.command("old", "script.run", run=f"echo x >> {self.count}; sleep 600"))
        assert isinstance(answer, Success)
        await until(self.count.exists)
        self.original.clear()
        copy(self.original.state, self.copy.state)
        await self.desk.until(lambda: not self.desk.seats)

    def begin(self, *more: str, **env: str) -> None:
        self.copy.start("--rootfs", str(self.copied_root), "--json", *more, **env)

    @property
    def is_shut_out(self) -> bool:
        return (self.copy.state / "shut-out").exists()


@pytest.fixture
def clones(desk: Desk, host: Host, tmp_path: Path) -> Iterator[Clones]:
    made = Clones(desk, host, tmp_path)
    yield made
    made.copy.clear()


@pytest.mark.slow
async def test_a_copy_says_nothing_to_the_server_and_lives_on(desk: Desk, clones: Clones) -> None:
    await clones.part()
    connections = len(desk.hellos)
    clones.begin()
    await until(lambda: clones.is_shut_out)
    told = json.loads(says("status", "--state", str(clones.copy.state), "--json"))
    assert told["runs"]
    assert "product UUID" in told["shut_out"]
    clones.copy.kill()
    clones.begin()  # as a service manager would: it is shut out again, and stays
    await asyncio.sleep(2)
    assert clones.copy.is_alive
    assert (len(desk.hellos), desk.refused, desk.connections) == (connections, [], [])
    log = clones.copy.log.read_text()
    assert "this is a copy of another machine" in log
    assert "paddock agent enrol" in log
    clones.copy.process.terminate()  # type: ignore[union-attr]
    assert clones.copy.process.wait(10) == 0  # type: ignore[union-attr]


@pytest.mark.slow
async def test_a_new_code_lets_a_copy_begin_anew_and_no_old_command_is_repeated(desk: Desk, clones: Clones) -> None:
    await clones.part()
    original = desk.hellos[-1]
    clones.begin()
    await until(lambda: clones.is_shut_out)
    desk.codes[NEW_CODE] = "token-of-the-copy"
    clones.copy.state.with_name("given").write_text(NEW_CODE)
    says("enrol", "--state", str(clones.copy.state), "--code-file", str(clones.copy.state.with_name("given")))
    await desk.here()
    hello = desk.hellos[-1]
    assert hello.token == "token-of-the-copy"
    assert hello.ledger != original.ledger
    assert (hello.tasks, hello.seq) == ((), 0)
    assert TOKEN not in {one.token for one in desk.hellos[len(desk.hellos) - 1 :]}
    assert not clones.is_shut_out
    assert not (clones.copy.state / "code").exists()
    assert (clones.copy.state / "copied/identity").exists(), "kept, for whoever wants to look"
    assert clones.count.read_text() == "x\n", "run once, by the original"
    clones.copy.kill()
    clones.begin()
    await desk.until(lambda: len(desk.hellos) >= 2 and desk.hellos[-1].ledger == hello.ledger)


@pytest.mark.slow
async def test_the_code_that_the_original_used_is_not_shown_again(desk: Desk, clones: Clones) -> None:
    await clones.part()
    enrolled = desk.enrolments
    clones.begin("--code", CODE)
    await until(lambda: clones.is_shut_out)
    assert desk.enrolments == enrolled
    clones.copy.kill()
    desk.codes[NEW_CODE] = "token-of-the-copy"
    clones.begin("--code", NEW_CODE)
    await desk.here()
    assert desk.hellos[-1].token == "token-of-the-copy"


@pytest.mark.slow
async def test_an_operators_word_keeps_the_machine_that_it_was_on_other_hardware(desk: Desk, clones: Clones) -> None:
    await clones.part()
    ledger = desk.hellos[-1].ledger
    clones.begin()
    await until(lambda: clones.is_shut_out)
    says("enrol", "--state", str(clones.copy.state), "--same-machine")
    await desk.here()
    assert (desk.hellos[-1].token, desk.hellos[-1].ledger) == (TOKEN, ledger)
    clones.copy.kill()
    await desk.until(lambda: not desk.seats)
    clones.begin()  # the word was for good
    await desk.here()
    clones.copy.kill()
    await desk.until(lambda: not desk.seats)
    machine(clones.copied_root, ONE)
    clones.begin("--same-machine")  # and back
    await desk.here()


@pytest.mark.slow
@pytest.mark.parametrize("point", ["origin.moved", "origin.moved:2", "origin.saved", "agent.enrolling"])
async def test_a_copy_that_dies_while_it_begins_anew_goes_on_at_the_next_start(
    desk: Desk, clones: Clones, point: str
) -> None:
    await clones.part()
    desk.codes[NEW_CODE] = "token-of-the-copy"
    before = len(desk.hellos)
    clones.begin("--code", NEW_CODE, PADDOCK_FAULT=point)
    await until(lambda: not clones.copy.is_alive)
    clones.begin("--code", NEW_CODE)
    await desk.here()
    assert {hello.token for hello in desk.hellos[before:]} == {"token-of-the-copy"}
    assert identity.load(clones.copy.state) == identity.Identity(agent="host", token="token-of-the-copy")
    assert clones.count.read_text() == "x\n"


@pytest.mark.slow
async def test_a_guest_without_an_identity_begins_with_a_new_ledger(desk: Desk, clones: Clones) -> None:
    """Whoever carries it vouches for it; of the image that it was made from it repeats nothing."""
    await clones.part()
    ledger = desk.hellos[-1].ledger
    (clones.copy.state / "identity").unlink()
    clones.begin("--server", desk.url, "--code", CODE)
    await desk.here()
    assert desk.hellos[-1].ledger != ledger
    assert desk.hellos[-1].tasks == ()
