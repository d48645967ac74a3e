"""The guest's image: built by one, waited for by the others, never half there."""

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tools import guest as tool
from tools.maven import Unavailable


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, on a machine that could build."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tool, "_require", lambda: None)
    return tmp_path / "paddock"


def test_an_image_is_built_by_one_and_waited_for_by_the_other(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    building, goes_on, built = threading.Event(), threading.Event(), []

    def build(place: Path) -> None:
        building.set()
        assert goes_on.wait(10)
        built.append(place)
        place.mkdir()

    monkeypatch.setattr(tool, "_build", build)
    both = [threading.Thread(target=tool.image) for _ in range(2)]
    for one in both:
        one.start()
    assert building.wait(10)
    assert not list(cache.glob("guest-*/"))
    goes_on.set()
    for one in both:
        one.join(10)
    assert built == [cache / f"guest-{tool.recipe()}"]


def test_what_failed_half_way_has_no_name_and_the_next_one_builds(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(root: Path, packages: Iterable[str]) -> None:
        root.mkdir()
        raise tool.Failed("no mirror")

    monkeypatch.setattr(tool, "install", fail)
    for _ in range(2):
        with pytest.raises(tool.Failed, match="no mirror"):
            tool.image()
        assert [path.name for path in cache.iterdir()] == ["guest.lock"]


def test_images_that_nobody_uses_and_halves_go_when_the_next_is_built(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "_build", Path.mkdir)
    for name in ("guest-old", "guest-young", "making-guest-half"):
        (cache / name).mkdir(parents=True)
    os.utime(cache / "guest-old", (0, time.time() - tool.UNUSED - 1))
    tool.image()
    left = {path.name for path in cache.iterdir() if path.is_dir()}
    assert left == {"guest-young", f"guest-{tool.recipe()}"}


def test_whoever_is_not_root_is_told_what_root_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda tool, path: tool)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match=r"as root: python -m tools\.guest"):
        tool.image()


def test_a_machine_without_the_tools_is_told_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("shutil.which", lambda tool, path: None)
    with pytest.raises(Unavailable, match="apt-get install mmdebstrap"):
        tool.image()
