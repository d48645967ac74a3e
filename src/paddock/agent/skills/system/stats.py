"""Collects how busy the machine is, into rings of samples that are read since a cursor.

Effects: idempotent; what is collected is on disk, and collected again after a restart. Samples are in memory only.
"""

import asyncio
import json
import math
import secrets
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from paddock.agent import durable
from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Deed, Place, Read, Work, in_thread
from paddock.agent.skills.system.collectors import NAMES, Sampler
from paddock.core.errors import PaddockError, Refused
from paddock.wire import fields as read
from paddock.wire.fields import BadParams, Fields, iso
from paddock.wire.framing import JSON

AT_MOST = 16
"""Collections at once."""
SAMPLES = 10_000
"""Samples that one collection keeps at most,"""
ROOM = 4 << 20
"""and bytes of them."""
_ANSWER = 512 << 10  # bytes of samples in one answer


def deeds(place: Place) -> Mapping[str, Deed]:
    """system.stats, system.stats_list, system.stats_start, system.stats_stop."""
    kept = Collections(place.state / "system" / "collections", root=Path("/"))
    kept.load()
    place.keep("stats", kept.collect)

    async def tell(call: Call) -> Mapping[str, JSON]:
        return kept.read(call.text("name"), call.text("cursor"), limit=call.number("limit"))

    async def tell_all(call: Call) -> Mapping[str, JSON]:
        return {"collections": list(kept.told())}

    async def start(call: Call) -> Outcome:
        wanted = define(
            call.text("name"),
            call.texts("collectors"),
            interval=call.seconds("interval").total_seconds(),
            window=call.seconds("window").total_seconds(),
        )
        return Outcome(result=await kept.start(wanted))

    async def stop(call: Call) -> Outcome:
        await kept.stop(call.text("name"))
        return Outcome()

    return {
        "system.stats": Read(answer=tell),
        "system.stats_list": Read(answer=tell_all),
        "system.stats_start": Work(act=start),
        "system.stats_stop": Work(act=stop),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Definition:
    """What is collected, every so many seconds, for so many seconds back."""

    name: str
    collectors: tuple[str, ...]
    interval: float
    window: float

    @property
    def capacity(self) -> int:
        """Samples that the window holds."""
        return max(math.ceil(self.window / self.interval), 1)

    def told(self) -> dict[str, JSON]:
        """As it is kept on disk and told."""
        return {
            "name": self.name,
            "collectors": list(self.collectors),
            "interval": self.interval,
            "window": self.window,
        }


def define(name: str, collectors: tuple[str, ...], *, interval: float, window: float) -> Definition:
    """A definition that can be meant. Raises BadParams."""
    for index, one in enumerate(collectors):
        if one not in NAMES:
            raise BadParams(f"params.collectors[{index}]", f"{one[:50]!r} is none of {', '.join(NAMES)}")
    wanted = Definition(
        name=name, collectors=tuple(dict.fromkeys(collectors)) or NAMES, interval=interval, window=window
    )
    if wanted.capacity > SAMPLES:
        raise BadParams("params.window", f"holds {wanted.capacity} samples of {interval:g} s, at most {SAMPLES}")
    return wanted


class Ring:
    """The samples of one collection: bounded in number and bytes, numbered from 1, the oldest give way."""

    def __init__(self, definition: Definition, *, root: Path, due: float) -> None:
        self.definition = definition
        self.sampler = Sampler(root=root)
        self.due = due
        self._id = secrets.token_hex(4)
        self._samples: deque[bytes] = deque()
        self._size = 0
        self._next = 1

    @property
    def cursor(self) -> str:
        """Behind the newest sample."""
        return f"{self._id}-{self._next - 1}"

    @property
    def count(self) -> int:
        """How many samples are kept."""
        return len(self._samples)

    def add(self, sample: Mapping[str, JSON], at: datetime) -> None:
        """The next one."""
        text = json.dumps({"number": self._next, "time": iso(at), **sample}, separators=(",", ":")).encode("ascii")
        self._samples.append(text)
        self._size += len(text)
        self._next += 1
        while len(self._samples) > self.definition.capacity or (self._size > ROOM and len(self._samples) > 1):
            self._size -= len(self._samples.popleft())

    def since(self, cursor: str, *, limit: int) -> dict[str, JSON]:
        """The samples behind a cursor, oldest first, and the cursor behind them. Raises BadParams for one never given.

        `missed` fell out before they were read. `restarted`: the cursor is of an earlier run of the collection, whose
        samples went with it.
        """
        oldest = self._next - len(self._samples)
        ring, number = _split(cursor)
        is_restarted = bool(cursor) and ring != self._id
        first = oldest if not cursor or is_restarted else number + 1
        if first > self._next:
            raise BadParams("params.cursor", "is ahead of all samples")
        begin = max(first, oldest)
        found: list[JSON] = []
        size = 0
        for index in range(begin - oldest, min(len(self._samples), begin - oldest + limit)):
            size += len(self._samples[index])
            if found and size > _ANSWER:
                break
            found.append(json.loads(self._samples[index]))
        end = begin + len(found) - 1
        return {
            "samples": found,
            "cursor": f"{self._id}-{end}",
            "missed": begin - first,
            "restarted": is_restarted,
            "more": end < self._next - 1,
        }


def _split(cursor: str) -> tuple[str, int]:
    ring, _, number = cursor.partition("-")
    if cursor and not (ring and number.isdecimal() and len(number) <= 18):
        raise BadParams("params.cursor", "is none that was given")
    return ring, int(number or 0)


class Collections:
    """All collections of one agent. `collect` is its duty; it sleeps while there are none."""

    def __init__(self, path: Path, *, root: Path) -> None:
        self._path = path
        self._root = root
        self._rings: dict[str, Ring] = {}
        self._changed = asyncio.Event()
        self._keeping = asyncio.Lock()

    def load(self) -> None:
        """Begin again what the last process collected."""
        stored = durable.read(self._path)
        for one in stored if isinstance(stored, list) else []:
            with suppress(PaddockError):  # of an agent that collected more than this one can
                definition = _read(one)
                self._rings[definition.name] = Ring(definition, root=self._root, due=0)

    def told(self) -> list[dict[str, JSON]]:
        """Every collection with where it is."""
        return [one.definition.told() | {"samples": one.count, "cursor": one.cursor} for one in self._rings.values()]

    def read(self, name: str, cursor: str, *, limit: int) -> dict[str, JSON]:
        """See Ring.since. Refused for what is not collected."""
        ring = self._rings.get(name)
        if ring is None:
            raise Refused(f"{name}: is not collected", hint="system.stats_start begins it")
        return ring.since(cursor, limit=limit)

    async def start(self, definition: Definition) -> dict[str, JSON]:
        """Collect this from now on. One that runs just so goes on; another of its name gives way."""
        async with self._keeping:
            ring = self._rings.get(definition.name)
            if ring is None and len(self._rings) >= AT_MOST:
                raise Refused(
                    f"{definition.name}: {AT_MOST} collections run already", hint="system.stats_stop ends one"
                )
            if ring is None or ring.definition != definition:
                await self._keep({**self._definitions(), definition.name: definition})
                ring = self._rings[definition.name] = Ring(definition, root=self._root, due=0)
                self._changed.set()
        return {"cursor": ring.cursor, "capacity": definition.capacity}

    async def stop(self, name: str) -> None:
        """Collect it no more, and forget its samples. Again is no harm."""
        async with self._keeping:
            if name in self._rings:
                await self._keep({other: one for other, one in self._definitions().items() if other != name})
                del self._rings[name]
                self._changed.set()

    async def collect(self) -> None:
        """Take samples when they are due; the first of a collection at once, without rates."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            for name, ring in list(self._rings.items()):
                if ring.due <= loop.time():
                    found = await in_thread(lambda ring=ring: ring.sampler.look(ring.definition.collectors))  # type: ignore[misc]
                    if self._rings.get(name) is ring:
                        ring.add(found, datetime.now(UTC))
                        ring.due = _after(ring.due or loop.time(), ring.definition.interval, loop.time())
            due = min((ring.due for ring in self._rings.values()), default=None)
            with suppress(TimeoutError):
                # Waits for: a collection that begins or ends, the next sample.
                async with asyncio.timeout(None if due is None else max(due - loop.time(), 0)):
                    await self._changed.wait()

    def _definitions(self) -> dict[str, Definition]:
        return {name: ring.definition for name, ring in self._rings.items()}

    async def _keep(self, definitions: Mapping[str, Definition]) -> None:
        stored: JSON = [one.told() for one in definitions.values()]
        await in_thread(lambda: durable.write(self._path, stored))


def _after(due: float, interval: float, now: float) -> float:
    """The next moment of a steady beat; what was slept through is not made up for."""
    return due + interval * (math.floor((now - due) / interval) + 1)


def _read(value: JSON) -> Definition:
    found = Fields(value, "collection")
    return define(
        found.need("name", read.name),
        found.each("collectors", read.text),
        interval=found.need("interval", lambda one, path: read.bounded_number(one, path, 0.1, 1 << 20)),
        window=found.need("window", lambda one, path: read.bounded_number(one, path, 0.1, 1 << 30)),
    )
