"""What is shipped and what it needs: the wheel is whole, the lock is hashed, each dependency is explained."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGE, ROOT

HOSTS = "## Hosts of virtual machines"
LOCK = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
LOCKED = re.findall(r"^([a-z0-9-]+)==(\S+)(.*(?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)*)", LOCK, flags=re.MULTILINE)


def _direct() -> set[str]:
    """Names of everything that pyproject.toml asks for, itself left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0].lower() for line in asked} - {"paddock"}


def test_every_direct_dependency_is_locked() -> None:
    assert _direct() - {name for name, *_ in LOCKED} == set()


def test_every_locked_version_has_hashes() -> None:
    assert len(LOCKED) == LOCK.count("==") - LOCK.count(" == ") - LOCK.count("python_version ==")
    assert [name for name, _, rest in LOCKED if "--hash=sha256:" not in rest] == []


def test_the_lock_says_what_and_not_where_from() -> None:
    assert re.findall(r".*(?://|--index-url|--extra-index-url|--find-links|@ ).*", LOCK) == []


def test_every_direct_dependency_is_explained() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").partition(HOSTS)[0]
    explained = set(re.findall(r"^\| `([a-z0-9-]+)", page, flags=re.MULTILINE))
    assert explained == _direct()


def test_packages_that_hosts_of_virtual_machines_want_are_installed_for_the_tests() -> None:
    table = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").partition(HOSTS)[2]
    rows = re.findall(r"^\| (`[^|]+)\|", table, flags=re.MULTILINE)
    wanted = {package for row in rows for package in re.findall(r"`([a-z0-9-]+)`", row)}
    # util-linux is on every Debian, ZFS is tested where there is one.
    setup = (ROOT / "dev").read_text(encoding="utf-8").partition("host_setup() {")[2].partition("\n}")[0]
    assert len(wanted) >= 10
    assert wanted - {"util-linux", "zfsutils-linux"} - set(re.findall(r"[a-z0-9-]+", setup)) == set()


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    files = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "paddock/py.typed" in files
    assert files - shipped == set()
