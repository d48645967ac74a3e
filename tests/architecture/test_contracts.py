"""Each import contract is kept, and breaks when a violation of it is planted into a copy of the package."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGE, ROOT

pytestmark = pytest.mark.slow

# contract -> what is planted, so that this contract breaks: file below paddock/ -> its text.
PLANTED: dict[str, list[dict[str, str]]] = {
    "layers": [
        {"core/planted.py": "from paddock import ports\n"},
        {"wire/planted.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import paddock.hands\n"},
        {"hands/planted.py": "def late():\n    import paddock.ports\n"},
        {"engine/planted.py": "import paddock.adapters\n"},
        {"agent/planted.py": "import paddock.settings\n"},
        {"shed.py": ""},
    ],
    "strangers": [
        {"adapters/forges/planted.py": "", "adapters/stores/planted.py": "import paddock.adapters.forges.planted\n"}
    ],
    "wiring": [{"web/planted.py": "import paddock.adapters\n"}],
    "small": [{"agent/planted.py": "import paddock.ports\n"}, {"client/planted.py": "import paddock.engine\n"}],
    "pages": [
        {"web/planted.py": "import paddock.agent\n"},
        {"web/planted.py": "import paddock.client\n"},
        {"web/planted.py": "import paddock.testing\n"},
    ],
    "acyclic": [
        {
            "core/planted_hen.py": "import paddock.core.planted_egg\n",
            "core/planted_egg.py": "import paddock.core.planted_hen\n",
        }
    ],
}


def _contracts() -> set[str]:
    parser = ConfigParser()
    parser.read(ROOT / ".importlinter", encoding="utf-8")
    return {section.removeprefix("importlinter:contract:") for section in parser.sections() if ":contract:" in section}


def _lint(copy: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo", *options]
    return subprocess.run(command, cwd=copy, env={"PYTHONPATH": str(copy)}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, place / "paddock", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", place)
    return place


@pytest.fixture
def plant(copy: Path) -> Iterator[dict[str, str]]:
    """A place to put files into the copy; they are taken out again after the test."""
    planted: dict[str, str] = {}
    yield planted
    for name in planted:
        (copy / "paddock" / name).unlink()


def test_the_package_keeps_every_contract(copy: Path) -> None:
    done = _lint(copy)
    assert done.returncode == 0, done.stdout
    assert f"Contracts: {len(_contracts())} kept, 0 broken." in done.stdout


def test_no_contract_ignores_an_import() -> None:
    assert "ignore_imports" not in (ROOT / ".importlinter").read_text(encoding="utf-8")


def test_a_violation_of_every_contract_is_planted() -> None:
    assert set(PLANTED) == _contracts()


@pytest.mark.parametrize(
    ("contract", "files"),
    [
        pytest.param(name, files, id=f"{name}-{next(reversed(files)).removesuffix('.py')}")
        for name, each in PLANTED.items()
        for files in each
    ],
)
def test_a_planted_violation_breaks_its_contract(
    copy: Path, plant: dict[str, str], contract: str, files: dict[str, str]
) -> None:
    for name, text in files.items():
        place = copy / "paddock" / name
        assert place.parent.is_dir(), f"{place.parent.name}: there is nothing to guard"
        place.write_text(f'"""Planted."""\n{text}')
        plant[name] = text
    done = _lint(copy, "--contract", contract)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Contracts: 0 kept, 1 broken." in done.stdout or "shed" in done.stdout, done.stdout + done.stderr
