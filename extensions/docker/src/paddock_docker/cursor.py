"""Where reading a container's messages goes on: a moment, and how many messages since then were read.

The Engine gives messages since a moment, in the order of its file; two of them may bear the same moment, and those of
two streams may stand a little out of order. So the moment of a cursor lies a second behind the newest message, and what
was read since then is counted: nothing is read twice, and nothing is left out.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A moment, in seconds and nanoseconds of UTC, and a count."""

    second: int = 0
    nano: int = 0
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """The cursor that `str` wrote; the table of methods has checked its form."""
        moment, _, count = text.partition(":")
        second, _, nano = moment.partition(".")
        return cls(second=int(second), nano=int(nano), count=int(count))

    @classmethod
    def since(cls, moment: datetime) -> "Cursor":
        """Where reading begins at a moment."""
        return cls(second=int(moment.timestamp()), nano=moment.microsecond * 1000)

    @property
    def moment(self) -> str:
        """As the Engine is told it."""
        return f"{self.second}.{self.nano:09}"

    def __str__(self) -> str:
        return f"{self.moment}:{self.count}"


class Reading:
    """Counts what is read from a cursor on, and says where it goes on from here."""

    def __init__(self, begin: Cursor) -> None:
        self._begin = begin
        self._known = begin.count
        self._read: Counter[int] = Counter()
        self._newest = 0

    def take(self, second: int, nano: int) -> bool:
        """Whether a message is new: those that the cursor counts are not."""
        if (second, nano) >= (self._begin.second, self._begin.nano):
            self._read[second] += 1
        if second > self._newest:
            self._newest = second
            self._settle()
        if self._known:
            self._known -= 1
            return False
        return True

    @property
    def cursor(self) -> Cursor:
        """Behind the last message that was taken."""
        return Cursor(second=self._begin.second, nano=self._begin.nano, count=self._read.total())

    def _settle(self) -> None:
        """Seconds into which no message comes any more move the moment on, and are forgotten."""
        settled = self._newest - 1
        if settled > self._begin.second:
            self._begin = Cursor(second=settled)
            for second in [one for one in self._read if one < settled]:
                del self._read[second]
