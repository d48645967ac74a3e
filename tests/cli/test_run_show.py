"""`paddock run show` says that what a failed run had is held, and for how long."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paddock.wire import shapes
from tests.cli.conftest import Paddock
from tests.client.desk import NOW, Desk


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (timedelta(hours=2), "two-1, held, ends in 1h 59m"),
        (None, "two-1"),
    ],
)
def test_a_held_environment_is_told(paddock: Paddock, desk: Desk, rest: timedelta | None, expected: str) -> None:
    given: dict[str, Any] = dict.fromkeys(shapes.RunDetail.__dataclass_fields__, "")
    given |= dict.fromkeys(("attempt", "number", "patchset"), 1) | dict.fromkeys(
        ("started", "ended", "ending", "phase")
    )
    given |= dict.fromkeys(("spans", "commands", "logs", "cases", "problems", "artifacts"), ())
    until = None if rest is None else (datetime.now(UTC) + rest).isoformat()
    given |= {"id": "7", "state": "done", "voting": True, "created": NOW, "environment": "two-1", "held_until": until}
    desk.extra |= {("GET", "/runs/7"): shapes.RunDetail(**given)}
    line = next(one for one in paddock("run", "show", "7").out.splitlines() if one.split()[0] == "environment")
    assert line.split(maxsplit=1)[1].startswith(expected)
    assert ("held" in line) is (rest is not None)
