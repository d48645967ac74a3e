"""Skills of other packages: found where they are installed, loaded unasked by a host's agent, left out when broken."""

import logging
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from paddock.agent import skills
from paddock.core.errors import Broken, Refused

GOOD = """
from paddock.core.access import Role
from paddock.wire.methods import Effect, Method, Toward

METHODS = (
    Method(name="{name}.ask", caption="Ask.", toward=Toward.AGENT, effect=Effect.READ, role=Role.PERSON),
)


def methods(place):
    return {{}}
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that packages are installed into, and that nothing else is in."""
    (tmp_path / "packages").mkdir()
    standard = [place for place in sys.path if "site-packages" not in place and not Path(place, ".venv").exists()]
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages"), *standard])
    return tmp_path / "packages"


def install(packages: Path, name: str, text: str) -> None:
    """As pip would: the module, and beside it what the distribution says of itself."""
    module = f"skill_of_{name}"
    (packages / f"{module}.py").write_text(text)
    notes = packages / f"{module}-1.0.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (notes / "entry_points.txt").write_text(f"[{skills.GROUP}]\n{name} = {module}\n")
    sys.modules.pop(module, None)


def test_what_is_installed_is_usual_and_known_by_name(packages: Path) -> None:
    assert skills.usual(("script",)) == ("script",)
    install(packages, "lamps", GOOD.format(name="lamps"))
    assert skills.usual(("script",)) == ("script", "lamps")
    assert "lamps.ask" in skills.rows(["lamps"])
    with pytest.raises(Refused, match="horns: no such skill"):
        skills.known(["horns"])


def test_what_is_found_is_what_python_itself_finds() -> None:
    points = entry_points(group=skills.GROUP)
    assert skills.installed() == {point.name: point.value for point in points}
    assert skills.installed()["docker"] == "paddock_docker"


def test_only_lines_of_the_group_are_read(packages: Path) -> None:
    install(packages, "lamps", GOOD.format(name="lamps"))
    lines = [
        "[console_scripts]",
        "other = nowhere:main",
        "",
        f"[{skills.GROUP}]",
        "# old = gone",
        "lamps=skill_of_lamps",
    ]
    (packages / "skill_of_lamps-1.0.dist-info" / "entry_points.txt").write_text("\n".join([*lines, "[x]", "y = z", ""]))
    assert skills.installed() == {"lamps": "skill_of_lamps"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import nothing_of_that_name", "No module named"),
        ("raise RuntimeError('not today')", "not today"),
        ("METHODS = 7", "not iterable"),
        (GOOD.format(name="script"), "is not a method of its own"),
    ],
)
def test_one_that_cannot_be_loaded_is_told_and_left_out(
    packages: Path, text: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    install(packages, "horns", text)
    install(packages, "lamps", GOOD.format(name="lamps"))
    with caplog.at_level(logging.ERROR):
        assert skills.usual(("script",)) == ("script", "lamps")
    (record,) = caplog.records
    assert (record.getMessage(), vars(record)["skill"]) == ("a skill that is installed is left out", "horns")
    assert why in vars(record)["why"]


def test_one_that_was_asked_for_by_name_and_cannot_be_loaded_is_broken(packages: Path) -> None:
    install(packages, "horns", "import nothing_of_that_name")
    with pytest.raises(Broken, match="skill horns: No module named"):
        skills.rows(["horns"])


def test_a_skill_that_takes_a_name_of_paddocks_own_is_not_seen(packages: Path) -> None:
    install(packages, "script", GOOD.format(name="script"))
    assert skills.usual(("script",)) == ("script",)


def test_an_archive_is_looked_into_too(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    install(packages, "lamps", GOOD.format(name="lamps"))
    archive = packages.parent / "all.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        for path in packages.rglob("*"):
            file.write(path, path.relative_to(packages))
    monkeypatch.setattr(sys, "path", [str(archive), *sys.path[1:]])
    assert skills.usual(()) == ("lamps",)
