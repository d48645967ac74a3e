"""Crash points: named places at which a test makes the process die.

Effects: none, unless `PADDOCK_FAULT` arms a point.

`PADDOCK_FAULT=point` or `point:N` (the Nth passing in one process); `PADDOCK_FAULT_ONCE=file` is made before dying, and
nothing dies where it exists already, so that a restart with the same environment lives; `PADDOCK_FAULT_ACT` is `kill`
(SIGKILL of the process, as is usual), `stop` (SIGSTOP) or `raise` (`Fault`).
"""

import os
import signal
from collections.abc import Mapping


class Fault(BaseException):
    """What `PADDOCK_FAULT_ACT=raise` raises; not an Exception, so that no rim swallows it."""


class _Trigger:
    """One armed point; counts its passings."""

    def __init__(self, point: str, passing: int, act: str, once: str | None) -> None:
        self.point = point
        self.left = passing
        self.act = act
        self.once = once

    def fire(self, point: str) -> None:
        if point != self.point:
            return
        self.left -= 1
        if self.left != 0 or not self._is_first():
            return
        if self.act == "raise":
            raise Fault(point)
        os.kill(os.getpid(), signal.SIGSTOP if self.act == "stop" else signal.SIGKILL)

    def _is_first(self) -> bool:
        if self.once is None:
            return True
        try:
            os.close(os.open(self.once, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        return True


_trigger: _Trigger | None = None


def at(point: str) -> None:
    """Pass a crash point. The name is always a literal, so that a test can collect every point from the code."""
    if _trigger is not None:
        _trigger.fire(point)


def arm(environment: Mapping[str, str]) -> None:
    """Read the variables; done when the module is loaded. Without `PADDOCK_FAULT` every point is disarmed."""
    global _trigger
    point, _, passing = environment.get("PADDOCK_FAULT", "").partition(":")
    act = environment.get("PADDOCK_FAULT_ACT", "kill")
    if act not in ("kill", "stop", "raise"):
        raise ValueError(f"PADDOCK_FAULT_ACT: {act} is none of kill, stop, raise")
    once = environment.get("PADDOCK_FAULT_ONCE") or None
    _trigger = _Trigger(point, int(passing or 1), act, once) if point else None


arm(os.environ)
