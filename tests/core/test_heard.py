"""What a line of Gerrit's stream is understood to say, and what is believed of a line that lies."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.core.event import Event, Heard, Kind
from paddock.core.heard import gap, understand

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REVISION = "1ab211d" + "0" * 33


def heard(raw: str) -> Heard:
    return Heard(forge="review", session="s1", position=7, at=AT, raw=raw)


def line(**changes: Any) -> dict[str, Any]:
    """A comment as Gerrit 2.8 writes it, with some parts replaced; None removes one."""
    said: dict[str, Any] = {
        "type": "comment-added",
        "author": {"name": "Dev", "username": "dev"},
        "change": {
            "project": "openstack-dev/ci-sandbox",
            "branch": "master",
            "number": "189221",
            "subject": "test",
            "owner": {"username": "owner"},
            "url": "https://review.example.org/189221",
        },
        "patchSet": {"number": "1", "ref": "refs/changes/21/189221/1", "revision": REVISION},
        "comment": "Patch Set 1:\n\nmy-ci recheck",
    }
    for path, value in changes.items():
        *parts, last = path.split("__")
        place = said
        for part in parts:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return said


def understood(**changes: Any) -> Event:
    return understand(heard(json.dumps(line(**changes))))


def test_a_line_of_gerrit_2_8_has_its_numbers_as_strings() -> None:
    event = understood()
    assert event.kind is Kind.COMMENT_ADDED
    assert event.change is not None
    assert (event.change.number, event.change.patchset, event.number) == (189221, 1, 189221)
    assert (event.change.project, event.change.branch) == ("openstack-dev/ci-sandbox", "master")
    assert (event.author, event.comment) == ("dev", "Patch Set 1:\n\nmy-ci recheck")
    assert (event.change.ref, event.change.revision) == ("refs/changes/21/189221/1", REVISION)
    assert (event.change.owner, event.change.url) == ("owner", "https://review.example.org/189221")


def test_a_line_of_gerrit_3_is_the_same_event() -> None:
    newer = understood(
        change__number=189221, change__branch="refs/heads/master", patchSet__number=1, eventCreatedOn=1433752243
    )
    assert newer.change == understood().change
    assert newer.kind is Kind.COMMENT_ADDED


def test_a_pushed_patch_set_is_its_uploaders() -> None:
    event = understood(type="patchset-created", author=None, comment=None, uploader={"username": "ann"})
    assert (event.kind, event.author, event.comment) == (Kind.PATCHSET_CREATED, "ann", "")


def test_the_line_and_its_key_are_kept() -> None:
    raw = json.dumps(line())
    event = understand(heard(raw))
    assert (event.id, event.forge, event.session, event.position, event.heard) == ("", "review", "s1", 7, AT)
    assert event.raw == raw


def test_a_gap_says_from_when_until_when_and_why() -> None:
    event = understand(heard(gap(since="2026-01-01T00:00:00+00:00", until="2026-01-01T00:01:00+00:00", why="cut")))
    assert (event.kind, event.type) == (Kind.GAP, "gap")
    assert event.comment == "not heard from 2026-01-01T00:00:00+00:00 until 2026-01-01T00:01:00+00:00: cut"


def test_another_type_is_kept_with_the_change_it_is_about() -> None:
    event = understood(type="change-merged", submitter={"username": "ann"}, author=None)
    assert (event.kind, event.type, event.number, event.author) == (Kind.OTHER, "change-merged", 189221, "ann")
    assert event.outcome == ""


def test_a_type_that_is_about_no_change_is_kept_with_its_project() -> None:
    event = understand(heard('{"type": "ref-updated", "refUpdate": {"project": "openstack/nova"}}'))
    assert (event.kind, event.type, event.project, event.number) == (Kind.OTHER, "ref-updated", "openstack/nova", 0)
    assert event.outcome == ""


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("", "no JSON"),
        ("half a li", "no JSON"),
        ('{"type": "comment-added", "change": {"proj', "no JSON"),
        ("[1]", "no JSON object"),
        ("17", "no JSON object"),
        ("[" * 100_000, "too deeply"),
        ('{"a":' * 100_000, "too deeply"),
        ('{"type": ' + "9" * 5000 + "}", "no JSON"),
        ("{}", "without a type"),
        ('{"type": ["comment-added"]}', "without a type"),
    ],
)
def test_a_line_that_cannot_be_read_says_why(raw: str, says: str) -> None:
    event = understand(heard(raw))
    assert event.kind is Kind.OTHER
    assert says in event.outcome
    assert event.raw == raw


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("change", None),
        ("comment", None),
        ("comment", ["recheck"]),
        ("author", "jenkins"),
        ("change", "189221"),
        ("patchSet", None),
        ("patchSet", []),
        ("change__number", None),
        ("change__number", "0"),
        ("change__number", "-1"),
        ("change__number", True),
        ("change__number", 1.5),
        ("change__number", 2**31),
        ("change__number", "9" * 4000),
        ("change__number", "١٢"),
        ("patchSet__number", {"of": 1}),
        ("patchSet__ref", None),
        ("patchSet__ref", "--upload-pack=touch /tmp/x"),
        ("patchSet__ref", "refs/changes/../../config"),
        ("patchSet__ref", "refs/changes/21/189221/1\nrefs/heads/x"),
        ("patchSet__revision", "HEAD"),
        ("patchSet__revision", "--all"),
        ("change__project", None),
        ("change__project", "--help"),
        ("change__project", "../../etc"),
        ("change__project", "/etc"),
        ("change__project", "a\x00b"),
        ("change__project", "a\x1b[31mb"),
        ("change__project", "\ud800"),
        ("change__project", "x" * 2000),
        ("change__branch", None),
        ("change__branch", ["master"]),
    ],
)
def test_a_change_that_cannot_be_used_names_the_field(path: str, value: object) -> None:
    event = understood(**{path: value})
    assert event.kind is Kind.OTHER
    assert event.change is None
    assert event.type == "comment-added"
    assert path.replace("__", ".") in event.outcome


def test_control_characters_in_words_become_visible() -> None:
    event = understood(comment="a\x00\x1b[2Jb\r\n\tc\ud800", change__subject="one\ntwo", author={"username": "e\x07ve"})
    assert event.change is not None
    assert event.comment == "a��[2Jb\n\tc�"
    assert (event.change.subject, event.author) == ("one two", "e�ve")


def test_a_url_that_is_not_of_the_web_is_left_out() -> None:
    event = understood(change__url="javascript:alert(1)")
    assert event.change is not None
    assert event.change.url == ""


def test_an_endless_comment_is_cut() -> None:
    assert len(understood(comment="x" * 1_000_000).comment) == 64 * 1024


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "change", "patchSet", "number", "project", "branch", "ref", "comment", "author"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=8,
    )
)
def test_nothing_that_json_can_say_raises(said: object) -> None:
    event = understand(heard(json.dumps(said)))
    assert event.change is None or event.change.number > 0
    for text in (event.type, event.author, event.comment, event.project, event.outcome):
        assert "\x00" not in text
        text.encode()


def test_a_value_that_is_nested_to_the_limit_is_named_not_shown() -> None:
    for depth in range(100, 1000, 7):
        raw = json.dumps(line()).replace('"189221"', "[" * depth + "]" * depth, 1)
        assert understand(heard(raw)).outcome in (
            "comment-added: change.number cannot be used: a list",
            "not read: nested too deeply",
        )


def test_what_no_database_takes_is_not_in_the_line_that_is_kept() -> None:
    assert understand(heard("\x00\ud800{")).raw == "\ufffd\ufffd{"


def test_marks_that_turn_text_around_become_visible() -> None:
    assert understood(author={"username": "snik\u202eneJ"}).author == "snik\ufffdneJ"


@given(st.text(st.characters()))
def test_no_text_raises(raw: str) -> None:
    event = understand(heard(raw))
    assert event.kind is Kind.OTHER
    assert "\x00" not in event.raw
