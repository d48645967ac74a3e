"""What is not right in a settings file: each problem with its line and column."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paddock.core.errors import Refused

SHOWN_MAX = 60


@dataclass(frozen=True, kw_only=True, order=True)
class Mark:
    """A place in the file; both from 1, as editors count."""

    line: int
    column: int


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is not right. `where` is `file:line:column`, the message `<kind> <name>: <fact>`."""

    where: str
    mark: Mark
    message: str

    def __str__(self) -> str:
        return f"{self.where}  {self.message}"


class Invalid(Refused):
    """A settings file cannot be used. `problems` holds all that was found, in the order of the file."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0].where}: {problems[0].message}{more}", hint=f"paddock validate {name}")
        self.problems = tuple(problems)


def suggest(wrong: object, known: Iterable[str]) -> str:
    """` (did you mean "x"?)` where one of the known words is near, else ""."""
    near = difflib.get_close_matches(str(wrong), list(known), n=1, cutoff=0.6)
    return f' (did you mean "{near[0]}"?)' if near else ""


def show(value: object) -> str:
    """A value as a message quotes it: text in quotes, the rest as the file spells it, not too long."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            text = f'"{value}"'
        case None:
            return "nothing"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            text = str(value)
    text = "".join(char if char.isprintable() else "\ufffd" for char in text)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
