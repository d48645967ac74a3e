"""docs/states.md is what the tables say."""

from tools.docs import ROOT, draw_states, tables


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
    assert page == draw_states(), "run ./dev docs"


def test_the_drawing_names_every_transition() -> None:
    drawn = draw_states()
    assert tables()
    for name, table in tables().items():
        section = drawn.split(f"## {name}\n")[1].split("\n## ")[0]
        assert section.count(" --> ") == len(table.steps) + 1 + len(table.final)
        for (before, signal), after in table.steps.items():
            assert f"    {before} --> {after}: {signal}\n" in section
            assert f"| {before} | {signal} | {after} |\n" in section
