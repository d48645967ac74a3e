"""Core and wire are pure; every room imports what its list allows and nothing else."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGE, ROOT, imports, parse, room_modules
from tests.architecture.witness import Witness

# What computes, and touches nothing. A dotted entry allows one name of a module that can do more.
PURE = frozenset(
    """abc base64 binascii bisect collections copy dataclasses datetime decimal difflib enum fnmatch fractions functools
    graphlib hashlib heapq hmac html ipaddress itertools json keyword math operator pathlib.PurePath
    pathlib.PurePosixPath posixpath re shlex string textwrap types typing unicodedata urllib.parse zoneinfo""".split()
)
LOOP = PURE | {"asyncio", "contextlib", "logging"}
MACHINE = LOOP | frozenset(
    """array ctypes errno fcntl gc gzip io os pathlib platform pwd queue random resource secrets select selectors shutil
    signal socket ssl stat struct subprocess sys tarfile tempfile termios threading time uuid weakref zlib""".split()
)
ALLOWED = {
    "core": PURE | {"paddock.core"},
    "wire": PURE | {"paddock.core", "paddock.wire"},
    "hands": MACHINE | {"importlib", "websockets", "python_socks", "paddock.core", "paddock.wire", "paddock.hands"},
    # Result files are read where runs end; defusedxml reads them, ElementTree only names what it returns.
    "engine": LOOP
    | {"defusedxml", "xml.etree.ElementTree"}
    | {"paddock.core", "paddock.wire", "paddock.hands", "paddock.ports", "paddock.engine"},
    "agent": MACHINE
    | {
        "argparse",
        "concurrent.futures",
        "getpass",
        "grp",
        "http.client",
        "importlib",
        "lzma",
        "sqlite3",
        "traceback",
        "urllib.error",
        "urllib.request",
        "zipfile",
    }
    | {"websockets", "python_socks", "yaml", "paddock.core", "paddock.wire", "paddock.hands", "paddock.agent"},
    "client": MACHINE | {"httpx", "websockets", "paddock.core", "paddock.wire", "paddock.hands", "paddock.client"},
}
# The version and nothing else stands at the very top.
EVERYWHERE = frozenset({"__future__", "paddock.__version__"})

IMPURE_CALLS = frozenset(
    """__import__ breakpoint eval exec getenv getpid input now monotonic open perf_counter print random read_bytes
    read_text sleep time_ns today token_bytes token_hex token_urlsafe urandom utcnow uuid1 uuid4 write_bytes
    write_text""".split()
)
HEAVY = ("asyncio", "logging", "random", "socket", "sqlite3", "ssl", "subprocess")


def _is_allowed(name: str, allowed: frozenset[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:length]) in allowed for length in range(1, len(parts) + 1))


def _strangers(room: str, package: Path = PACKAGE) -> list[str]:
    allowed = ALLOWED[room] | EVERYWHERE
    return [
        str(found)
        for path in room_modules(room, package)
        for found in imports(path, parse(path), package)
        if not _is_allowed(found.full, allowed)
    ]


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_what_its_list_allows(room: str) -> None:
    assert _strangers(room) == []


@pytest.mark.parametrize(
    "line",
    [
        "import ftplib",
        "import os.path",
        "from pathlib import Path",
        "def read():\n    import socket",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import logging",
        "from paddock import ports",
        "from .. import ports",
        "from ..engine import loop",
        "import paddock.wire",
    ],
)
def test_the_list_of_core_refuses(tmp_path: Path, line: str) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "planted.py").write_text(line)
    assert len(_strangers("core", tmp_path)) == 1


def test_a_room_that_is_missing_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nothing to guard"):
        _strangers("core", tmp_path)


# ---- by shape --------------------------------------------------------------------------------------------------------


def _called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _dataclass_words(node: ast.ClassDef) -> set[str] | None:
    """The keywords that are true in a class's `@dataclass(...)`; None where it is no dataclass."""
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if "dataclass" in (getattr(target, "id", ""), getattr(target, "attr", "")):
            words = decorator.keywords if isinstance(decorator, ast.Call) else []
            return {word.arg or "" for word in words if isinstance(word.value, ast.Constant) and word.value.value}
    return None


def _impurities(path: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield f"{path.name}:{node.lineno}: waits"
            case ast.Global():
                yield f"{path.name}:{node.lineno}: has a global"
            case ast.Call() if _called(node) in IMPURE_CALLS:
                yield f"{path.name}:{node.lineno}: calls {_called(node)}"
            case ast.ClassDef():
                words = _dataclass_words(node)
                if words is not None and not {"frozen", "kw_only"} <= words:
                    yield f"{path.name}:{node.lineno}: {node.name} is not a frozen, keyword-only dataclass"


@pytest.mark.parametrize("room", ["core", "wire"])
def test_core_and_wire_are_pure_by_shape(room: str) -> None:
    assert [line for path in room_modules(room) for line in _impurities(path, parse(path))] == []


@pytest.mark.parametrize(
    "line",
    [
        "async def f(): pass",
        "def f():\n    global x",
        "def f(): return datetime.now(UTC)",
        "def f(): open('x')",
        "@dataclass\nclass A: pass",
        "@dataclass(frozen=True)\nclass A: pass",
        "@dataclasses.dataclass(frozen=False, kw_only=True)\nclass A: pass",
    ],
)
def test_an_impure_shape_is_seen(line: str) -> None:
    assert len(list(_impurities(Path("planted.py"), ast.parse(line)))) == 1


# ---- by experiment ---------------------------------------------------------------------------------------------------


def _loaded_by(modules: list[str]) -> set[str]:
    """What a fresh interpreter without site-packages has loaded after importing these."""
    program = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    program += "".join(f"import {name}\n" for name in modules)
    program += "print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_core_and_wire_load_nothing_heavy_and_nothing_installed() -> None:
    names = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for room in ("core", "wire")
        for path in room_modules(room)
    ]
    loaded = _loaded_by(names)
    assert set(names) <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_experiment_sees_what_is_heavy() -> None:
    assert "socket" in _loaded_by(["http.client"])


def _run_as(place: Path, code: str) -> list[str]:
    """What the witness says of code that claims to stand in a file of the package."""
    witness = Witness.installed()
    with witness.watching() as seen:
        exec(compile(code, str(place), "exec"), {})
    return seen


def test_the_witness_sees_the_core_open_a_file() -> None:
    seen = _run_as(PACKAGE / "core" / "planted.py", f"def f(): open({str(ROOT / 'dev')!r}).close()\nf()")
    assert seen
    assert seen[0].startswith("open")


def test_the_witness_sees_the_core_start_a_process_through_others() -> None:
    seen = _run_as(PACKAGE / "wire" / "planted.py", "import subprocess\nsubprocess.run(['true'])")
    assert any(event.startswith("subprocess.Popen") for event in seen)


def test_the_witness_lets_tests_open_files_and_the_core_be_imported() -> None:
    assert _run_as(ROOT / "tests" / "planted.py", f"open({str(ROOT / 'dev')!r}).close()") == []
    assert _run_as(PACKAGE / "core" / "planted.py", "import sys; sys.modules.pop('this', 0); import graphlib") == []
