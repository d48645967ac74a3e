"""What is done to agent and server while they work: acts drawn from a seed."""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Act(StrEnum):
    """One thing that goes wrong. Its value is how the result calls it."""

    KILL_AGENT = "kill -9 of the agent"
    KILL_SERVER = "kill -9 of the server"
    RESTART_AGENT = "restart of the agent"
    KILL_KEEPER = "kill -9 of a keeper"
    CUT = "connection cut"
    HALF_OPEN = "connection half-open"
    PARTITION = "partition"
    REPEAT = "old commands repeated"
    STOP_AGENT = "SIGSTOP of the agent"
    STOP_SERVER = "SIGSTOP of the server"
    PAUSE = "pause of the whole guest"
    FULL_DISK = "disk full"
    NARROW_DISK = "disk nearly full"
    CLOCK_AGENT = "clock jump of the agent"
    CLOCK_SERVER = "clock jump of the server"
    REBOOT = "reboot of the guest"


_WEIGHTS: Mapping[Act, int] = {
    Act.KILL_AGENT: 20,
    Act.KILL_SERVER: 6,
    Act.RESTART_AGENT: 4,
    Act.KILL_KEEPER: 8,
    Act.CUT: 20,
    Act.HALF_OPEN: 3,
    Act.PARTITION: 4,
    Act.REPEAT: 24,
    Act.STOP_AGENT: 6,
    Act.STOP_SERVER: 6,
    Act.PAUSE: 4,
    Act.FULL_DISK: 8,
    Act.NARROW_DISK: 6,
    Act.CLOCK_AGENT: 8,
    Act.CLOCK_SERVER: 4,
    Act.REBOOT: 6,
}
MAY_INTERRUPT = frozenset({Act.REBOOT, Act.KILL_KEEPER})
"""After these, and after no other act, a script may have ended as nobody knows."""
HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An act, once so many commands were given: for so many seconds, where it lasts; `draw` decides the rest of it."""

    act: Act
    after: int
    length: float
    draw: float


def planned(chance: random.Random, *, commands: int, left_out: Collection[Act]) -> list[Planned]:
    """Acts in their order, each kind once at least where there is room for all; the same ones for the same seed."""
    kinds = [act for act in Act if act not in left_out]
    count = max(commands // 100, min(len(kinds), commands // 20))
    first = chance.sample(kinds, len(kinds))
    weights = [_WEIGHTS[act] for act in kinds]
    chosen = [*first, *chance.choices(kinds, weights, k=max(count - len(first), 0))][:count]
    # The last commands meet no new trouble, so that the end is not waited for in vain.
    moments = sorted(chance.uniform(0.02, 0.97) * commands for _ in chosen)
    chance.shuffle(chosen)
    return [
        Planned(act=act, after=int(moment), length=_length(act, chance), draw=chance.random())
        for act, moment in zip(chosen, moments, strict=True)
    ]


def _length(act: Act, chance: random.Random) -> float:
    """How long it lasts, in seconds: mostly short, now and then longer than what the agent is patient for."""
    if act in (Act.KILL_AGENT, Act.KILL_KEEPER, Act.CUT, Act.HALF_OPEN, Act.REPEAT, Act.REBOOT, Act.RESTART_AGENT):
        return 0.0
    if act in (Act.CLOCK_AGENT, Act.CLOCK_SERVER):
        return chance.uniform(0.5, 4)
    if act in (Act.FULL_DISK, Act.NARROW_DISK):
        # Everything that is given meanwhile is refused, and proves little.
        return chance.uniform(0.1, 1)
    return chance.uniform(0.1, 1) if chance.random() < 0.75 else chance.uniform(1, 3)
