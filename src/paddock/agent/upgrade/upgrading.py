"""One program takes the place of another, and gives it back if it is not welcome.

Effects: journaled by one file in the state directory.

`switching`  noted before the new program is put under the service's name; whoever starts then, by whatever hand, counts
             the start, and has `within` seconds to be welcome. Three starts without that, or the time over: `back`.
`settled`    the server took its hello: it stays.
`back`       noted, with the reason, before the old program is put back; whoever finds the new one still there puts it
             back then. So at each moment the file tells which of both programs should be there.
"""

import logging
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from paddock.agent import durable
from paddock.agent.life import Life
from paddock.agent.upgrade import program
from paddock.agent.upgrade.program import Program
from paddock.hands import faults

_log = logging.getLogger(__name__)

FILE = "upgrade"
SWITCHING, SETTLED, BACK = "switching", "settled", "back"
_STARTS = 3
_AGAIN = 5.0  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Journal:
    """`before` and `wanted` are digests of programs, `version` what the one before said of itself."""

    task: str
    step: str
    before: str
    wanted: str
    version: str
    within: float
    starts: int = 0
    why: str = ""


def load(state: Path) -> Journal | None:
    """How far the last one came; None if there was none, or if it was reported."""
    found: Any = durable.read(state / FILE)
    try:
        return Journal(**found) if isinstance(found, dict) else None
    except TypeError:
        return None  # of a program that is much older or newer than this one


def forget(state: Path) -> None:
    """It was reported."""
    durable.remove(state / FILE)


def switch(state: Path, this: Program, journal: Journal) -> None:
    """Put the new program where the service starts it; it is not started yet. Raises OSError, then nothing changed."""
    faults.at("upgrade.noting")
    _write(state, journal)
    faults.at("upgrade.noted")
    try:
        this.put(journal.wanted)
    except OSError:
        forget(state)
        raise
    faults.at("upgrade.switched")


def enter(state: Path, life: Life, words: tuple[str, ...]) -> None:
    """At each birth, before anything that a new program might not be able to do. May not return: as the old program.

    `words` is the rest of this process's command line.
    """
    journal, this = load(state), program.running()
    if journal is None or this is None or journal.step == SETTLED or program.digest(this.path) != journal.wanted:
        return
    watch = Watch(state, this, life, words, journal)
    try:
        if journal.step == BACK:
            watch.give_back(journal.why)
        if journal.starts >= _STARTS:
            watch.give_back(f"was started {journal.starts} times, and the server took no hello of it")
        watch.begin()
    except OSError as exc:
        # A full disk: better the new program than none.
        _log.error("the old program cannot be put back", extra={"why": str(exc)})


class Watch:
    """Over a new program, from its birth until it is welcome."""

    def __init__(self, state: Path, this: Program, life: Life, words: tuple[str, ...], journal: Journal) -> None:
        self._state = state
        self._this = this
        self._life = life
        self._words = words
        self._journal = replace(journal, starts=journal.starts + 1)
        # The timer's thread and the loop's may come to their ends in the same moment: one of them only.
        self._deciding = threading.Lock()
        self._is_decided = False

    def begin(self) -> None:
        """Count this start; from now on the time runs."""
        _write(self._state, self._journal)
        timer = threading.Timer(self._journal.within, self._give_up)
        timer.daemon = True
        timer.start()

        def settle() -> None:
            with self._deciding:
                if not self._is_decided:
                    self._is_decided = True
                    timer.cancel()
                    faults.at("upgrade.settling")
                    try:
                        _write(self._state, replace(self._journal, step=SETTLED))
                    except OSError as exc:
                        _log.error("an upgrade cannot be noted", extra={"why": str(exc)})
                    faults.at("upgrade.settled")

        self._life.at_welcome(settle)

    def give_back(self, why: str) -> None:
        """Put the old program back, and become it."""
        _log.error("the new program gives way to the old one", extra={"why": why})
        faults.at("upgrade.giving_back")
        _write(self._state, replace(self._journal, step=BACK, why=why))
        faults.at("upgrade.given_up")
        self._this.put(self._journal.before)
        faults.at("upgrade.given_back")
        self._life.successor = (*self._this.words(), *self._words)
        self._life.succeed()

    def _give_up(self) -> None:
        with self._deciding:
            if self._is_decided:
                return
            self._is_decided = True
        while True:
            try:
                self.give_back(f"the server took no hello of it within {self._journal.within:g} s")
            except OSError as exc:
                _log.error("the old program cannot be put back yet", extra={"why": str(exc)})
                time.sleep(_AGAIN)


def _write(state: Path, journal: Journal) -> None:
    durable.write(state / FILE, asdict(journal))
