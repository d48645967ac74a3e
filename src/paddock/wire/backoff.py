"""How long to wait before connecting again: capped, exponential, fully jittered."""

from dataclasses import dataclass
from datetime import timedelta

from paddock.wire.framing import JSON

LONGEST_WISH = timedelta(hours=1)
"""More than that no other side can ask for: what it says is data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """Without a clock or chance: the caller counts attempts from 0 and throws the dice.

    Full jitter spreads a thousand agents that lost one server over the whole range: its return is not their rush.
    """

    least: timedelta = timedelta(seconds=1)
    most: timedelta = timedelta(seconds=60)

    def span(self, attempt: int, *, retry_after: timedelta | None = None) -> tuple[timedelta, timedelta]:
        """The least and the most to wait before this attempt; a server's `retry_after` moves both up."""
        # 2 ** 20 seconds are past every sensible cap; a larger power overflows at last.
        highest = (
            min(self.most, self.least * 2 ** (min(max(attempt, 0), 20) + 1)) if self.most > self.least else self.least
        )
        floor = max(self.least, retry_after or timedelta())
        return floor, floor + (highest - self.least)

    def delay(self, attempt: int, *, chance: float, retry_after: timedelta | None = None) -> timedelta:
        """The wait for a throw of 0 <= chance < 1."""
        least, most = self.span(attempt, retry_after=retry_after)
        return least + (most - least) * chance


def wish(value: JSON) -> timedelta | None:
    """What somebody's `retry_after` asks for: seconds, as a number or as its text. None for whatever is neither."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    # A comparison is false for what is not a number.
    return timedelta(seconds=min(seconds, LONGEST_WISH.total_seconds())) if seconds >= 0 else None
