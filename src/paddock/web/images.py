"""The API's routes to images: what hosts have of them, builds, logs, collection."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from starlette.responses import PlainTextResponse

from paddock.core import command as commands
from paddock.core.command import Command
from paddock.core.configuration import Configuration
from paddock.core.errors import Missing, Refused
from paddock.core.image import HostImage, Image, State, chain, recipe
from paddock.engine import imaging
from paddock.ports import Tables
from paddock.web import telling
from paddock.web.api import LONGEST_WAIT, REFUSALS, BadInput, line
from paddock.web.roles import API
from paddock.web.site import Site, identity_of
from paddock.wire import shapes

LONGEST_AGE = 315_360_000.0
_PIECE = 1024 * 1024
_LOOK = 5.0
"""Seconds after which a follower looks by itself."""

Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Id = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=201)]


class Images:
    """The routes."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def mount(self, app: FastAPI) -> None:
        def add(method: str, path: str, endpoint: Callable[..., Any], **rest: Any) -> None:
            app.add_api_route(f"{API}/images{path}", endpoint, methods=[method], responses=REFUSALS, **rest)

        add("GET", "", self.images)
        add("POST", "/collect", self.collect, status_code=201)
        add("GET", "/{name}", self.image)
        add("POST", "/{name}/build", self.build)
        add("GET", "/{id}/log", self.log, response_class=PlainTextResponse)

    async def images(self) -> shapes.Images:
        """All images that are configured, in the order of the file, each with what hosts have of it."""
        configuration = self._site.configuration()
        told = await self._site.store.read(
            lambda tables: tuple(tell(tables, configuration, image) for image in configuration.images.values())
        )
        return shapes.Images(items=told)

    async def image(self, name: Name) -> shapes.Image:
        """One image."""
        return await self._told(name)

    async def _told(self, name: str) -> shapes.Image:
        configuration = self._site.configuration()
        if name not in configuration.images:
            raise Missing(f"image {name}: it is not configured", hint="paddock image list")
        return await self._site.store.read(lambda tables: tell(tables, configuration, configuration.images[name]))

    async def build(self, request: Request, name: Name, wanted: shapes.BuildImage) -> shapes.Image:
        """Have it built, or built anew. What serves meanwhile goes on serving; the log tells how far it is."""
        await self._site.actions.build_image(name, host=line(wanted.host), identity=identity_of(request))
        return await self._told(name)

    async def collect(self, request: Request, wanted: shapes.CollectImages) -> shapes.AgentCommands:
        """Have hosts remove what nobody needs. One command a host, whose result says what went, or would go."""
        if wanted.unused is not None and not 0 <= wanted.unused <= LONGEST_AGE:
            raise BadInput(f"unused: it is not between 0 and {LONGEST_AGE:g} seconds")
        if wanted.room is not None and not 0 <= wanted.room < 2**63:
            raise BadInput("room: it is not a number of bytes")
        params: dict[str, object] = {"dry_run": wanted.dry_run}
        if wanted.unused is not None:
            params["unused"] = wanted.unused
        if wanted.room is not None:
            params["room"] = wanted.room
        rows = await self._site.actions.collect_images(
            host=line(wanted.host), params=params, identity=identity_of(request)
        )
        return shapes.AgentCommands(items=tuple(telling.of_order(row) for row in rows))

    async def log(
        self,
        id: Id,
        offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=16 * _PIECE)] = _PIECE,
        wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 0,
    ) -> Response:
        """Bytes of the log of the present build, or the last one; with `wait`, as soon as there are some.

        `IMAGE@HOST`, or the image's name where one host has it. The header `Paddock-Length` says how long it is by now,
        `Paddock-Ended` whether it will grow no more.
        """
        site = self._site
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        first = await site.store.read(lambda tables: row_of(tables, id))
        name = f"{first.log}.log"
        with site.tail.listening([name]) as grew, site.feed.listening([f"image:{first.id}"], bell=grew):
            while True:
                row, command = await site.store.read(lambda tables: _build_of(tables, first.id))
                length = await site.archive.length(name)
                is_over = command is None or not command.is_open
                announced = 0 if command is None else command.outputs.get("out", 0)
                ended = is_over and (row is None or row.log != first.log or (length or 0) >= announced)
                left = until - loop.time()
                if (length or 0) > offset or ended or left <= 0:
                    break
                # Waits for: growth of the log, a write to the row, or the end of `wait`.
                await grew.wait(min(left, _LOOK))
        there = length or 0
        data = await site.archive.read(name, offset, min(limit, there - offset)) if offset < there else b""
        is_last = ended and offset + len(data) >= there
        headers = {"Paddock-Length": str(there), "Paddock-Ended": "yes" if is_last else "no"}
        return Response(data, media_type="text/plain; charset=utf-8", headers=headers)


def row_of(tables: Tables, id: str) -> HostImage:
    """The row whose log is wanted. `Missing` where there is none, `Refused` where several hosts have it."""
    row = tables.images.find(id)
    rows = [row] if row is not None else tables.images.where(image=id)
    built = [one for one in rows if one.log]
    if not built:
        raise Missing(f"image {id}: no host has built it", hint="paddock image list")
    if len(built) > 1:
        names = ", ".join(one.id for one in built)
        raise Refused(f"image {id}: several hosts have built it", hint=f"say which: {names}")
    return built[0]


def _build_of(tables: Tables, id: str) -> tuple[HostImage | None, Command | None]:
    row = tables.images.find(id)
    return row, None if row is None else imaging.build_of(tables, row)


def tell(tables: Tables, configuration: Configuration, image: Image) -> shapes.Image:
    """An image as configured, with its rows."""
    made = recipe(chain(configuration.images, image.name))
    return shapes.Image(
        name=image.name,
        parent=image.parent,
        source=image.url or image.path,
        size=image.size,
        scripts=tuple(script.name for script in image.scripts),
        recipe=made,
        pools=tuple(
            pool.name
            for pool in configuration.pools.values()
            if any(machine.image == image.name for machine in pool.settings)
        ),
        hosts=tuple(tell_row(tables, row, made) for row in tables.images.where(image=image.name)),
        where=image.where,
    )


def tell_row(tables: Tables, row: HostImage, wanted: str) -> shapes.HostImage:
    """What a host has of an image; `wanted` is the recipe that is configured now."""
    command = imaging.build_of(tables, row) if row.state is State.BUILDING else None
    is_running = command is not None and command.state is commands.State.RUNNING
    return telling.of_host_image(
        row,
        is_current=row.serves and recipe(row.serving) == wanted,
        percent=command.percent if command is not None and is_running else None,
        eta=command.eta if command is not None and is_running else None,
    )
