"""The images of this host: what is missing is built once, whoever asks; listed, collected.

Effects: idempotent; see bases, building and store.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from paddock.agent.entry import Outcome, Stream
from paddock.agent.skills import skill
from paddock.agent.skills.hypervisor.images import bases, building, collecting, downloading, layers, logs
from paddock.agent.skills.hypervisor.images.bases import Sources
from paddock.agent.skills.hypervisor.images.building import Means
from paddock.agent.skills.hypervisor.images.collecting import Removal, Thing, Wanted
from paddock.agent.skills.hypervisor.images.flights import Act, Flight, Flights
from paddock.agent.skills.hypervisor.images.layers import Layer
from paddock.agent.skills.hypervisor.images.space import measure
from paddock.agent.skills.skill import Call, Deed, Read, Work, in_thread
from paddock.core.egress import Egress
from paddock.core.errors import Broken, PaddockError, Refused, Unbuilt
from paddock.core.image import Chain, Entry, Step, steps
from paddock.wire import fields
from paddock.wire.framing import JSON
from paddock.wire.hello import LOG_STREAM
from paddock.wire.specs import read_image

_BASE, _PROOF = 0.2, 0.9
"""How much is done once the base is there, and once all layers are."""
LOGS = "logs"
"""Below the images: a log for each layer, of its last build."""

T = TypeVar("T")
Follow = Callable[[bytes], None]
Tell = Callable[[float], None]


def _unheard(data: bytes) -> None:
    """Nobody follows."""


def _untold(share: float) -> None:
    """Nobody asks."""


class Images:
    """One of a host. Nothing is ensured before `open`; nothing is under way after `close`."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._store = means.store
        self._home = means.store.layout.images
        self._flights = Flights()
        self._sources = Sources(self._home / bases.FILE)
        self._wanted: Counter[str] = Counter()
        self._turn = asyncio.Lock()
        """Whoever looks what there is, or takes something away."""

    async def open(self) -> None:
        """What a killed agent left is gone: machines that build, their ways outside, half layers, old halves."""
        layout, driver = self._store.layout, self._means.driver
        left = {place.name: place for place in layout.making.iterdir()} if layout.making.is_dir() else {}
        for one in await driver.running(layout.instance):
            for name, place in left.items():
                if one.name.endswith(f"-{name}"):
                    await driver.end(place, one.name)
        await building.close_left(self._means, left.values())
        await self._store.sweep()
        await in_thread(lambda: downloading.sweep(self._home / bases.HALVES, time.time()))
        await in_thread(lambda: logs.sweep(self._home / LOGS))

    async def close(self) -> None:
        """What is being built is given up; what was made of it is gone."""
        await self._flights.end()

    def volume(self, digest: str) -> Path:
        """Where a layer's volume is."""
        return self._store.volume(digest)

    def methods(self) -> Mapping[str, Deed]:
        """By name."""
        return {
            "image.build": Work(act=self._build, streams=True),
            "image.list": Read(answer=self._list),
            "image.collect": Work(act=self._collect),
        }

    # Ensuring

    async def ensure(self, chain: Chain, follow: Follow = _unheard, tell: Tell = _untold) -> str:
        """The digest of an image's last layer: whole, sealed, and booted once. What is missing is built first.

        `follow` gets the logs of what is built for it, `tell` how much of all is done, 0 to 1. Cancelled, it leaves
        what others wait for to them.
        """
        await in_thread(lambda: self._check(chain))
        base = await in_thread(lambda: bases.known(chain[0], self._sources))
        async with self._standing(chain, base) as (planned, top):
            if top < 0:
                # Whoever names another checksum has its own looked at, or is refused by it.
                key = f"base {bases.key_of(chain[0])} {chain[0].sha256.lower()}"
                told = _part(tell, 0.0, _BASE)
                base = await self._join(key, f"base-{chain[0].name}", self._base(chain), follow, told)
        async with self._standing(chain, base) as (planned, top):
            if top < 0:
                raise Broken(f"image {chain[0].name}: its base was removed as soon as it was there")
            for number, step in enumerate(planned[top:], start=top):
                share = (_PROOF - _BASE) / len(planned)
                told = _part(tell, _BASE + number * share, _BASE + (number + 1) * share)
                await self._join(step.digest, step.digest, self._layer(chain, step), follow, told)
            leaf = planned[-1].digest
            if not await in_thread(lambda: self._store.is_proven(leaf)):
                proving = self._proof(chain, leaf)
                await self._join(f"proof {leaf}", f"{leaf}-boot", proving, follow, _part(tell, _PROOF, 1.0))
            await in_thread(lambda: self._touch(planned))
        tell(1.0)
        return leaf

    async def find(self, digest: str) -> None:
        """An image's last layer is there, and counts as used from now on. Nothing is built, and nobody looks at what
        the image would be made from today: it serves until another one does.

        Unbuilt if it, or what it lies on, is not as it was sealed: who asks for machines has no room for builders.
        """
        async with self._turn:
            await in_thread(lambda: self._take(digest))

    def _take(self, digest: str) -> None:
        layer = self._store.find(digest)
        if layer is None or not self._store.is_proven(digest):
            raise Unbuilt(f"layer {digest[:12]}: it is not there, or a part of what it lies on is not")
        while layer is not None:
            self._store.touch(layer.digest)
            layer = self._store.read(layer.parent) if layer.parent else None

    @asynccontextmanager
    async def _standing(self, chain: Chain, base: str) -> AsyncIterator[tuple[Sequence[Step], int]]:
        """The layers above the base, and how many of them are there; -1 if not even the base is. All of them stay."""
        planned = steps(chain, base) if base else ()
        async with self._turn:
            top = await in_thread(lambda: self._top(planned, base))
            self._wanted.update(named := [one for step in planned for one in (step.digest, step.parent)])
        try:
            yield planned, top
        finally:
            self._wanted.subtract(named)

    def _top(self, planned: Sequence[Step], base: str) -> int:
        for number in range(len(planned), 0, -1):
            if self._store.find(planned[number - 1].digest) is not None:
                self._touch(planned[:number])
                return number
        return 0 if base and self._store.find(base) is not None else -1

    def _touch(self, planned: Sequence[Step]) -> None:
        for digest in {one for step in planned for one in (step.digest, step.parent)}:
            self._store.touch(digest)

    def _check(self, chain: Chain) -> None:
        """Refused for what cannot be built on this host, as far as that is known before anything is begun."""
        if not chain or chain[0].parent:
            raise Refused("image: its chain does not begin with a url or a path")
        first = chain[0]
        bases.check(first)
        if first.entry is Entry.HELPER and self._means.helper is None:
            raise Refused(f"image {first.name}: this host has no helper machine", hint="use entry nocloud or none")
        for image in chain:
            try:
                Egress.read(image.egress)
            except Refused as exc:
                raise Refused(f"image {image.name}: {exc.message}", hint=exc.hint) from None
            for file in (image.kernel, image.initrd):
                if file and not Path(file).is_file():
                    raise Refused(f"image {image.name}: {file} is no file on this host")

    async def _join(self, key: str, log: str, act: Act, follow: Follow, tell: Tell) -> str:
        path = self._home / LOGS / f"{log}.log"
        found = await self._flights.join(key, path, act, follow, tell)
        tell(1.0)
        return found

    def _base(self, chain: Chain) -> Act:
        async def act(flight: Flight) -> str:
            known = await in_thread(lambda: bases.known(chain[0], self._sources))
            if known and await in_thread(lambda: self._store.find(known)) is not None:
                return known  # somebody made it while this one came
            work = bases.make(self._means, chain[0], self._sources, flight.log.line, flight.progress)
            return await self._told(flight, work)

        return act

    def _layer(self, chain: Chain, step: Step) -> Act:
        async def act(flight: Flight) -> str:
            if await in_thread(lambda: self._store.find(step.digest)) is None:
                images = chain[: chain.index(step.settings) + 1]
                await self._told(flight, building.build(self._means, step, images, flight.log))
            return step.digest

        return act

    def _proof(self, chain: Chain, leaf: str) -> Act:
        async def act(flight: Flight) -> str:
            await self._told(flight, building.prove(self._means, leaf, chain, flight.log))
            return leaf

        return act

    async def _told(self, flight: Flight, work: Awaitable[T]) -> T:
        """What fails is the last line of its log."""
        try:
            return await work
        except PaddockError as exc:
            flight.log.line(f"failed: {exc.message}")
            raise

    # What exists, and what goes

    def _things(self) -> Sequence[Thing]:
        users = self._store.users()
        return [
            *(
                Thing(
                    name=layer.digest,
                    below=layer.parent,
                    used=self._store.used(layer.digest),
                    users=tuple(users.get(layer.digest, ())),
                )
                for layer in self._store.all()
            ),
            *(
                Thing(
                    name=key,
                    below=layer,
                    used=used,
                    users=tuple(users.get(key, ())),
                    is_template=True,
                )
                for key, layer, _, used in self._store.templates()
            ),
        ]

    async def collect(self, wanted: Wanted, *, is_dry: bool) -> Sequence[Removal]:
        """What goes, or would go. What is being built or was asked for just now is not among it."""
        things = await in_thread(self._things)
        space = await in_thread(self._store.space)
        asked = {name for name, count in self._wanted.items() if count > 0}
        kept = replace(wanted, keep=wanted.keep | asked)
        plan = collecting.collect(things, kept, space=space, free=await self._store.disks.room(), now=time.time())
        gone: list[Removal] = []
        for removal in plan:
            if not is_dry and not await self._go(removal.thing):
                break  # somebody asked for it meanwhile: what lies below it stays, too
            gone.append(removal)
        return gone

    @asynccontextmanager
    async def staying(self) -> AsyncIterator[None]:
        """Nothing is removed while the block runs; what it says is used now stays for long enough to be cloned."""
        async with self._turn:
            yield

    async def _go(self, thing: Thing) -> bool:
        async with self._turn:
            if self._wanted[thing.name] > 0 or await in_thread(lambda: self._is_taken(thing)):
                return False
            if thing.is_template:
                await self._store.remove_template(thing.name)
                return True
            await self._store.remove(thing.name)
            await in_thread(lambda: self._sources.forget(thing.name))
            return True

    def _is_taken(self, thing: Thing) -> bool:
        """Whether somebody took it, or built on it, since it was looked at."""
        return any(
            one.below == thing.name or (one.name == thing.name and (one.users or one.used > thing.used))
            for one in self._things()
        )

    # The methods

    async def _build(self, call: Call) -> Outcome:
        told = call.params.get("chain")
        chain = tuple(read_image(one, f"params.chain[{number}]") for number, one in enumerate(_list(told)))
        call.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (call.directory / "output").open("ab", buffering=0) as output:

            def follow(data: bytes) -> None:
                output.write(data)
                call.grew()

            try:
                digest = await self.ensure(chain, follow, lambda share: call.progress(round(100 * share, 1), None))
                outcome = Outcome(result=await in_thread(lambda: self._result(chain, digest)))
            except PaddockError as exc:
                outcome = skill.failure(exc)
            length = output.tell()
        return replace(outcome, streams={LOG_STREAM: Stream(path=str(call.directory / "output"), length=length)})

    def _result(self, chain: Chain, digest: str) -> dict[str, JSON]:
        found: list[Layer] = []
        layer = self._store.read(digest)
        while layer is not None:
            found.append(layer)
            layer = self._store.read(layer.parent) if layer.parent else None
        space = measure((one.digest, self._store.place(one.digest)) for one in found)
        sizes = {one.digest: space.added(one.digest, one.parent) for one in found}
        return {
            "image": chain[-1].name,
            "digest": digest,
            "bytes": sum(sizes.values()),
            "apparent": _apparent(found[0]) if found else 0,
            "layers": [
                {
                    "digest": one.digest,
                    "image": one.image,
                    "script": one.script,
                    "bytes": sizes[one.digest],
                    "seconds": one.seconds,
                    "built": _moment(one.made),
                }
                for one in reversed(found)
            ],
        }

    async def _list(self, call: Call) -> Mapping[str, JSON]:
        return await in_thread(self._listed)

    def _listed(self) -> dict[str, JSON]:
        things, space = {thing.name: thing for thing in self._things()}, self._store.space()
        told: list[JSON] = []
        for layer in self._store.all():
            thing = things[layer.digest]
            told.append(
                {
                    "digest": layer.digest,
                    "parent": layer.parent,
                    "images": [layer.image],
                    "script": layer.script,
                    "bytes": space.added(layer.digest, layer.parent),
                    "apparent": _apparent(layer),
                    "built": _moment(layer.made),
                    "used": _moment(thing.used),
                    "clones": len(thing.users),
                    "damage": layers.damage(self._store.place(layer.digest), layer, self._store.disks.name),
                }
            )
        templates: list[JSON] = [
            {
                "key": key,
                "layer": layer,
                "bytes": space.added(key, layer),
                "built": _moment(made),
                "used": _moment(used),
                "clones": len(things[key].users),
            }
            for key, layer, made, used in self._store.templates()
        ]
        return {"layers": told, "templates": templates}

    async def _collect(self, call: Call) -> Outcome:
        wanted = Wanted(
            unused=call.seconds("unused") if call.params.get("unused") is not None else None,
            room=call.number("room") if call.params.get("room") is not None else None,
            keep=frozenset(call.texts("keep")),
        )
        gone = await self.collect(wanted, is_dry=bool(call.params.get("dry_run")))
        return Outcome(
            result={
                "removed": [{"digest": one.thing.name, "bytes": one.freed, "why": one.why} for one in gone],
                "freed": sum(one.freed for one in gone),
            }
        )


def _part(tell: Tell, begin: float, end: float) -> Tell:
    """Tells of a part of something."""
    return lambda share: tell(begin + min(share, 1.0) * (end - begin))


def _list(value: object) -> Sequence[JSON]:
    return value if isinstance(value, list | tuple) else ()


def _moment(seconds: float) -> str:
    return fields.iso(datetime.fromtimestamp(seconds, UTC))


def _apparent(layer: Layer) -> int:
    return sum(one.size for one in layer.content.values())
