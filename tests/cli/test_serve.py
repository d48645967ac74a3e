"""`paddock serve`: what keeps it from starting is said by a line, a hint and an exit code."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.cli.stage import examples

pytestmark = pytest.mark.slow


def serve(tmp_path: Path, *options: str, store: str = "") -> "subprocess.CompletedProcess[str]":
    kept = [line for line in (examples() / "demo" / "paddock.yaml").read_text().splitlines() if "server:" not in line]
    more = f', store: "{store}"' if store else ""
    server = f'- server: {{listen: "127.0.0.1:0", state: {tmp_path / "state"}{more}}}'
    (tmp_path / "paddock.yaml").write_text("\n".join([server, *kept]) + "\n")
    return subprocess.run(
        [sys.executable, "-m", "paddock", "serve", str(tmp_path / "paddock.yaml"), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "xdg")},
    )


def test_a_port_that_is_taken_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = serve(tmp_path, "--listen", address)
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        f"paddock: server: {address}: Address already in use",
        "hint: paddock serve --listen 127.0.0.1:0 takes any port",
    ]


def test_a_database_that_is_not_there_is_unreachable_and_said_in_one_line(tmp_path: Path) -> None:
    done = serve(tmp_path, store="postgresql://anna:secret@127.0.0.1:9/paddock")
    assert done.returncode == 5
    first, hint = done.stderr.splitlines()
    assert first.startswith("paddock: postgresql://anna:***@127.0.0.1:9/paddock: connection failed")
    assert hint == "hint: is PostgreSQL running? server.store says where it is"
    assert "\ufffd" not in first
