"""Imaging: images are built on the hosts that need them, anew when they change.

Effects: idempotent (orders commands that state an end; each order is in the transaction that moves the image's row)
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from paddock.core import command as commands
from paddock.core import environment as environments
from paddock.core.access import Identity
from paddock.core.capacity import build_size, suits
from paddock.core.command import Command
from paddock.core.configuration import Configuration
from paddock.core.environment import Environment
from paddock.core.errors import Missing, Refused
from paddock.core.host import Host
from paddock.core.image import (
    LIFECYCLE,
    Chain,
    HostImage,
    Layer,
    Signal,
    State,
    again,
    build_limit,
    chain,
    id_of,
    pause,
    recipe,
)
from paddock.core.redaction import sentence
from paddock.engine import booking
from paddock.engine.filing import directory_of
from paddock.engine.loop import earliest
from paddock.engine.means import Means, move, need, order
from paddock.engine.stocking import make_room, want
from paddock.hands import faults
from paddock.ports import Tables, Touched
from paddock.wire.specs import chain_params

BUILD = "image.build"
COLLECT = "image.collect"
LOGS = 5
"""Logs of builds that are kept of one image on one host."""
LOST = "its host lacks a part of it"
_SOON = timedelta(seconds=10)
"""An image that is lost again so soon after it was built waits as one that failed: its host would build for ever."""
_AGAIN = frozenset({"interrupted", "busy", "expired"})
"""Codes that say nothing about the image: it is asked for once more, under a new id."""
_FREE = frozenset({environments.State.GONE, environments.State.SAVED, environments.State.READY})


class Imaging:
    """The stage that keeps what hosts have of images true to the configuration."""

    name = "imaging"

    def __init__(self, means: Means) -> None:
        self._means = means

    def wakes(self, touched: Touched) -> bool:
        match touched.row:
            case HostImage() | Host():
                return True
            case Environment(spec=spec, state=state):
                return spec is not None and state in _FREE
            case Command(method=commands_method, is_open=False):
                return commands_method == BUILD
            case _:
                return False

    async def step(self, now: datetime) -> datetime | None:
        old, moment = await self._means.store.write(lambda tables: self._pass(tables, now))
        faults.at("imaging.ordered")
        for log in old:
            await self._means.archive.remove(log)
        return moment

    def _pass(self, tables: Tables, now: datetime) -> tuple[list[str], datetime | None]:
        """The logs that are no longer kept, and when to look again."""
        old: list[str] = []
        moments = []
        for row in tables.images.where():
            attended = attend(tables, self._means, row, old, now=now)
            moments.append(attended)
        return old, earliest(*moments)


def attend(tables: Tables, means: Means, row: HostImage, old: list[str], *, now: datetime) -> datetime | None:
    """Take one image on one host as far as it goes now; when to look again without being woken."""
    configuration = means.configuration()
    if row.state is State.BUILDING:
        row, moment = _settle(tables, means, row, old, now=now)
        if row.state is State.BUILDING:
            return moment
    if row.image not in configuration.images or row.host not in configuration.hosts:
        # What its host has of it is collected there, once nobody uses it.
        tables.images.remove(row.id)
        old.append(f"images/{row.id}")
        return None
    row = _follow(tables, row, chain(configuration.images, row.image), now=now)
    due = again(row)
    if due is not None and due > now:
        return due
    if due is not None:
        row = _want(tables, row, now=now)
    if row.state is State.WANTED:
        _begin(tables, means, configuration, row, old, now=now)
    return None


def build_of(tables: Tables, row: HostImage) -> Command | None:
    """The order of the present or last build."""
    return tables.commands.find(row.command) if row.command else None


def _settle(
    tables: Tables, means: Means, row: HostImage, old: list[str], *, now: datetime
) -> tuple[HostImage, datetime | None]:
    """What became of a build that is under way."""
    command = build_of(tables, row)
    if command is None:
        return _ask(tables, means, row, old, now=now), None
    if command.is_open:
        return row, None
    if command.state is commands.State.COMPLETE:
        return _built(tables, row, command, now=now), None
    left = pause(_in_vain(tables, row, command)) if command.code in _AGAIN else None
    if left is None:
        return _fail(tables, row, f"{command.code}: {command.message}".rstrip(": "), now=now), None
    moment = (command.ended or now) + left
    if now < moment:
        return row, moment
    return _ask(tables, means, row, old, now=now), None


def _in_vain(tables: Tables, row: HostImage, last: Command) -> list[str]:
    """Why each order of the present build came to nothing, up to the last one."""
    failed = tables.commands.where(agent=last.agent, state=commands.State.FAILED, method=BUILD)
    mine = [one for one in failed if one.archive.startswith(f"images/{row.id}/") and one.asked >= row.since]
    return [one.code for one in mine]


def _fail(tables: Tables, row: HostImage, reason: str, *, now: datetime) -> HostImage:
    state, attempts = LIFECYCLE.step(row.state, Signal.FAIL), row.attempts + 1
    failed = replace(row, state=state, since=now, attempts=attempts, reason=reason, asked_by="")
    return move(tables, "images", row, failed, Signal.FAIL, now=now)


def _built(tables: Tables, row: HostImage, command: Command, *, now: datetime) -> HostImage:
    """Whole on its host: machines are made of it from now on."""
    told = command.result
    digest = told.get("digest")
    ready = replace(
        row,
        state=LIFECYCLE.step(row.state, Signal.BUILT),
        since=now,
        serving=row.chain,
        digest=sentence(digest) if isinstance(digest, str) and digest else row.recipe,
        bytes=_count(told.get("bytes")),
        apparent=_count(told.get("apparent")),
        layers=_layers(told.get("layers")),
        attempts=0,
        reason="",
        built=now,
        asked_by="",
    )
    return move(tables, "images", row, ready, Signal.BUILT, now=now, by=row.asked_by)


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else 0


def _layers(value: object) -> tuple[Layer, ...]:
    """As its host told them: evidence, for a page to show."""
    found = value if isinstance(value, list | tuple) else ()
    return tuple(_layer(one) for one in found if isinstance(one, Mapping))


def _layer(told: Mapping[str, object]) -> Layer:
    took = told.get("seconds")
    return Layer(
        digest=sentence(str(told.get("digest", ""))),
        image=sentence(str(told.get("image", ""))),
        script=sentence(str(told.get("script") or "")),
        bytes=_count(told.get("bytes")),
        seconds=float(took) if isinstance(took, int | float) and not isinstance(took, bool) else 0.0,
        built=_moment(told.get("built")),
    )


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _follow(tables: Tables, row: HostImage, configured: Chain, *, now: datetime) -> HostImage:
    """What is configured by now is what is wanted."""
    # Compared before it is hashed: it is the same almost always.
    if row.chain == configured:
        return row
    other = recipe(configured)
    if other == row.recipe:  # its limits, its egress, what forks restart, or where it stands in the file
        serving = configured if row.serving and recipe(row.serving) == other else row.serving
        same = replace(row, chain=configured, serving=serving)
        if row.state is State.FAILED and chain_params(configured) != chain_params(row.chain):
            return _want(tables, row, replace(same, attempts=0), now=now)
        return tables.images.swap(row, same)
    changed = replace(row, chain=configured, recipe=other, attempts=0)
    if row.state is State.WANTED:
        return tables.images.swap(row, changed)
    return _want(tables, row, changed, now=now)


def _want(
    tables: Tables, row: HostImage, changed: HostImage | None = None, *, now: datetime, by: str = "", note: str = ""
) -> HostImage:
    wanted = replace(changed or row, state=LIFECYCLE.step(row.state, Signal.WANT), since=now, asked_by=by)
    return move(tables, "images", row, wanted, Signal.WANT, now=now, by=by, note=note)


def lost(tables: Tables, environment: Environment, names: Iterable[str], *, now: datetime) -> None:
    """An environment's host lacks parts of these images, which somebody removed: no machine is made of them before
    they are built, and booked, again.
    """
    for name in names:
        row = tables.images.find(id_of(name, environment.host))
        if row is None or not row.serves or (row.built is not None and row.built > environment.since):
            continue  # known already, or whole again since the environment's machines were asked for
        unserved = tables.images.swap(row, replace(row, serving=(), digest=""))
        if row.state is not State.READY:
            continue  # it is built already, or waits for that
        if row.built is not None and now - row.built < _SOON:
            _fail(tables, unserved, LOST, now=now)
        else:
            _want(tables, unserved, now=now, note=LOST)


def _begin(
    tables: Tables, means: Means, configuration: Configuration, row: HostImage, old: list[str], *, now: datetime
) -> None:
    """Have it built, if its host has room for that; what idles there makes room."""
    room = booking.room_of(tables, configuration.hosts[row.host])
    size = build_size(row.chain, tables.images.where(host=row.host))
    if not room.is_open or room.whole is None:
        return
    if not size.fits(room.free):
        make_room(tables, room, size, room.free, now=now)
        return
    building = replace(row, state=LIFECYCLE.step(row.state, Signal.BUILD), since=now, reason="")
    building = move(tables, "images", row, building, Signal.BUILD, now=now, by=row.asked_by)
    _ask(tables, means, building, old, now=now)


def _ask(tables: Tables, means: Means, row: HostImage, old: list[str], *, now: datetime) -> HostImage:
    """Order the build, where its host can be asked; its log is one of its own, and takes the place of an `old` one."""
    host = tables.hosts.find(row.host)
    if host is None or not host.agent:
        return row
    old += _outlived(row)
    log = f"images/{row.id}/{tables.number(f'image:{row.id}')}"
    command = order(
        tables,
        means,
        host.agent,
        BUILD,
        {"chain": chain_params(row.chain), "limit": round(build_limit(row.chain).total_seconds())},
        now=now,
        archive=log,
    )
    return tables.images.swap(row, replace(row, command=command.id, log=log))


def _outlived(row: HostImage) -> list[str]:
    """The log of the build so many builds before the one that begins; `row` is as it was before it."""
    directory, _, last = row.log.rpartition("/")
    number = int(last) - LOGS + 1 if last.isdigit() else 0
    return [f"{directory}/{number}.log", f"{directory}/{number}.times"] if number > 0 else []


def build(
    tables: Tables, configuration: Configuration, name: str, host: str, *, identity: Identity, now: datetime
) -> None:
    """Have an image built, or built anew. `Refused` where no host may have it."""
    if name not in configuration.images:
        raise Missing(f"image {name}: it is not configured", hint="paddock image list")
    for each in _hosts_for(tables, configuration, name, host):
        row = want(tables, configuration, name, each, now=now, by=identity.name)
        if LIFECYCLE.allows(row.state, Signal.WANT):
            _want(tables, row, now=now, by=identity.name)


def _hosts_for(tables: Tables, configuration: Configuration, name: str, host: str) -> list[str]:
    rooms = booking.rooms(tables, configuration)
    if host:
        if host not in [room.host for room in rooms]:
            raise Refused(f"host {host}: it builds no images", hint=f"skills: [{booking.SKILL}] makes one that does")
        return [host]
    there = [row.host for row in tables.images.where(image=name)]
    if there:
        return there
    pools = [pool for pool in configuration.pools.values() if name in booking.images_of(pool)]
    found = [room.host for room in rooms if not pools or any(suits(pool, room) for pool in pools)]
    if not found:
        raise Refused(f"image {name}: no host builds images", hint=f"skills: [{booking.SKILL}] makes one that does")
    return found


def collect(
    tables: Tables,
    means: Means,
    host: str,
    params: Mapping[str, object],
    *,
    identity: Identity,
    now: datetime,
) -> list[Command]:
    """Order hosts to remove what nobody needs; what serves, and what machines are made of, stays."""
    rooms = booking.rooms(tables, means.configuration())
    if host and host not in [room.host for room in rooms]:
        raise Refused(f"host {host}: it has no images", hint=f"skills: [{booking.SKILL}] makes one that does")
    made = []
    for room in rooms:
        row = tables.hosts.find(room.host)
        if (host and room.host != host) or row is None or not row.agent:
            continue
        id = means.chance.name(f"{means.store.birth}-")
        made.append(
            order(
                tables,
                means,
                need(tables.agents, row.agent, "agent").id,
                COLLECT,
                {**params, "keep": _kept(tables, room.host)},
                now=now,
                id=id,
                by=identity.name,
                archive=directory_of(row.agent, id),
            )
        )
    if not made:
        raise Refused("images: no host can be asked", hint="paddock host list")
    return made


def _kept(tables: Tables, host: str) -> list[str]:
    """The digests that stay: of all that serves, layer by layer, and of what carried machines are made of."""
    found = {layer.digest for row in tables.images.where(host=host) for layer in row.layers if row.serves}
    found |= {row.digest for row in tables.images.where(host=host) if row.digest}
    for environment in tables.environments.where(host=host):
        if environment.spec is not None and environment.state is not environments.State.GONE:
            found |= set(environment.spec.images.values())
    return sorted(found - {""})
