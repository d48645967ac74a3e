"""The machine's own clock, in UTC.

Effects: none
"""

import asyncio
from datetime import UTC, datetime

LONGEST_NAP = 30.0
"""Seconds: a wall clock that jumps is noticed after so long at the latest."""


class SystemClock:
    """Wall time; sleeps towards a moment in naps, so that a clock that is set does not delay a deadline for ever."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep_until(self, moment: datetime) -> None:
        # No event ends a sleep: only the clock itself, which may be set meanwhile.
        while (left := (moment - self.now()).total_seconds()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, LONGEST_NAP))
