"""The state directory is the server's own, 0700, or it does not start."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddock import server
from paddock.core.errors import Broken, Refused


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_one_is_for_the_server_alone(tmp_path: Path) -> None:
    server._own(tmp_path / "a" / "state")
    assert mode(tmp_path / "a" / "state") == 0o700


@pytest.mark.parametrize("held", [(), ("archive", "operator.token", "paddock.sqlite-wal", "paddock.sqlite.lock")])
def test_one_that_is_open_to_others_is_closed_and_that_is_logged(
    tmp_path: Path, held: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o755)
    for name in held:
        (state / name).touch()
    with caplog.at_level(logging.WARNING):
        server._own(state)
    assert mode(state) == 0o700
    assert "state directory was open to others" in caplog.text


def test_one_that_holds_other_things_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "letters").touch()
    with pytest.raises(Refused, match="its mode is 0755, not 0700, and it holds 'letters'") as caught:
        server._own(tmp_path)
    assert f"chmod 700 {tmp_path}" in caught.value.hint
    assert mode(tmp_path) == 0o755


def test_one_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(Refused, match=f"it belongs to user {owner}, not to user {owner + 1}"):
        server._own(tmp_path)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_is_no_state_directory(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Broken, match=r"not a directory|Not a directory") as caught:
        server._own(tmp_path / place)
    assert caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("place", ["/proc/paddock", "file"])
def test_the_program_says_so_in_words_and_ends(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    file = tmp_path / "paddock.yaml"
    file.write_text(f"- server: {{listen: '127.0.0.1:0', state: {tmp_path / place}}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "paddock", "serve", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert f"paddock: server: state {tmp_path / place}: " in done.stderr
    assert "hint: name a directory of its own" in done.stderr
    assert "Traceback" not in done.stderr
