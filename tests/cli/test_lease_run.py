"""`paddock lease run` on real processes: the command's whole tree is gone before the lease is given back."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from paddock.cli.lease import conclude
from paddock.client import Client, Held
from paddock.client.command import Ended
from paddock.hands import trees
from tests.client.desk import TOKEN, Desk

pytestmark = pytest.mark.slow

DAEMON = """
import os, signal, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
open(sys.argv[1] + ".new", "w").write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(60)
"""


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def url(desk: Desk) -> Iterator[str]:
    with desk.serving() as url:
        yield url


def environment_of(url: str, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PADDOCK_")}
    return {
        **kept,
        "PADDOCK_SERVER": url,
        "PADDOCK_TOKEN": TOKEN,
        "XDG_STATE_HOME": str(tmp_path / "xdg"),
        "TMPDIR": str(tmp_path),
    }


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts `paddock lease run [OPTIONS] -- COMMAND`."""
    started: list[subprocess.Popen[str]] = []

    def begin(*command: str, options: tuple[str, ...] = (), pool: str = "two-node") -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            [sys.executable, "-m", "paddock", "lease", "run", "--env", pool, *options, "--", *command],
            env=environment_of(url, tmp_path),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(child)
        return child

    yield begin
    for child in started:
        child.kill()
        child.communicate()


def ended(child: "subprocess.Popen[str]", limit: float = 60) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=limit)
    return child.returncode, out, err


def until(condition: Callable[[], bool], limit: float = 30) -> None:
    over = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < over, "it did not come true"
        time.sleep(0.01)


def pid_in(file: Path) -> int:
    until(file.exists)
    return int(file.read_text())


def test_the_commands_own_code_comes_out_and_the_lease_goes_back(start: Start, desk: Desk) -> None:
    code, out, _ = ended(start("sh", "-c", "echo said; exit 7"))
    assert (code, out, desk.state()) == (7, "said\n", "released")


def test_the_command_knows_what_it_has(start: Start) -> None:
    code, out, err = ended(
        start("sh", "-c", 'echo $PADDOCK_LEASE $PADDOCK_ENVIRONMENT; cat "$PADDOCK_ENVIRONMENT_FILE"')
    )
    assert code == 0, err
    line, _, text = out.partition("\n")
    told = json.loads(text)
    assert line == "l1 e1"
    assert (told["pool"], told["host"], told["fence"]) == ("two-node", "local", 7)
    assert [(machine["name"], machine["address"]) for machine in told["machines"]] == [
        ("one", "127.1.0.1"),
        ("two", "127.1.0.2"),
    ]


def test_the_file_that_describes_it_is_for_its_owner_and_goes_with_it(start: Start) -> None:
    _, out, _ = ended(start("sh", "-c", 'echo "$PADDOCK_ENVIRONMENT_FILE"; stat -c %a "$PADDOCK_ENVIRONMENT_FILE"'))
    name, mode = out.split()
    assert mode == "600"
    assert not Path(name).exists()


def test_a_command_that_is_not_there_is_said_as_a_shell_says_it(start: Start, desk: Desk) -> None:
    code, _, err = ended(start("no-such-command"))
    assert (code, desk.state()) == (127, "released")
    assert "paddock: no-such-command: No such file" in err


def test_a_pool_that_is_not_there_is_120(start: Start) -> None:
    code, _, err = ended(start("true", pool="three-node"))
    assert code == 120
    assert "not configured" in err


def test_an_impossible_lease_is_120(start: Start, desk: Desk) -> None:
    desk.impossible = "pool two-node has no host"
    assert ended(start("true"))[0] == 120


def test_a_server_that_is_not_there_is_122(start: Start, desk: Desk) -> None:
    desk.is_silent = True
    code, _, err = ended(start("true"))
    assert code == 122
    assert "hint: " in err


def test_who_waits_is_told_what_for(start: Start, desk: Desk) -> None:
    desk.queue = 3
    code, _, err = ended(start("true"))
    assert code == 0
    assert "lease l1 waits: 1 ahead; a host" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_queue_it_takes_its_request_back(start: Start, desk: Desk, number: signal.Signals) -> None:
    desk.queue = 100_000
    child = start("true")
    until(lambda: desk.count("GET", "/why") > 0)
    child.send_signal(number)
    assert (ended(child)[0], desk.state()) == (130, "cancelled")


def test_a_daemon_that_left_its_session_is_gone_before_the_lease_is(start: Start, desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    alive: list[bool] = []

    def look(method: str, path: str) -> None:
        if path.endswith("/release"):
            alive.append(trees.identify(pid_in(file)) is not None)

    desk.on = look
    program = f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {DAEMON!r}, {str(file)!r}])\n"
    program += f"import os\nwhile not os.path.exists({str(file)!r}): time.sleep(0.01)\n"
    code, _, err = ended(start(sys.executable, "-c", program, options=("--grace", "0.3s")))
    assert code == 0, err
    assert alive == [False]


def test_a_signal_reaches_the_command_which_may_end_as_it_likes(start: Start, desk: Desk, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    child = start("sh", "-c", f"trap 'exit 5' TERM; touch {ready}; while :; do sleep 0.05; done")
    until(ready.exists)
    child.send_signal(signal.SIGTERM)
    code, _, err = ended(child)
    assert (code, desk.state()) == (5, "released")
    assert "SIGTERM" in err


def test_a_command_that_will_not_hear_is_killed_after_the_grace(start: Start, desk: Desk, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    child = start(
        "sh", "-c", f"trap '' INT TERM; touch {ready}; while :; do sleep 0.05; done", options=("--grace", "0.3s")
    )
    until(ready.exists)
    child.send_signal(signal.SIGINT)
    assert (ended(child)[0], desk.state()) == (137, "released")


def test_a_lost_lease_ends_the_command_and_is_not_given_back(start: Start, desk: Desk, tmp_path: Path) -> None:
    desk.ttl = 1.0
    file = tmp_path / "pid"
    child = start("sh", "-c", f"echo $$ > {file}.new; mv {file}.new {file}; sleep 60")
    pid = pid_in(file)
    desk.revoked = True
    code, _, err = ended(child)
    assert code == 121
    assert "fence 7 is over" in err
    assert trees.identify(pid) is None
    assert desk.count("POST", "/release") == 0


def test_a_silent_server_costs_the_lease_before_its_ttl_does(start: Start, desk: Desk, tmp_path: Path) -> None:
    desk.ttl = 2.0
    ready = tmp_path / "ready"
    child = start("sh", "-c", f"touch {ready}; sleep 60")
    until(ready.exists)
    began = time.monotonic()
    desk.is_silent = True
    code, _, err = ended(child)
    assert code == 121
    assert "no renewal came through" in err
    assert time.monotonic() - began < 5


def test_a_long_command_keeps_its_lease(start: Start, desk: Desk) -> None:
    desk.ttl = 0.6
    code, _, err = ended(start("sleep", "1.5"))
    assert (code, desk.state()) == (0, "released"), err
    assert desk.count("POST", "/renew") >= 3


def test_killed_itself_it_takes_the_command_along(start: Start, desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    script = f"trap '' TERM; echo $$ > {file}.new; mv {file}.new {file}; exec sleep 60"
    child = start("sh", "-c", script, options=("--grace", "0.3s"))
    found = trees.identify(pid_in(file))
    assert found is not None
    child.kill()
    until(lambda: not trees.is_alive(found))
    assert desk.count("POST", "/release") == 0


def test_the_death_of_who_holds_the_tree_ends_it_and_is_122(start: Start, desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    child = start("sh", "-c", f"echo $$ > {file}.new; mv {file}.new {file}; sleep 60")
    command = trees.identify(pid_in(file))
    assert command is not None
    warden = int(Path(f"/proc/{command.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(warden, signal.SIGKILL)
    code, _, err = ended(child)
    assert code == 122
    assert "was killed" in err
    assert not trees.is_alive(command)
    assert desk.state() == "released"


def test_the_terminal_is_the_commands(url: str, desk: Desk, tmp_path: Path) -> None:
    """Its streams are a terminal, and Ctrl-C is heard once, by it."""
    program = (
        "import os, signal, sys, time\n"
        "print('tty', all(os.isatty(n) for n in (0, 1, 2)), flush=True)\n"
        "heard = []\n"
        "signal.signal(signal.SIGINT, lambda *_: heard.append(1))\n"
        "print('ready', flush=True)\n"
        "while not heard: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "print('heard', len(heard), flush=True)\n"
        "sys.exit(9)\n"
    )
    argv = [sys.executable, "-m", "paddock", "lease", "run", "--env", "two-node", "--", sys.executable, "-c", program]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, argv, environment_of(url, tmp_path))
    seen, was_sent = b"", False
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        seen += data
        if b"ready" in seen and not was_sent:
            os.write(terminal, b"\x03")
            was_sent = True
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert b"tty True" in seen
    assert b"heard 1\r\n" in seen
    assert os.waitstatus_to_exitcode(status) == 9
    assert desk.state() == "released"


TICKS = "import sys, time\nwhile True: print(time.monotonic(), file=open(sys.argv[1], 'a')); time.sleep(0.02)\n"


def test_frozen_it_loses_the_lease_and_the_command_is_gone_before_the_ttl_is(
    start: Start, desk: Desk, tmp_path: Path
) -> None:
    desk.ttl = 2.0
    granted: list[float] = []

    def note(method: str, path: str) -> None:
        if path.endswith(("/leases", "/renew")):
            granted.append(time.monotonic())

    desk.on = note
    ticks = tmp_path / "ticks"
    # It hears TERM and goes on: only KILL ends it.
    program = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + TICKS
    child = start(sys.executable, "-c", program, str(ticks), options=("--grace", "1s"))
    until(lambda: ticks.exists() and desk.count("POST", "/renew") >= 2)
    child.send_signal(signal.SIGSTOP)
    over = granted[-1] + desk.ttl
    until(lambda: time.monotonic() > over + 0.3)
    last = float(ticks.read_text().split()[-1])
    assert len(granted) == desk.count("POST", "/leases") + desk.count("POST", "/renew")
    assert granted[-1] + desk.ttl == over, "it renewed while it was frozen"
    assert last < over
    child.send_signal(signal.SIGCONT)
    code, _, err = ended(child)
    assert code == 121
    assert "lease l1: no renewal" in err
    assert [path for path in tmp_path.iterdir() if path.name.startswith("paddock-lease-")] == []


def test_a_command_that_was_ended_for_want_of_a_renewal_is_a_lost_lease_though_it_came_after_all(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """Frozen between a renewal's question and its answer, it has the lease when it awakes, and no command."""
    with Client("http://desk", token=TOKEN, transport=desk.transport()) as client:
        held = Held(client, client.acquire("two-node", ttl=60))
        assert conclude(held, Ended(code=143, is_over=True)) == 121
        assert held.loss is None
    assert "lease l1: no renewal was told in time" in capsys.readouterr().err


def test_waking_from_a_freeze_it_is_never_ended_by_a_signal_of_its_own(url: str, desk: Desk, tmp_path: Path) -> None:
    """Eight, each frozen past its term, the first while they are only beginning."""
    desk.ttl = 1.0
    argv = [
        sys.executable,
        "-m",
        "paddock",
        "lease",
        "run",
        "--env",
        "two-node",
        "--grace",
        "0.2s",
        "--",
        "sleep",
        "60",
    ]
    environment = environment_of(url, tmp_path)
    children: list[subprocess.Popen[str]] = []
    try:
        for number in range(8):
            child = subprocess.Popen(argv, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
            children.append(child)
            until(partial(was_asked_more_often, desk, number))
            time.sleep(0.03 * number)
            child.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        for child in children:
            child.send_signal(signal.SIGCONT)
        codes = [ended(child)[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert codes == [121] * 8


def was_asked_more_often(desk: Desk, times: int) -> bool:
    return desk.count("POST", "/leases") > times


def test_ctrl_z_stops_the_command_and_the_end_of_the_lease_still_ends_it(
    start: Start, desk: Desk, tmp_path: Path
) -> None:
    desk.ttl = 1.0
    file = tmp_path / "pid"
    child = start("sh", "-c", f"echo $$ > {file}.new; mv {file}.new {file}; sleep 60")
    command = trees.identify(pid_in(file))
    assert command is not None
    # What a terminal does at Ctrl-Z. The group is orphaned here, so that the caller itself has to be stopped by hand.
    os.killpg(child.pid, signal.SIGTSTP)
    child.send_signal(signal.SIGSTOP)
    until(lambda: not trees.is_alive(command))
    child.send_signal(signal.SIGCONT)
    assert ended(child)[0] == 121
