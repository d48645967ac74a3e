"""Patterns of relative paths."""

import pytest

from paddock.agent.skills.globs import matches, split


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("result.xml", "result.xml"),
        ("result.xml", "*.xml"),
        ("result.xml", "**/*.xml"),
        ("a/b/result.xml", "**/*.xml"),
        ("logs/a", "logs/**"),
        ("logs/a/b/c", "logs/**"),
        ("logs/a/b/c", "logs/**/c"),
        ("logs/c", "logs/**/c"),
        ("a/b", "./a//b"),
        (".hidden", "*"),
        ("x/1/y", "x/[0-9]/y"),
        ("anything/at/all", "**"),
    ],
)
def test_it_fits(path: str, pattern: str) -> None:
    assert matches(path.split("/"), [split(pattern)])


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("a/result.xml", "*.xml"),
        ("logs", "logs/**"),
        ("result.XML", "*.xml"),
        ("a/b/c", "a/*"),
        ("a", "../a"),
        ("a", ""),
        ("a/b", "**/b/c"),
    ],
)
def test_it_does_not_fit(path: str, pattern: str) -> None:
    assert not matches(path.split("/"), [split(pattern)])


def test_many_stars_do_not_blow_up() -> None:
    assert not matches(["a"] * 60, [split("**/" * 60 + "b")])
