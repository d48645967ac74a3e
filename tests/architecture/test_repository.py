"""What the repository's files may say: changelog fragments, and nothing about the machine they were written on."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.architecture.source import ROOT

FRAGMENT = re.compile(r"(Fix|Add|Change): \S.*[^.\s]$")


def _files() -> Iterator[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            yield ROOT / name


def _fragments() -> list[Path]:
    return sorted(path for path in (ROOT / "changelog" / "unreleased").iterdir() if path.name != ".gitkeep")


@pytest.mark.parametrize("fragment", _fragments(), ids=lambda path: path.name)
def test_a_fragment_is_named_after_its_issue_and_says_fix_add_or_change(fragment: Path) -> None:
    assert re.fullmatch(r"[0-9]+(-[a-z0-9-]+)?", fragment.name)
    first = fragment.read_text(encoding="utf-8").splitlines()[0]
    assert FRAGMENT.fullmatch(first), first


@pytest.mark.parametrize("line", ["Added: a thing", "fix: a thing", "Fix:", "Add: a thing."])
def test_a_fragment_of_another_shape_is_refused(line: str) -> None:
    assert FRAGMENT.fullmatch(line) is None


def _registries() -> set[str]:
    """The hosts that this machine's pip was told to fetch from, if it was told."""
    told = " ".join(value for name, value in os.environ.items() if re.match(r"(PIP|UV)_.*(INDEX|LINKS)", name))
    for place in (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"):
        if place.is_file():
            told += " " + place.read_text(encoding="utf-8", errors="replace")
    hosts = {urlsplit(url).hostname or "" for url in re.findall(r"https?://\S+", told)}
    return hosts - {"", "localhost", "127.0.0.1", "::1"}


def test_no_file_names_this_machine() -> None:
    """Neither the place of this checkout nor the registry that it was installed from."""
    forbidden = _registries()
    if len(ROOT.parts) > 2:
        forbidden.add(str(ROOT))
    read = 0
    for path in _files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        read += 1
        assert [word for word in forbidden if word in text] == [], path
    assert read > 10
