"""Asks a person for each value of a configuration, again where an answer cannot be meant.

Effects: none; it reads standard input and writes to standard output.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

from paddock.agent import enrolment
from paddock.agent.conf import Conf
from paddock.agent.ini import Name
from paddock.agent.keys import KEYS, Key, truth
from paddock.agent.settings import WrongUse
from paddock.core.errors import Refused

_ENOUGH = 20  # answers to one question; whoever feeds us a file does not read what was wrong
_TOO_MANY = f"configure: {_ENOUGH} answers to one question, none of them can be meant"


def ask(conf: Conf, check: Callable[[Key, str], None]) -> Iterator[tuple[Name, str]]:
    """Each key that has a question, with its answer. `check` may refuse a value for reasons of this machine.

    An empty answer takes the default, `-` empties it. WrongUse if the answers end before the questions.
    """
    for key in KEYS:
        if key.question:
            yield key.id, _answer(key, conf[f"{key.section}.{key.name}"], check)


def ask_base(default: str) -> str:
    """The base directory, which says whether there is a configuration already."""
    key = next(key for key in KEYS if key.id == ("storage", "base"))
    return _answer(replace(key, question="The directory that holds all of the agent"), default, lambda *_: None)


def confirm(question: str) -> str:
    """Yes or no."""
    key = Key(section="-", name="answer", doc="", check=truth, question=f"{question} (yes, no)")
    return _answer(key, "no", lambda *_: None)


def ask_code() -> str:
    """The enrolment code; empty if there is none yet."""
    question = "Enrolment code (`paddock host add NAME` makes one), if it is to enrol now: "
    for _ in range(_ENOUGH):
        said = _line(question)
        try:
            return enrolment.check(said, source="this") if said else ""
        except Refused as exc:
            _say(f"  {exc.message}\n  hint: {exc.hint}\n")
            question = "code: "
    raise WrongUse(_TOO_MANY)


def _answer(key: Key, default: str, check: Callable[[Key, str], None]) -> str:
    shown = f" [{default}]" if default else ""
    question = key.question
    for _ in range(_ENOUGH):
        said = _line(f"{question}{shown}: ")
        value = "" if said == "-" else said or default
        try:
            if not value.isprintable():
                raise Refused("it holds characters that do not print")
            found = key.check(value) if value else ""
            check(key, found)
            return found
        except Refused as exc:
            _say(f"  {exc.message}\n" + (f"  hint: {exc.hint}\n" if exc.hint else ""))
            question = key.name  # all of it was read once
    raise WrongUse(_TOO_MANY)


def _line(prompt: str) -> str:
    _say(prompt)
    line = sys.stdin.readline()
    if not line:
        _say("\n")
        raise WrongUse("configure: the answers ended before the questions", hint="options instead of -i: configure -h")
    return line.strip()


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
