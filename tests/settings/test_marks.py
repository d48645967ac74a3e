"""YAML is read as plain values with their places; what is dangerous or ambiguous in it is refused."""

import pytest

from paddock.settings.marks import SIZE_MAX, VALUES_MAX, read
from paddock.settings.problems import Mark


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on: yes", {"on": "yes"}),
        ("{true: 1, 2: x}", {"true": 1, "2": "x"}),
        ("[true, True, false, null, ~, 7, -7, 010, 0x10, 1.10, 1e3, 2026-05-01, 12:30]",
         [True, "True", False, None, None, 7, -7, "010", "0x10", "1.10", "1e3", "2026-05-01", "12:30"]),
        ("['7', \"true\"]", ["7", "true"]),
        ("[&a {x: 1}, *a]", [{"x": 1}, {"x": 1}]),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
    ],
)  # fmt: skip
def test_only_true_false_null_and_whole_numbers_are_more_than_text(text, value):
    document = read(text)
    assert (document.value, document.found) == (value, ())


def test_each_value_and_each_key_has_its_place():
    document = read("- a:\n    b: [1, 22]\n")
    assert document.mark((0, "a", "b", 1)) == Mark(line=2, column=12)
    assert document.mark((0, "a", "b"), key=True) == Mark(line=2, column=5)
    assert document.mark((0, "a", "missing", 3)) == Mark(line=2, column=5)


@pytest.mark.parametrize(
    ("text", "line", "column", "fact"),
    [
        ("a: 1\na: 2", 2, 1, 'key "a" stands here twice, first in line 1'),
        ("a: !!python/name:os.system x", 1, 4, "is not taken here"),
        ("a: !!bool on", 1, 4, 'tag "bool" is not taken here'),
        ("[a, b]: c", 1, 1, "a key is a word, not a list or a mapping"),
        ("a: [", 1, 5, "not YAML: "),
        ("a: b\n\tc: d", 2, 1, "not YAML: "),
        ("a: b\n---\nc: d", 2, 1, "not YAML: "),
        ("a: *b", 1, 4, "not YAML: "),
        ("ab: \x07", 1, 5, "not YAML: character U+0007"),
        ("", 1, 1, "empty"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text, line, column, fact):
    mark, told = read(text).found[0]
    assert (mark, fact in told) == (Mark(line=line, column=column), True), told


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "[" * 30 + "]" * 30,
        "[" * 100_000,
    ],
)
@pytest.mark.slow
def test_what_would_grow_without_end_is_refused_once(text):
    found = read(text).found
    assert len(found) == 1
    assert f"nested deeper than 20 levels or more than {VALUES_MAX} values" in found[0][1] or (
        found[0][1] == "nested deeper than 20 levels"
    )


def test_a_file_of_more_than_its_size_is_not_parsed():
    assert read("x" * (SIZE_MAX + 1)).found == ((Mark(line=1, column=1), "longer than 1024 KiB"),)
