"""What is shipped of the extension: everything, its entry point, and nothing that it needs beside Paddock."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import paddock_docker
from paddock.wire.methods import Method
from tests.wire.test_methods import test_a_row_keeps_the_rules_of_the_table as keeps_the_rules

HOME = Path(__file__).resolve().parents[3] / "extensions" / "docker"
FILES = sorted((HOME / "src").rglob("*.py"))


@pytest.mark.slow
def test_the_wheel_is_whole_and_names_the_skill(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(words, cwd=HOME, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        shipped = set(wheel.namelist())
        (notes,) = [name for name in shipped if name.endswith("entry_points.txt")]
        assert wheel.read(notes).decode().split() == ["[paddock.skills]", "docker", "=", "paddock_docker"]
    assert {file.relative_to(HOME / "src").as_posix() for file in FILES} - shipped == set()
    assert "paddock_docker/py.typed" in shipped


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_needs_paddock_and_the_standard_library_alone(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    rooms = ("paddock.agent", "paddock.core", "paddock.wire", "paddock_docker")
    others = {name for name in names if not name.startswith(rooms)}
    assert {name.partition(".")[0] for name in others} - sys.stdlib_module_names == set()
    assert "subprocess" not in others


@pytest.mark.parametrize("method", paddock_docker.METHODS, ids=lambda method: method.name)
def test_its_rows_keep_the_rules_of_the_table(method: Method) -> None:
    keeps_the_rules(method)
