"""No adapter without the suite of its port, and no port without a suite and a stand-in."""

import ast
import inspect
from pathlib import Path

import pytest

import paddock.adapters
from paddock import ports, testing

HERE = Path(__file__).resolve().parent
ADAPTERS = Path(paddock.adapters.__path__[0])
SUITES = {
    "stores": "test_store.py",
    "archives": "test_archive.py",
    "forges": "test_forges.py",
    "links": "test_links.py",
    "clocks": "test_clock.py",
    "chances": "test_chance.py",
}
"""Room below `adapters` → the suite that each adapter there passes."""
PORTS = {
    "Store": "stores",
    "Archive": "archives",
    "Forge": "forges",
    "Links": "links",
    "Clock": "clocks",
    "Chance": "chances",
}
INSIDE = {"Row", "Rows", "History", "Tables", "Desk"}
"""Protocols that are no ports of their own: what a store gives to a step, and what the hub asks of the engine."""


def adapters() -> list[tuple[str, str]]:
    """Every adapter, by room and name, that implements its room's port."""
    found = []
    for room in sorted(path for path in ADAPTERS.iterdir() if path.is_dir() and path.name != "__pycache__"):
        for path in sorted(room.iterdir()):
            if path.suffix == ".py" or (path / "__init__.py").exists():
                found.append((room.name, path.stem))
    return [(room, name) for room, name in found if name != "__init__"]


def imported(suite: Path) -> set[str]:
    """The modules that a suite, or the places it runs on, imports."""
    found: set[str] = set()
    for path in (suite, HERE / "places.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                found.add(node.module)
    return found


@pytest.mark.parametrize(("room", "name"), adapters())
def test_every_adapter_passes_the_suite_of_its_port(room: str, name: str) -> None:
    assert room in SUITES, f"adapters/{room}: make its suite and name it in SUITES"
    module = f"paddock.adapters.{room}.{name}"
    source = ADAPTERS / room / f"{name}.py"
    if source.exists() and not _implements(source, room):
        return
    assert any(one == module or one.startswith(f"{module}.") for one in imported(HERE / SUITES[room])), (
        f"{module}: add it to the list in tests/contracts/{SUITES[room]}"
    )


def test_every_port_has_a_suite_and_a_stand_in() -> None:
    protocols = {
        name
        for name, value in vars(ports).items()
        if inspect.isclass(value) and value.__module__ == ports.__name__ and getattr(value, "_is_protocol", False)
    }
    assert protocols == set(PORTS) | INSIDE
    stand_ins = set(testing.__all__)
    for port in PORTS:
        assert {f"Fake{port}", f"Memory{port}"} & stand_ins, f"testing has no stand-in for {port}"
        assert (HERE / SUITES[PORTS[port]]).exists()


def _implements(source: Path, room: str) -> bool:
    """Whether a module has a class with the methods of its room's port, rather than a part of another adapter."""
    (port,) = (name for name, its in PORTS.items() if its == room)
    wanted = {name for name, value in vars(getattr(ports, port)).items() if inspect.isfunction(value)} - {"__init__"}
    wanted = {name for name in wanted if not name.startswith("_")}
    classes = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)]
    return any(
        wanted <= {node.name for node in each.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        for each in classes
    )
