"""Pages of what is virtual: images and builds; machines with console and screen.

Effects: idempotent; looking at a screen orders a picture of it, at most one in a few seconds.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from paddock.core.access import Identity
from paddock.core.command import Command
from paddock.core.command import State as CommandState
from paddock.core.environment import Environment
from paddock.core.errors import Broken, Missing, NotAllowed
from paddock.core.image import HostImage, id_of
from paddock.engine import imaging
from paddock.engine.filing import stream_name
from paddock.engine.ordering import Wish, may_see
from paddock.engine.pressing import CONSOLE, SCREENSHOT
from paddock.ports import Tables
from paddock.web import telling
from paddock.web.images import tell
from paddock.web.logs import Stream, Window
from paddock.web.pages import Pages
from paddock.web.reading import may_press, need
from paddock.web.site import Site, identity_of
from paddock.web.streams import Streams
from paddock.wire.hello import LOG_STREAM

MACHINE = "/environments/{id}/machines/{machine}"
IMAGE = "/images/{id}"
_NAME = re.compile(r"(?P<kind>console|build)-(?P<number>\d{1,15})-(?P<place>.+)")
_SHOWN = 120
"""Lines that stand in the page itself; the script fetches what is scrolled to."""
_FRESH = timedelta(seconds=3)
"""A picture of a screen that is not older is shown again."""
_LOOK = 20.0
"""Seconds in which a host may draw one."""

Found = Callable[[Request], Awaitable[Stream]]


class Virtual:
    """The routes; a log is found through its machine or image, never by a path that a browser sent."""

    def __init__(self, site: Site, pages: Pages, streams: Streams) -> None:
        self._site = site
        self._pages = pages
        self._streams = streams
        self._ordering = asyncio.Lock()

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/images", self.images),
            Route(IMAGE, self.image),
            *self._logs(IMAGE, self._build),
            Route(MACHINE, self.machine),
            Route(f"{MACHINE}/screen.png", self.screen),
            *self._logs(MACHINE, self._console),
        ]

    def _logs(self, base: str, found: Found) -> list[BaseRoute]:
        streams = self._streams
        return [
            Route(f"{base}/log/{{stream}}", partial(_of, found, streams.raw_of)),
            Route(f"{base}/log/{{stream}}/lines", partial(_of, found, streams.lines_of)),
            Route(f"{base}/log/{{stream}}/search", partial(_of, found, streams.search_of)),
            Route(f"{base}/log/{{stream}}/live", partial(_live, found, streams)),
        ]

    # ---- images ----

    async def images(self, request: Request) -> Response:
        """Chains as trees: each image below what it is made of."""
        configuration = self._site.configuration()
        rows = await self._site.store.read(
            lambda tables: [tell(tables, configuration, image) for image in configuration.images.values()]
        )
        children: dict[str, list[Any]] = {}
        for row in rows:
            children.setdefault(row.parent, []).append(row)
        return self._pages.render(request.scope, "images.html", rows=rows, children=children)

    async def image(self, request: Request) -> Response:
        name = request.path_params["id"]
        configuration = self._site.configuration()
        if name not in configuration.images:
            raise Missing(f"image {name}: it is not configured")

        def look(tables: Tables) -> tuple[Any, list[Any], list[tuple[HostImage, Command | None]]]:
            rows = [(row, imaging.build_of(tables, row)) for row in tables.images.where(image=name) if row.log]
            lineage: list[str] = []
            each = configuration.images[name]
            while each.parent:
                each = configuration.images[each.parent]
                lineage.insert(0, each.name)
            return tell(tables, configuration, configuration.images[name]), lineage, rows

        row, lineage, builds = await self._site.store.read(look)
        made = [await self._stream_of(f"{one.log}.log", _build_name(one), one.host, command) for one, command in builds]
        return self._pages.render(
            request.scope,
            "image.html",
            row=row,
            lineage=lineage,
            children=[each.name for each in configuration.images.values() if each.parent == name],
            builds=made,
            windows={stream.name: await self._window(stream) for stream in made},
            is_busy=any(not stream.ended for stream in made),
        )

    async def _build(self, request: Request) -> Stream:
        name, parts = request.path_params["id"], _parts(request, "build")

        def look(tables: Tables) -> tuple[HostImage | None, Command | None]:
            row = tables.images.find(id_of(name, parts["place"]))
            return row, None if row is None else imaging.build_of(tables, row)

        row, command = await self._site.store.read(look)
        if row is None or not row.log or _build_name(row) != request.path_params["stream"]:
            raise Missing(f"image {name}: that log is not kept any more")
        return await self._stream_of(f"{row.log}.log", _build_name(row), row.host, command)

    # ---- machines ----

    async def machine(self, request: Request) -> Response:
        """A machine: its cards, its buttons, its screen, what it says on its serial line."""
        id, name = request.path_params["id"], request.path_params["machine"]
        identity = identity_of(request)

        def look(tables: Tables) -> dict[str, Any]:
            row = need(tables.environments, id, "environment")
            place = _place(row, name)
            lease = tables.leases.find(row.lease) if row.lease else None
            return {
                "row": row,
                "machine": telling.of_machine(row, place),
                "agent": tables.agents.find(row.machines[place].agent),
                "lease": lease,
                "may_press": may_press(tables, row, identity),
                "may_look": may_press(tables, row, identity, is_looking=True),
                "console": _last_console(tables, row, name, identity),
            }

        seen = await self._site.store.read(look)
        command = seen["console"]
        stream = None if command is None else await self._of_console(command)
        return self._pages.render(
            request.scope,
            "machine.html",
            stream=stream,
            window=None if stream is None else await self._window(stream),
            **seen,
        )

    async def _console(self, request: Request) -> Stream:
        id, name, parts = request.path_params["id"], request.path_params["machine"], _parts(request, "console")
        identity = identity_of(request)

        def look(tables: Tables) -> Command:
            row = need(tables.environments, id, "environment")
            found = tables.commands.where(environment=row.id, machine=name, method=CONSOLE, seq=int(parts["number"]))
            for command in found:
                if may_see(tables, command, identity):
                    return command
            if found:
                raise NotAllowed(f"{identity.name or 'nobody'}: environment {id} is not lent to you")
            raise Missing(f"machine {name}: it has no such console")

        return await self._of_console(await self._site.store.read(look))

    async def _of_console(self, command: Command) -> Stream:
        name = f"console-{command.seq}-{command.machine}"
        return await self._stream_of(stream_name(command, LOG_STREAM), name, command.machine, command)

    async def screen(self, request: Request) -> Response:
        """What its display shows now, as a PNG."""
        id, name = request.path_params["id"], request.path_params["machine"]
        identity = identity_of(request)
        async with self._ordering:  # two who look at once look at the same picture
            command = await self._site.store.read(lambda tables: self._last_picture(tables, id, name, identity))
            if command is None:
                wish = Wish(id="", method=SCREENSHOT, params={"start_within": _LOOK})
                command = (await self._site.actions.press(id, name, wish, fence=None, identity=identity)).command
        command = await self._ended(command)
        if command.state is not CommandState.COMPLETE:
            raise Broken(f"machine {name}: {command.message or 'its host draws no picture'}")
        try:
            data = base64.b64decode(str(command.result.get("png", "")), validate=True)
        except binascii.Error as exc:
            raise Broken(f"machine {name}: its picture is none") from exc
        return Response(data, media_type="image/png", headers={"Cache-Control": "no-store"})

    def _last_picture(self, tables: Tables, id: str, name: str, identity: Identity) -> Command | None:
        """One that is drawn now, or was just now, and is theirs to see."""
        row = need(tables.environments, id, "environment")
        _place(row, name)
        if not may_press(tables, row, identity, is_looking=True):
            raise NotAllowed(f"{identity.name or 'nobody'}: environment {id} is not lent to you")
        found = tables.commands.where(environment=id, machine=name, method=SCREENSHOT, newest=True, limit=1)
        for command in found:
            is_fresh = command.ended is None or self._site.now - command.ended < _FRESH
            if command.fence == row.fence and is_fresh and command.state is not CommandState.FAILED:
                return command
        return None

    async def _ended(self, command: Command) -> Command:
        loop = asyncio.get_running_loop()
        until = loop.time() + _LOOK
        with self._site.feed.listening([f"command:{command.id}"]) as (bell, _):
            while True:
                row = await self._site.store.read(partial(_find, id=command.id))
                left = until - loop.time()
                # Waits for: a write to this command, or the end of patience.
                if row is None or not row.is_open or left <= 0 or not await bell.wait(left):
                    return row or command

    # ---- logs ----

    async def _stream_of(self, archive: str, name: str, machine: str, command: Command | None) -> Stream:
        length = await self._site.archive.length(archive) or 0
        is_over = command is None or not command.is_open
        printed = 0 if command is None else command.outputs.get(LOG_STREAM, 0)
        return Stream(
            name=name,
            phase=name.partition("-")[0],
            step=1,
            title="",
            machine=machine,
            archive=archive,
            length=length,
            ended=is_over and length >= printed,
            state=_word(command),
            exit=None,
            began=(command.started or command.sent) if command is not None else None,
            until=command.ended if command is not None else None,
        )

    async def _window(self, stream: Stream) -> Window:
        if not stream.length:
            return Window(first=1, lines=(), total=0, length=0)
        if not self._site.logs.is_quick(stream):
            return await self._site.logs.opening(stream.archive, count=_SHOWN)
        return await self._site.logs.window(stream.archive, first=-_SHOWN, count=_SHOWN)


async def _of(found: Found, answer: Callable[[Request, Stream], Awaitable[Response]], request: Request) -> Response:
    return await answer(request, await found(request))


async def _live(found: Found, streams: Streams, request: Request) -> Response:
    async def has_ended() -> bool:
        try:
            return (await found(request)).ended
        except (Missing, NotAllowed):  # it is somebody else's by now
            return True

    return streams.follow_of(request, await found(request), has_ended)


def _find(tables: Tables, *, id: str) -> Command | None:
    return tables.commands.find(id)


def _parts(request: Request, kind: str) -> re.Match[str]:
    parts = _NAME.fullmatch(request.path_params["stream"])
    if parts is None or parts["kind"] != kind:
        raise Missing("log: there is none of that name")
    return parts


def _build_name(row: HostImage) -> str:
    return f"build-{row.log.rpartition('/')[2]}-{row.host}"


def _place(row: Environment, name: str) -> int:
    for place, machine in enumerate(row.machines):
        if machine.name == name:
            return place
    raise Missing(f"environment {row.id}: no machine {name}")


def _last_console(tables: Tables, row: Environment, machine: str, identity: Identity) -> Command | None:
    """The last one under the present fence that these eyes may see."""
    found = tables.commands.where(environment=row.id, machine=machine, method=CONSOLE, newest=True, limit=20)
    return next((one for one in found if one.fence == row.fence and may_see(tables, one, identity)), None)


def _word(command: Command | None) -> str:
    """How a build is; a console is neither good nor bad."""
    if command is None or command.method == CONSOLE:
        return ""
    return command.state.value
