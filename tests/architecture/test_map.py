"""docs/map.md is what the modules say, captions are captions, and there are no drawers."""

import re
import subprocess
from pathlib import Path

import pytest

from tools.docs import PACKAGE, ROOT, caption, draw_map, modules

DRAWERS = {"utils", "util", "common", "helpers", "helper", "misc", "base", "types", "models", "manager", "managers"}
LONGEST = 90


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    assert page == draw_map(), "run ./dev docs"


def test_the_map_has_a_line_for_every_module() -> None:
    drawn = draw_map()
    # An entrance is drawn as the caption of its room, if it is the room's own.
    inner = [
        path for path in modules() if path.name != "__init__.py" or path.parent.parent not in (PACKAGE, ROOT / "src")
    ]
    assert inner
    for path in inner:
        assert f"- `{path.relative_to(PACKAGE).as_posix()}`: {caption(path)}\n" in drawn


@pytest.mark.parametrize("module", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_caption_is_one_line_that_ends_with_a_full_stop(module: Path) -> None:
    first = caption(module)
    assert first.endswith("."), f"{first!r} does not end with a full stop"
    assert len(first) <= LONGEST, f"{first!r} has {len(first)} characters"


def test_no_file_is_a_drawer() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    assert Path("pyproject.toml") in files
    named = {re.sub(r"^test_|_test$", "", part) for path in files for part in path.with_suffix("").parts}
    assert named.isdisjoint(DRAWERS)
