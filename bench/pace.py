"""How long and how often everything is measured: whole, or quick to see that it works."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Numbers of one go. Seconds are floats, sizes bytes."""

    events: int
    warm_up_events: int
    runs: int
    seconds: float
    warm_up: float
    lines: int
    flood: int
    """Bytes that each machine writes."""
    idle: float
    """Seconds of rest before memory is looked at."""
    commands: int
    scripts: int


WHOLE = Pace(
    events=200,
    warm_up_events=10,
    runs=5,
    seconds=3.0,
    warm_up=1.0,
    lines=400,
    flood=48 << 20,
    idle=5.0,
    commands=6000,
    scripts=400,
)
QUICK = Pace(
    events=10,
    warm_up_events=2,
    runs=1,
    seconds=0.5,
    warm_up=0.2,
    lines=50,
    flood=4 << 20,
    idle=1.0,
    commands=400,
    scripts=16,
)
