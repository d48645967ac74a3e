"""The big real parts that the large tests share, each started once and only where it can run."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import guest
from tests.e2e.guest import Guest, running
from tools import gerrit as tool
from tools.guest import Image
from tools.maven import Unavailable

DISKS = {"blank-1": "512M", "SAFE": "200M", "GROWS": "200M", "OURS": "100M"}


@pytest.fixture(scope="session")
def gerrit() -> Iterator[tool.Gerrit]:
    """A real Gerrit; skipped with the reason where none can run."""
    try:
        with tool.running() as started:
            yield started
    except Unavailable as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def guest_image() -> Image:
    """The Debian that guests boot; skipped with the reason where none can be built or run."""
    try:
        return guest.shared_image()
    except Unavailable as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def common_guest(guest_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """One that is up, for all who leave it as good as they found it. Its disks are called for who uses them."""
    with running(tmp_path_factory.mktemp("common") / "guest", guest_image, disks=DISKS) as started:
        yield started


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole agent in one file, made as an operator makes it."""
    path = tmp_path_factory.mktemp("bundle") / "paddock-agent.pyz"
    command = [sys.executable, "-m", "paddock", "agent", "bundle", "--output", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return path
