"""Which of several servers is asked next, and how soon: in turn, and ever slower.

Effects: none.
"""

from datetime import timedelta

from paddock.wire.backoff import Backoff


class Rounds:
    """Servers by number. The owner reads the clock (seconds, steady) and throws the dice.

    Whoever served well is asked first again. Whoever did not gives way to the next one; when all had their turn, the
    next round waits longer. A server that asked to be left alone for a while is passed over meanwhile.
    """

    def __init__(self, *, servers: int, backoff: Backoff) -> None:
        self._backoff = backoff
        self._not_before = [0.0] * servers
        self._failures = 0
        self.turn = 0
        """Who is asked next."""

    @property
    def is_first(self) -> bool:
        """Whether nothing went wrong since it last went well."""
        return self._failures == 0

    def pause(self, *, good: bool, now: float, chance: float, retry_after: timedelta | None = None) -> float:
        """How long to wait now that the server of this turn is done with, well or not; `turn` moves on."""
        count = len(self._not_before)
        self._failures = 0 if good else self._failures + 1
        rounds, within = divmod(max(self._failures - 1, 0), count)
        # Inside of a round the next server is not made to wait for the one that failed.
        is_over = good or within == count - 1
        patient = self._backoff.delay(rounds, chance=chance, retry_after=retry_after if count == 1 else None)
        pause = (patient if is_over else self._backoff.least).total_seconds()
        if retry_after is not None and count > 1:
            spared = self._backoff.delay(rounds, chance=chance, retry_after=retry_after)
            self._not_before[self.turn] = now + spared.total_seconds()
        if not good:
            self.turn = (self.turn + 1) % count
        return self._choose(now, pause)

    def _choose(self, now: float, pause: float) -> float:
        """The first from this turn on that may be asked by then; if none may, the one that may be asked soonest."""
        count = len(self._not_before)
        order = [(self.turn + step) % count for step in range(count)]
        self.turn = next(
            (one for one in order if self._not_before[one] <= now + pause),
            min(order, key=lambda one: self._not_before[one]),
        )
        return max(pause, self._not_before[self.turn] - now)
