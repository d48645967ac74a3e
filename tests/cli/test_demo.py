"""`paddock demo` as a newcomer runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paddock.cli.play import REPLAYED, Outcome
from paddock.wire import shapes

pytestmark = pytest.mark.slow


def _demo(tmp_path: Path, *options: str) -> "subprocess.Popen[str]":
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "XDG_STATE_HOME": str(tmp_path / "xdg")}
    return subprocess.Popen(
        [sys.executable, "-m", "paddock", "demo", *options],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_once_it_is_right_in_less_than_15_seconds_and_leaves_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    child = _demo(tmp_path, "--once", "--json")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert time.monotonic() - began < 15
    told = json.loads(out.splitlines()[-1])
    assert set(told) == {"events", "runs", "reports", "seconds"}
    assert told["events"] == 23
    assert sorted((run["change"], run["job"], run["verdict"]) for run in told["runs"]) == [
        (189221, "noop", "success"),
        (189221, "two-machines", "success"),
    ]
    (report,) = told["reports"]
    assert (report["change"], report["patchset"], report["labels"]) == (189221, 1, {})
    assert len([line for line in report["message"].splitlines() if line.startswith("- ")]) == 2
    assert all(
        isinstance(number, int | float) for number in (told["seconds"], *(run["seconds"] for run in told["runs"]))
    )
    assert "bot jenkins" in err
    assert "no project openstack/rally" in err
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "xdg").exists(), "the user's own record is not touched"


def test_it_serves_until_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    child = _demo(tmp_path)
    assert child.stdout is not None
    for line in child.stdout:
        if "Serving until Ctrl-C" in line:
            break
    else:
        pytest.fail(f"it ended before it served: {child.communicate()[1]}")
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == 0
    assert list((tmp_path / "tmp").iterdir()) == []


def test_interrupted_half_way_it_leaves_nothing(tmp_path: Path) -> None:
    child = _demo(tmp_path, "--once")
    until = time.monotonic() + 20
    while not list((tmp_path / "tmp").glob("*/agent")):
        assert time.monotonic() < until
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode == 143
    assert list((tmp_path / "tmp").iterdir()) == []


def _round() -> shapes.Round:
    return shapes.Round(
        id="1",
        event="1",
        forge="review",
        project="p",
        number=189221,
        patchset=1,
        state="done",
        reason="",
        created="2026-01-01T00:00:00Z",
        ended=None,
        change=None,
        runs=(),
        report=None,
    )


def test_a_performance_without_runs_events_and_report_is_wrong_in_each() -> None:
    wrongs = Outcome(events=[], round=_round(), runs=[], reports=[], seconds=1.0).wrongs(REPLAYED)
    assert len(wrongs) == 4
    assert any("0 events" in wrong for wrong in wrongs)
    assert any("0 reports" in wrong for wrong in wrongs)


def test_a_taken_port_is_said_with_the_servers_own_words(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        child = _demo(tmp_path, "--once", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        _, err = child.communicate(timeout=30)
    assert child.returncode == 1
    assert "Address already in use" in err
    assert list((tmp_path / "tmp").iterdir()) == []
