"""An alert: one condition, told again until a person knows, over when its agent says so."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from paddock.core import alert as alerts
from paddock.core.alert import Alert, Level, State
from paddock.core.errors import Refused

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
FULL = Alert(id="1", agent="a1", name="disk:/", level=Level.WARNING, message="90 % full", at=NOW, told=NOW)


def again(alert: Alert, level: Level = Level.WARNING, message: str = "91 % full") -> Alert:
    return alerts.repeat(alert, level=level, subject="/", message=message, now=LATER)


def test_told_again_it_is_the_same_one_in_its_latest_words() -> None:
    told = again(FULL)
    assert (told.state, told.count, told.message, told.at, told.told) == (State.RAISED, 2, "91 % full", NOW, LATER)


def test_the_first_who_knows_stays_named() -> None:
    known = alerts.acknowledge(FULL, by="anna", now=LATER)
    assert (known.state, known.acknowledged_by, known.acknowledged) == (State.ACKNOWLEDGED, "anna", LATER)
    assert alerts.acknowledge(known, by="bo", now=LATER) == known
    assert again(known).state is State.ACKNOWLEDGED


def test_what_became_graver_than_what_a_person_knows_of_is_raised_anew() -> None:
    graver = again(alerts.acknowledge(FULL, by="anna", now=LATER), Level.ERROR)
    assert (graver.state, graver.acknowledged_by) == (State.RAISED, "")
    known = alerts.acknowledge(graver, by="anna", now=LATER)
    assert again(known, Level.ERROR).state is State.ACKNOWLEDGED
    assert again(known, Level.WARNING).state is State.ACKNOWLEDGED


def test_one_that_is_over_is_not_acknowledged_and_not_repeated() -> None:
    over = alerts.end(FULL, now=LATER)
    assert (over.state, over.ended, over.is_open) == (State.OVER, LATER, False)
    with pytest.raises(Refused):
        alerts.acknowledge(over, by="anna", now=LATER)
    with pytest.raises(Refused):
        again(replace(over))
