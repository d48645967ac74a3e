"""Watches the machine for what a person should know, and raises an alert while it is so.

Effects: idempotent; what is watched is on disk, and watched again after a restart. Alerts are durable by themselves.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from paddock.agent import durable
from paddock.agent.alerts import Alerts
from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Deed, Place, Read, Work, in_thread
from paddock.agent.skills.system import collectors
from paddock.core.errors import PaddockError, Refused
from paddock.wire import fields as read
from paddock.wire.fields import BadParams, Fields
from paddock.wire.framing import JSON

AT_MOST = 50
"""Checks of one agent."""
PERCENT = ("memory.available", "swap.used", "disk.used", "disk.inodes", "cpu.busy")
COUNTS = ("load.one", "load.five", "load.fifteen", "process")
OF = {"disk.used": "/", "disk.inodes": "/", "process": ""}
"""What a check of this is of if nothing is said; empty: something has to be said."""


def deeds(place: Place) -> Mapping[str, Deed]:
    """system.health, system.health_watch, system.health_unwatch."""
    checks = Checks(place.state / "system" / "checks", root=Path("/"), alerts=place.alerts)
    checks.load()
    place.keep("health", checks.watch)

    async def tell(call: Call) -> Mapping[str, JSON]:
        return {"checks": list(checks.told())}

    async def begin(call: Call) -> Outcome:
        params = call.params
        limits = {name: value for name in ("above", "below") if isinstance(value := params.get(name), int | float)}
        await checks.begin(
            define(
                call.text("name"),
                call.text("what"),
                of=call.text("of"),
                above=limits.get("above"),
                below=limits.get("below"),
                lasting=call.seconds("for").total_seconds(),
                every=call.seconds("every").total_seconds(),
                level=call.text("level"),
            )
        )
        return Outcome()

    async def end(call: Call) -> Outcome:
        await checks.end(call.text("name"))
        return Outcome()

    return {
        "system.health": Read(answer=tell),
        "system.health_watch": Work(act=begin),
        "system.health_unwatch": Work(act=end),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """`what` (of one thing) is above or below a limit for so many seconds: then it is bad; and fine again just so."""

    name: str
    what: str
    of: str
    above: float | None
    below: float | None
    lasting: float
    every: float
    level: str

    @property
    def subject(self) -> str:
        """What its alerts are about."""
        return f"health {self.name}"

    def is_bad(self, value: float) -> bool:
        """Whether a value is one that should not be."""
        return (self.above is not None and value > self.above) or (self.below is not None and value < self.below)

    def words(self, value: float) -> str:
        """For a person."""
        unit = " %" if self.what in PERCENT else ""
        wanted = f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"
        about = f"{self.what} of {self.of}" if self.of else self.what
        return f"{about} is {value:g}{unit}, watched for {wanted}{unit} for {self.lasting:g} s"

    def told(self) -> dict[str, JSON]:
        """As it is kept on disk and told."""
        return {
            "name": self.name,
            "what": self.what,
            "of": self.of,
            "above": self.above,
            "below": self.below,
            "for": self.lasting,
            "every": self.every,
            "level": self.level,
        }


def define(
    name: str,
    what: str,
    *,
    of: str,
    above: float | None,
    below: float | None,
    lasting: float,
    every: float,
    level: str,
) -> Check:
    """A check that can be meant. Raises BadParams."""
    if what not in PERCENT + COUNTS:
        raise BadParams("params.what", f"{what[:50]!r} is none of {', '.join(PERCENT + COUNTS)}")
    if what in OF and not (of or OF[what]):
        raise BadParams("params.of", f"is missing: {what} of which?")
    if of and what not in OF:
        raise BadParams("params.of", f"{what} is of the machine as a whole")
    for word, limit in (("above", above), ("below", below)):
        if limit is not None and what in PERCENT and limit > 100:
            raise BadParams(f"params.{word}", "is in percent, so at most 100")
    return Check(
        name=name, what=what, of=of or OF.get(what, ""), above=above, below=below,
        lasting=lasting, every=every, level=level,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """Whether it is taken for bad, and since when it looks otherwise: it has to look so for a while to count."""

    is_bad: bool = False
    otherwise_since: float | None = None


def step(condition: Condition, *, is_bad: bool, now: float, lasting: float) -> Condition:
    """What is true after one more look."""
    if is_bad == condition.is_bad:
        return replace(condition, otherwise_since=None)
    since = now if condition.otherwise_since is None else condition.otherwise_since
    if now - since >= lasting:
        return Condition(is_bad=is_bad)
    return replace(condition, otherwise_since=since)


class _Watched:
    """A check, what is known of it, and when it is looked at next."""

    def __init__(self, check: Check, condition: Condition, *, root: Path) -> None:
        self.check = check
        self.condition = condition
        self.sampler = collectors.Sampler(root=root)
        self.due = 0.0
        self.value: float | None = None
        self.why = ""

    def told(self, now: float) -> dict[str, JSON]:
        since = self.condition.otherwise_since
        return {
            **self.check.told(),
            "state": "unknown" if self.value is None else "bad" if self.condition.is_bad else "fine",
            "value": self.value,
            "otherwise_for": None if since is None else round(now - since, 1),
            "why": self.why,
        }


class Checks:
    """All checks of one agent. `watch` is its duty; it sleeps while there are none."""

    def __init__(self, path: Path, *, root: Path, alerts: Alerts | None) -> None:
        self._path = path
        self._root = root
        self._alerts = alerts
        self._checks: dict[str, _Watched] = {}
        self._changed = asyncio.Event()
        self._keeping = asyncio.Lock()

    def load(self) -> None:
        """Watch again what the last process watched; what was bad then is bad until it has looked otherwise."""
        stored = durable.read(self._path)
        for one in stored if isinstance(stored, list) else []:
            with suppress(PaddockError):  # of an agent that watched more than this one can
                check = _read(one)
                is_bad = self._alerts is not None and self._alerts.find(check.subject) is not None
                self._checks[check.name] = _Watched(check, Condition(is_bad=is_bad), root=self._root)

    def told(self) -> list[dict[str, JSON]]:
        """Every check with what is known of it."""
        now = asyncio.get_running_loop().time()
        return [one.told(now) for one in self._checks.values()]

    async def begin(self, check: Check) -> None:
        """Watch this from now on. One that is watched just so goes on; another of its name gives way."""
        async with self._keeping:
            known = self._checks.get(check.name)
            if known is None and len(self._checks) >= AT_MOST:
                raise Refused(
                    f"{check.name}: {AT_MOST} checks are watched already", hint="system.health_unwatch ends one"
                )
            if known is None or known.check != check:
                await self._keep([*(one.check for name, one in self._checks.items() if name != check.name), check])
                self._checks[check.name] = _Watched(check, Condition(), root=self._root)
                await self._say_over(check, "is watched for something else now")
                self._changed.set()

    async def end(self, name: str) -> None:
        """Watch it no more, and end its alert. Again is no harm."""
        async with self._keeping:
            known = self._checks.get(name)
            if known is not None:
                await self._keep([one.check for other, one in self._checks.items() if other != name])
                del self._checks[name]
                await self._say_over(known.check, "is not watched any more")
                self._changed.set()

    async def watch(self) -> None:
        """Look at each when it is due."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            for watched in list(self._checks.values()):
                if watched.due <= loop.time():
                    await self._look(watched)
                    watched.due = loop.time() + watched.check.every
            due = min((one.due for one in self._checks.values()), default=None)
            with suppress(TimeoutError):
                # Waits for: a check that begins or ends, the next look.
                async with asyncio.timeout(None if due is None else max(due - loop.time(), 0)):
                    await self._changed.wait()

    async def _look(self, watched: _Watched) -> None:
        check = watched.check
        try:
            watched.value = await in_thread(lambda: measure(check, watched.sampler))
            watched.why = ""
        except (OSError, ValueError, KeyError) as exc:
            # Unknown is neither bad nor fine.
            watched.value, watched.why = None, f"{type(exc).__name__}: {exc}"
        if watched.value is None or self._checks.get(check.name) is not watched:
            return
        before, now = watched.condition, asyncio.get_running_loop().time()
        is_bad = check.is_bad(watched.value)
        watched.condition = step(before, is_bad=is_bad, now=now, lasting=check.lasting)
        if watched.condition.is_bad and not before.is_bad:
            await self._say(check, watched.value)
        elif before.is_bad and not watched.condition.is_bad:
            await self._say_over(check, check.words(watched.value))

    async def _say(self, check: Check, value: float) -> None:
        if self._alerts is not None:
            limit = {"above": check.above} if check.above is not None else {"below": check.below}
            about: dict[str, JSON] = {"what": check.what, "value": value, **limit}
            if check.of:
                about["of"] = check.of
            await self._alerts.begin(check.subject, check.words(value), level=check.level, **about)

    async def _say_over(self, check: Check, why: str) -> None:
        if self._alerts is not None:
            await self._alerts.end(check.subject, why)

    async def _keep(self, checks: list[Check]) -> None:
        stored: JSON = [one.told() for one in checks]
        await in_thread(lambda: durable.write(self._path, stored))


def measure(check: Check, sampler: collectors.Sampler) -> float | None:
    """The value now; None while there is none (a share of time needs two looks)."""
    room, _, which = check.what.partition(".")
    match room:
        case "memory":
            found = collectors.memory(sampler.root)
            return round(100 * found["available"] / found["total"], 2)
        case "swap":
            found = collectors.memory(sampler.root)
            total = found["swap_total"]
            return round(100 * (total - found["swap_free"]) / total, 2) if total else 0.0
        case "disk":
            share = collectors.room(check.of)["used" if which == "used" else "inodes_used"]
            return round(100 * share, 2) if isinstance(share, int | float) else None
        case "load":
            return collectors.load(sampler.root)[which]
        case "cpu":
            busy = sampler.look(("cpu",))["cpu"]
            share = busy.get("busy") if isinstance(busy, Mapping) else None
            return round(100 * share, 2) if isinstance(share, int | float) else None
        case "process":
            # The kernel keeps fifteen bytes of a name.
            name = check.of.encode()[:15].decode("utf-8", "ignore")
            return float(sum(one.name == name and one.state != "Z" for one in collectors.processes(sampler.root)))
    raise AssertionError(f"{check.what}: no rule for it")


def _read(value: JSON) -> Check:
    found = Fields(value, "check")

    def number(one: JSON, path: str) -> float:
        return read.bounded_number(one, path, 0, 1 << 40)

    return define(
        found.need("name", read.name),
        found.need("what", read.text),
        of=found.maybe("of", read.text, ""),
        above=found.maybe("above", number, None),
        below=found.maybe("below", number, None),
        lasting=found.need("for", number),
        every=found.need("every", number),
        level=found.need("level", read.text),
    )
