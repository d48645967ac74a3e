"""What a line of Gerrit's event stream says, in the shapes of 2.8 and of 3.x.

Whoever wrote the line is a stranger: `understand` never raises, believes nothing that it has not checked, and keeps the
line itself, so that nothing is lost. Gerrit 2.8 writes numbers as strings and branches as `master`; 3.x writes integers
and, in places, `refs/heads/master`.
"""

import json
import re
from collections.abc import Mapping
from typing import TypeGuard

from paddock.core.event import Change, Event, Heard, Kind
from paddock.core.redaction import redact

Said = Mapping[str, object]

# Stores and forges keep such numbers in 32 bits.
_MOST = 2**31 - 1
_LONGEST_NAME = 1000
_LONGEST_COMMENT = 64 * 1024
_REF = re.compile(r"refs/[\w./+@-]+")
_REVISION = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PROJECT = re.compile(r"[^\s/~:?*\\\"'<>|-][^\s:?*\\\"'<>|]*")
# NUL cannot be stored, escape codes speak to a terminal, half a surrogate pair cannot be written as UTF-8.
# Marks of direction make a page or a terminal show another text than the one that is compared.
_UNSPEAKABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
# Who did it, by the names that the kinds of events give it.
_ACTORS = ("author", "uploader", "submitter", "abandoner", "restorer", "changer", "editor", "deleter", "reviewer")


class _Unread(Exception):
    """Why a line, or what it says about a change, cannot be used."""


def understand(heard: Heard) -> Event:
    """The event that a line is, with an empty id. What cannot be read is of kind OTHER, and `outcome` says why."""
    try:
        said = _parse(heard.raw)
    except _Unread as exc:
        return _event(heard, kind=Kind.OTHER, outcome=str(exc))
    name = _name(said.get("type"))
    if name == Kind.GAP:
        return _event(heard, kind=Kind.GAP, type=name, comment=_gap(said))
    author = _author(said)
    comment = _clean(said.get("comment"), limit=_LONGEST_COMMENT)
    try:
        change = _change(heard.forge, said)
        _check_words(name, said)
    except _Unread as exc:
        return _event(
            heard,
            kind=Kind.OTHER,
            type=name,
            author=author,
            comment=comment,
            project=_mentioned_project(said),
            number=_mentioned_number(said),
            outcome=f"{name or 'a line without a type'}: {exc}" if name in _ACTED_ON or not name else "",
        )
    return _event(
        heard,
        kind=_ACTED_ON.get(name, Kind.OTHER),
        type=name,
        author=author,
        comment=comment,
        change=change,
        project=change.project,
        number=change.number,
        outcome="" if name else "a line without a type",
    )


def gap(*, since: str, until: str, why: str) -> str:
    """The line that stands for the time in which a stream was not heard; moments are ISO 8601, in UTC."""
    return json.dumps({"type": Kind.GAP.value, "from": since, "until": until, "why": why})


_ACTED_ON = {kind.value: kind for kind in (Kind.PATCHSET_CREATED, Kind.COMMENT_ADDED)}


def _event(
    heard: Heard,
    *,
    kind: Kind,
    type: str = "",
    author: str = "",
    comment: str = "",
    change: Change | None = None,
    project: str = "",
    number: int = 0,
    outcome: str = "",
) -> Event:
    return Event(
        id="",
        forge=heard.forge,
        session=heard.session,
        position=heard.position,
        heard=heard.at,
        kind=kind,
        type=type,
        # As it came, but for secrets, which are shown to nobody from here on, and for what no database takes: such a
        # line is no JSON anyway, or was no UTF-8.
        raw=redact(_UNSTORABLE.sub("\ufffd", heard.raw)),
        author=author,
        comment=redact(comment),
        change=change,
        project=project,
        number=number,
        outcome=outcome,
    )


def _parse(raw: str) -> Said:
    try:
        said: object = json.loads(raw)
    except RecursionError:
        raise _Unread("not read: nested too deeply") from None
    except ValueError as exc:
        raise _Unread(f"not read: no JSON ({_clean(str(exc), limit=200)})") from None
    if not _is_mapping(said):
        raise _Unread("not read: no JSON object")
    return said


def _change(forge: str, said: Said) -> Change:
    change, patchset = _part(said, "change"), _part(said, "patchSet")
    ref, revision = patchset.get("ref"), patchset.get("revision")
    # These three reach git's command line and paths: whatever could be an option or a way out is no name.
    if not isinstance(ref, str) or not _REF.fullmatch(ref) or ".." in ref:
        raise _Unread(_lack("patchSet.ref", ref))
    if not isinstance(revision, str) or not _REVISION.fullmatch(revision):
        raise _Unread(_lack("patchSet.revision", revision))
    if not (project := _project(change.get("project"))):
        raise _Unread(_lack("change.project", change.get("project")))
    branch = _name(change.get("branch")).removeprefix("refs/heads/")
    if not branch:
        raise _Unread(_lack("change.branch", change.get("branch")))
    return Change(
        forge=forge,
        project=project,
        branch=branch,
        number=_number(change, "change.number"),
        patchset=_number(patchset, "patchSet.number"),
        ref=ref,
        revision=revision,
        subject=_name(change.get("subject")),
        url=_url(change.get("url")),
        owner=_username(change.get("owner")),
    )


def _check_words(name: str, said: Said) -> None:
    """Without the words of a comment, or with an author that is nobody, there is nothing to judge an event by."""
    if name not in _ACTED_ON:
        return
    if name == Kind.COMMENT_ADDED and not isinstance(said.get("comment"), str):
        raise _Unread(_lack("comment", said.get("comment")))
    for actor in ("author", "uploader"):
        if said.get(actor) is not None:
            _part(said, actor)


def _part(said: Said, name: str) -> Said:
    part = said.get(name)
    if not _is_mapping(part):
        raise _Unread(_lack(name, part))
    return part


def _number(said: Said, path: str) -> int:
    number = _as_number(said.get("number"))
    if number is None:
        raise _Unread(_lack(path, said.get("number")))
    return number


def _as_number(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST:
        return value
    return None


def _lack(path: str, value: object) -> str:
    if value is None:
        return f"no {path}"
    # Never the repr of a list or an object: one that is nested deeply enough does not come back from it.
    match value:
        case dict():
            shown = "an object"
        case list():
            shown = "a list"
        case _:
            shown = _clean(repr(value), limit=80)
    return f"{path} cannot be used: {shown}"


def _project(value: object) -> str:
    name = value if isinstance(value, str) else ""
    usable = len(name) <= _LONGEST_NAME and _PROJECT.fullmatch(name) and ".." not in name
    return name if usable and not _UNSPEAKABLE.search(name) else ""


def _mentioned_project(said: Said) -> str:
    """The project of an event that is about no patch set: `change.project`, `refUpdate.project` or its own."""
    for part in (said.get("change"), said.get("refUpdate"), said):
        if _is_mapping(part) and (project := _project(part.get("project"))):
            return project
    return ""


def _mentioned_number(said: Said) -> int:
    change = said.get("change")
    return (_as_number(change.get("number")) or 0) if _is_mapping(change) else 0


def _author(said: Said) -> str:
    return next((name for actor in _ACTORS if (name := _username(said.get(actor)))), "")


def _username(value: object) -> str:
    return _name(value.get("username")) if _is_mapping(value) else ""


def _url(value: object) -> str:
    """Pages make a link of it, so nothing but the web will do."""
    url = _name(value)
    return url if url.startswith(("http://", "https://")) else ""


def _gap(said: Said) -> str:
    since, until = _name(said.get("from")), _name(said.get("until"))
    return f"not heard from {since} until {until}: {_name(said.get('why'))}"


def _name(value: object) -> str:
    """One line of text."""
    return " ".join(_clean(value, limit=_LONGEST_NAME).splitlines())


def _clean(value: object, *, limit: int) -> str:
    return _UNSPEAKABLE.sub("\ufffd", value.replace("\r\n", "\n")[:limit]) if isinstance(value, str) else ""


def _is_mapping(value: object) -> TypeGuard[Said]:
    return isinstance(value, dict)
