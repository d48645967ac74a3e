"""What the pages show as configuration is in order: who copies it has something that `paddock validate` takes."""

import re
import textwrap
from pathlib import Path

import pytest

from paddock.settings import read

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^( *)```yaml\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BESIDE = {
    "getting-started.md": """\
- host: {name: local, skills: [local]}
- environment: {name: two-machines, host: local, machines: [{name: one}, {name: two}]}
""",
}
"""What a page takes for granted, since an earlier page had it."""


def blocks(page: Path) -> list[str]:
    """Each block of YAML on a page, without the indentation of the list that it stands in."""
    return [textwrap.dedent(found[2]) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


SHOWING = [page for page in PAGES if blocks(page)]


def test_the_pages_of_virtual_machines_show_configuration() -> None:
    assert {"images.md", "environments.md", "getting-started.md"} <= {page.name for page in SHOWING}


@pytest.mark.parametrize("page", SHOWING, ids=lambda page: page.name)
def test_the_blocks_of_a_page_are_one_configuration_that_is_in_order(page: Path, tmp_path: Path) -> None:
    """Together, as who reads the page from its top writes them down: names are those of blocks before."""
    (tmp_path / "greeting.txt").write_text("welcome\n")
    text = BESIDE.get(page.name, "") + "\n".join(blocks(page))
    assert read(text, directory=tmp_path).configuration


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_link_of_a_page_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        other = (page.parent / name) if name else page
        assert other.exists(), f"{target} is not there"
        if heading:
            assert heading in headings(other), f"{target} is no heading"


def headings(page: Path) -> set[str]:
    """How the headings of a page are linked to."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
