"""What is forked out of a warm process is what a start would have made."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from paddock.hands import trees
from tests import warm

pytestmark = pytest.mark.slow


LONELY = ("run", "--server", "ws://127.0.0.1:9/agent", "--cloud", "none", "--code", "abc", "--skills", "local")
"""An agent whose server is away."""


def begin(directory: Path, *words: str, **options: Any) -> warm.Forked:
    env = {**os.environ, "PYTHONPATH": warm.SOURCE, **options.pop("more", {})}
    with (directory / "log").open("ab") as log:
        made = warm.start([sys.executable, "-m", *words], env=env, log=log, **options)
    assert isinstance(made, warm.Forked)
    return made


def waiting(directory: Path, **options: Any) -> warm.Forked:
    """An agent that nobody answers, once it has tried."""
    made = begin(directory, "paddock.agent", *LONELY, "--state", str(directory / "state"), is_mute=True, **options)
    end = time.monotonic() + 60
    while "link is over" not in (directory / "log").read_text():
        assert made.poll() is None, (directory / "log").read_text()
        assert time.monotonic() < end
        time.sleep(0.02)
    return made


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("paddock.agent", "--version"), 0),
        (("paddock.agent", "run", "--no-such-option"), 2),
        (("paddock.agent", "status", "--state", "/nowhere"), 4),
        (("paddock", "serve", "/nowhere/paddock.yaml"), 4),
        (("paddock", "lease", "run"), 2),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, tuple) else "",
)
def test_it_says_and_returns_the_same(words: tuple[str, ...], code: int, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": warm.SOURCE}
    real = subprocess.run(
        [sys.executable, "-m", *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    forked = begin(tmp_path, *words)

    assert (forked.wait(30), (tmp_path / "log").read_bytes()) == (real.returncode, real.stdout)
    assert real.returncode == code


def test_it_is_our_child_and_has_nothing_of_another(tmp_path: Path) -> None:
    made = waiting(tmp_path, start_new_session=True)

    stat = Path(f"/proc/{made.pid}/stat").read_text().rpartition(")")[2].split()
    opened = [os.readlink(one) for one in Path(f"/proc/{made.pid}/fd").iterdir()]
    made.send_signal(signal.SIGTERM)

    assert [int(field) for field in stat[1:4]] == [os.getpid(), made.pid, made.pid]
    assert sorted(opened)[:1] == ["/dev/null"]
    assert opened.count(str(tmp_path / "log")) == 2
    assert not [one for one in opened if "memfd" in one]
    assert made.wait(20) == 0


def test_it_dies_at_a_crash_point_of_its_own_environment(tmp_path: Path) -> None:
    died = tmp_path / "died"
    fault = {"PADDOCK_FAULT": "agent.pruning", "PADDOCK_FAULT_ONCE": str(died)}
    made = begin(tmp_path, "paddock.agent", *LONELY, "--state", str(tmp_path / "state"), more=fault)

    assert made.wait(30) == -signal.SIGKILL
    assert died.exists()


def test_what_nobody_catches_is_said_and_ends_it(tmp_path: Path) -> None:
    fault = {"PADDOCK_FAULT": "agent.pruning", "PADDOCK_FAULT_ACT": "raise"}

    made = begin(tmp_path, "paddock.agent", *LONELY, "--state", str(tmp_path / "state"), more=fault)

    assert made.wait(30) == 1
    said = (tmp_path / "log").read_text()
    assert "Traceback (most recent call last):" in said
    assert "paddock.hands.faults.Fault: agent.pruning" in said


def test_a_kill_ends_it_and_nobody_else(tmp_path: Path) -> None:
    made = waiting(tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        made.wait(0)

    made.kill()

    assert made.wait(10) == -signal.SIGKILL
    assert all(trees.identify(pid) for pid in warm.processes())


def test_ctrl_c_is_heard(tmp_path: Path) -> None:
    made = waiting(tmp_path)

    made.send_signal(signal.SIGINT)

    assert made.wait(20) == 0


@pytest.mark.parametrize("name", ["PATH", "PYTHONDEVMODE", "LC_ALL", "SSL_CERT_FILE", "http_proxy"])
def test_a_variable_that_may_have_been_read_while_loading_asks_for_a_start(name: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "paddock.agent", "methods"]
    env = {**os.environ, "PYTHONPATH": warm.SOURCE}

    assert warm.is_same(words, env)
    assert not warm.is_same(words, {**env, name: "another"})
    assert not warm.is_same(words, {**env, "PYTHONPATH": str(tmp_path)})
    assert not warm.is_same([sys.executable, "-m", "paddock.chaos.clock"], env)
    assert not warm.is_same(["/usr/bin/python3", "-m", "paddock.agent"], env)
