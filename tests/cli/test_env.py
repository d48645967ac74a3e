"""`paddock env` about machines: how each came to life, its buttons, its screen, its console at a terminal."""

import base64
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paddock.cli.env import fingerprint
from paddock.wire import shapes
from tests.cli.conftest import Paddock
from tests.cli.test_call import COMMAND
from tests.client.desk import NOW, TOKEN, Desk, Refusal, Text, environment, lease
from tests.story.house import ROOT

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1dUHfGkzVvuwKqDuI8Hs3KE5zRZ1lHkU1Fk4jXbC8M root@one"
ONE = shapes.Machine(
    name="one",
    agent="e1.one",
    address="10.9.0.2",
    addresses=("10.9.0.2",),
    image="web",
    digest="d" * 64,
    memory=384 << 20,
    vcpus=1,
    disks=(1 << 30,),
    nics=(
        shapes.Nic(network="lan", mac="52:54:00:00:00:01", address="10.9.0.2/24"),
        shapes.Nic(network="", mac="52:54:00:00:00:02", address=""),
    ),
    display=True,
    start="boot",
    why="its image has no template yet",
    host_key=KEY,
)
TWO = replace(ONE, name="two", agent="e1.two", start="fork", why="", display=False)
LAN = shapes.Network(name="lan", subnet="10.9.0.0/24", latency=0.02, loss=0.01, rate=1 << 20)
ROW = environment(
    "e1",
    lease="l1",
    machines=(ONE, TWO),
    size=shapes.Size(memory=768 << 20, vcpus=2, disk=44 << 30),
    networks=(LAN,),
    egress=("deb.debian.org:443",),
)
RUNNING = replace(COMMAND, agent="h1", state="running", ended=None)
MACHINE = "/environments/e1/machines/one"


@pytest.fixture(autouse=True)
def answers(desk: Desk) -> dict[tuple[str, str], object]:
    desk.extra |= {("GET", "/environments/e1"): ROW, ("GET", "/environments"): shapes.Environments(items=(ROW,))}
    return desk.extra


def test_a_machine_is_shown_with_its_cards_and_how_it_came_to_life(paddock: Paddock) -> None:
    said = paddock("env", "show", "e1", "--history", "0")
    assert said.code == 0
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    for wanted in (
        "booked memory 768 MiB, vcpus 2, disk 44.0 GiB",
        "networks lan 10.9.0.0/24, 20 ms, 0.01 lost, 1.0 MiB/s",
        "egress deb.debian.org:443",
        "machine one",
        "image web dddddddddddd",
        "memory 384 MiB",
        "disks 1.0 GiB blank",
        "card 0 lan 52:54:00:00:00:01 10.9.0.2/24",
        "card 1 not connected 52:54:00:00:00:02",
        "start boot: its image has no template yet",
        "start fork",
        f"host key {fingerprint(KEY)}",
    ):
        assert wanted in lines, wanted
    assert paddock("env", "show", "e1", "--json").objects[0]["machines"][0]["nics"][0]["network"] == "lan"


def test_a_fingerprint_is_what_ssh_shows(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(KEY + "\n")
    done = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == fingerprint(KEY).split()[1]
    assert fingerprint("") == fingerprint("ssh-ed25519 ???") == ""


def test_buttons_are_pressed_under_the_fence_that_was_seen(paddock: Paddock, desk: Desk) -> None:
    asked: list[Any] = []
    answer = desk._answer
    desk._answer = lambda method, path, body, token: (asked.append((path, body)), answer(method, path, body, token))[1]  # type: ignore[method-assign]
    desk.extra["POST", f"{MACHINE}/power"] = replace(COMMAND, method="machine.power", result={"power": "on"})
    said = paddock("env", "power", "e1", "on", "reset", "--boot", "network,disk")
    assert (said.code, said.out) == (0, "machine one of e1: on\n")
    _, body = next(one for one in asked if one[0].endswith("/power"))
    assert (body["action"], body["boot"], body["fence"]) == ("reset", ["network", "disk"], 7)
    assert paddock("env", "power", "e1", "one", "reset", "--boot", "floppy").code == 2
    assert paddock("env", "power", "e1", "one", "kick").code == 2
    said = paddock("env", "power", "e1", "three", "on")
    assert (said.code, said.err.splitlines()[1]) == (4, "hint: it has one, two")


def test_an_old_fence_is_refused_as_such(paddock: Paddock, desk: Desk) -> None:
    def on(method: str, path: str) -> None:
        if path.endswith("/power"):
            raise Refusal(412, "stale", "environment e1: fence 7 is over, the current one is 8")

    desk.on = on
    said = paddock("env", "power", "e1", "one", "off")
    assert (said.code, said.err) == (3, "paddock: environment e1: fence 7 is over, the current one is 8\n")


@pytest.mark.slow
def test_a_picture_goes_to_a_file_or_a_pipe(paddock: Paddock, desk: Desk, tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n..."
    coded = base64.b64encode(png).decode()
    desk.extra["POST", f"{MACHINE}/screenshot"] = replace(COMMAND, result={"png": coded, "at": NOW})
    said = paddock("env", "screenshot", "e1", "one", "-o", str(tmp_path / "one.png"))
    assert (said.code, (tmp_path / "one.png").read_bytes()) == (0, png)
    done = subprocess.run(
        [sys.executable, "-m", "paddock", "env", "screenshot", "e1", "one"],
        capture_output=True,
        check=False,
        env=_env(),
    )
    assert (done.returncode, done.stdout) == (0, png)
    desk.extra["POST", f"{MACHINE}/screenshot"] = replace(
        COMMAND, state="failed", code="refused", message="one: it has no display"
    )
    said = paddock("env", "screenshot", "e1", "one", "--json")
    assert (said.code, said.err) == (3, "paddock: machine one: one: it has no display\n")


@pytest.mark.slow
def test_saved_disks_are_held_and_brought_up_again_as_a_lease(paddock: Paddock, desk: Desk) -> None:
    desk.extra["POST", "/environments/e1/hold"] = replace(ROW, saving=True, held_by="anna", hold_until=None)
    said = paddock("env", "hold", "e1", "--disks", "--ttl", "7d")
    assert said.out == "environment e1: leased, held by anna, once its lease is over (disks alone)\n"
    desk.extra["POST", "/environments/e1/fork"] = lease("l9", state="granted", environment="e1", fence=7, fork_of="e1")
    desk.extra["GET", "/leases/l9"] = lease("l9", state="granted", environment="e1", fence=7, fork_of="e1")
    said = paddock("env", "fork", "e1", "--ttl", "1m", "--json")
    assert (said.code, said.objects[0]["fork_of"]) == (0, "e1")
    assert "give it back:  paddock lease release l9" in paddock("env", "fork", "e1").out


def test_a_process_of_its_host_is_not_logged_in_to_by_mistake(paddock: Paddock, desk: Desk) -> None:
    desk.extra["GET", "/environments/e1"] = environment("e1")
    said = paddock("env", "ssh", "e1", "one")
    assert said.code == 3
    assert "machine one: it is a process of host local, without a login of its own" in said.err
    assert desk.count("POST", "/commands") == 0


def test_what_is_booked_of_a_host_is_told(paddock: Paddock, desk: Desk) -> None:
    given: dict[str, Any] = dict.fromkeys(("state", "agent", "drained_by", "reason"), "")
    sizes = [shapes.Size(memory=7 << 30, vcpus=7, disk=1 << 40), shapes.Size(memory=64 << 30, vcpus=16, disk=2 << 40)]
    row = shapes.HostDetail(
        **given, name="vm-1", since=NOW, skills=("hypervisor",), booked=sizes[0], capacity=sizes[1], environments=()
    )
    row = replace(row, stored=shapes.Stored(images=3 << 30, templates=1 << 29))
    desk.extra |= {("GET", "/hosts/vm-1"): row, ("GET", "/hosts"): shapes.Hosts(items=(row,))}
    told = "memory 7.0 GiB of 64.0 GiB, vcpus 7 of 16, disk 1.0 TiB of 2.0 TiB"
    said = paddock("host", "show", "vm-1").out
    assert f"booked  {told}" in said
    assert "stored  images 3.0 GiB, templates 512 MiB" in said


# ---- the console -----------------------------------------------------------------------------------------------------


@pytest.fixture
def line(desk: Desk) -> Text:
    """What the machine says."""
    desk.extra |= {
        ("POST", f"{MACHINE}/console"): RUNNING,
        ("GET", "/agents/h1/commands/c1"): replace(COMMAND, agent="h1"),
        ("POST", "/agents/h1/commands/c1/cancel"): RUNNING,
        ("POST", f"{MACHINE}/type"): replace(COMMAND, agent="h1"),
    }
    return desk.texts.setdefault("/agents/h1/commands/c1/output", Text())


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@pytest.mark.slow
def test_a_console_is_told_with_times_or_as_objects(paddock: Paddock, line: Text) -> None:
    line.say(b"booting\r\nlogin: ", is_over=True)
    said = paddock("env", "console", "e1", "one", "--times", "--no-input")
    times = [text.partition(" ")[0] for text in said.out.splitlines()]
    assert [text.partition(" ")[2] for text in said.out.splitlines()] == ["booting", "login: "]
    assert all(len(time) == len("09:42:00.125") for time in times)
    said = paddock("env", "console", "e1", "one", "--json", "--no-input")
    assert [one["text"] for one in said.objects] == ["booting\nlogin: "]


class Terminal:
    """A terminal of ours, with a command line in it."""

    def __init__(self, *words: str) -> None:
        self.here, self.there = pty.openpty()
        self.before = termios.tcgetattr(self.there)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "paddock", *words],
            stdin=self.there,
            stdout=self.there,
            stderr=self.there,
            env=_env(),
            start_new_session=True,
        )
        self.shown = b""

    def until(self, wanted: bytes) -> None:
        end = time.monotonic() + 20
        while wanted not in self.shown:
            assert time.monotonic() < end, self.shown
            if select.select([self.here], [], [], 0.5)[0]:
                self.shown += os.read(self.here, 65536)

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.there)[3] & termios.ICANON

    def type(self, keys: bytes) -> None:
        os.write(self.here, keys)

    def ended(self) -> int:
        """Its exit code; the terminal is what it was."""
        code = self.process.wait(timeout=20)
        assert termios.tcgetattr(self.there) == self.before
        return code


@contextmanager
def terminal(*words: str) -> Iterator[Terminal]:
    made = Terminal(*words)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        os.close(made.here)
        os.close(made.there)


@pytest.mark.slow
def test_keys_go_to_the_machine_as_they_are_and_ctrl_bracket_leaves(paddock: Paddock, desk: Desk, line: Text) -> None:
    typed: list[bytes] = []
    answer = desk._answer

    def listen(method: str, path: str, body: Any, token: str) -> object:
        if path.endswith("/type"):
            typed.append(base64.b64decode(body["data"]))
            line.say(typed[-1].upper())
        return answer(method, path, body, token)

    desk._answer = listen  # type: ignore[method-assign]
    line.say(b"\x1b[1mlogin:\x1b[0m ")
    with terminal("env", "console", "e1", "one") as here:
        here.until(b"\x1b[1mlogin:\x1b[0m ")
        assert here.is_raw
        here.type(b"a\x03")
        here.until(b"A\x03")
        here.type(b"b\x1dnever")
        assert here.ended() == 0
    assert b"".join(typed) == b"a\x03b"
    assert desk.count("POST", "/cancel") == 1
    assert b"Ctrl-] leaves it" in here.shown


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_restored_however_it_ends(paddock: Paddock, desk: Desk, line: Text, number: int) -> None:
    line.say(b"hello")
    with terminal("env", "console", "e1", "one") as here:
        here.until(b"hello")
        here.process.send_signal(number)
        assert here.ended() == 130
    assert desk.count("POST", "/cancel") == 1


@pytest.mark.slow
def test_the_terminal_is_restored_when_the_machine_is_destroyed(paddock: Paddock, desk: Desk, line: Text) -> None:
    over = replace(COMMAND, agent="h1", state="failed", code="stale", message="fence 7 of e1 is over")
    desk.extra["GET", "/agents/h1/commands/c1"] = over
    line.say(b"hello")
    with terminal("env", "console", "e1", "one") as here:
        here.until(b"hello")
        line.say(b"", is_over=True)
        assert here.ended() == 1
        here.until(b"paddock: machine one: fence 7 of e1 is over")


@pytest.mark.slow
def test_what_a_pipe_has_is_typed_where_that_is_wanted(paddock: Paddock, desk: Desk, line: Text) -> None:
    def on(method: str, path: str) -> None:
        if path.endswith("/type"):
            line.say(b"heard", is_over=True)

    desk.on = on
    words = [sys.executable, "-m", "paddock", "env", "console", "e1", "one", "--input"]
    done = subprocess.run(words, input=b"reboot\n", capture_output=True, timeout=30, check=False, env=_env())
    assert (done.returncode, done.stdout) == (0, b"heard")
    assert desk.count("POST", "/type") == 1
    assert TOKEN.encode() not in done.stderr
