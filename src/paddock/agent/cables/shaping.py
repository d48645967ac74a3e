"""When a frame arrives, if it does: latency, loss and rate of a network.

Effects: none.
"""

import random
from dataclasses import dataclass

BURST = 64 << 10
"""Bytes that may wait at least for their turn, however low the rate."""
PATIENCE = 0.25
"""Seconds that a frame waits for its turn at most; a guest that sends faster than its rate loses the rest."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Seconds that each frame takes; the share that is lost; bytes a second that one port may send, 0: any."""

    latency: float = 0.0
    loss: float = 0.0
    rate: int = 0
    seed: int = 0
    """Of the chance that decides which are lost: the same seed loses the same ones."""

    @property
    def is_plain(self) -> bool:
        """Whether frames simply arrive."""
        return not (self.latency or self.loss or self.rate)


class Shaper:
    """Decides for one port, frame by frame."""

    def __init__(self, shape: Shape, port: str) -> None:
        self._shape = shape
        self._chance = random.Random(f"{shape.seed} {port}")
        self._free = 0.0
        self._patience = max(PATIENCE, BURST / shape.rate) if shape.rate else 0.0

    def arrival(self, size: int, now: float) -> float | None:
        """The moment at which a frame that is sent now arrives; None if it is lost."""
        if self._shape.loss and self._chance.random() < self._shape.loss:
            return None
        sent = now
        if self._shape.rate:
            start = max(now, self._free)
            if start - now > self._patience:
                return None
            sent = self._free = start + size / self._shape.rate
        return sent + self._shape.latency
