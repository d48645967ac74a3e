"""The API's routes to command agents: order, wait, cancel, read what it printed."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from starlette.responses import PlainTextResponse

from paddock.core import command as commands
from paddock.core.command import Command
from paddock.core.errors import Missing, Refused
from paddock.engine.filing import lengths, stream_name
from paddock.engine.ordering import Wish, agent_of, may_see, need_seen, own
from paddock.ports import Tables
from paddock.web import telling
from paddock.web.api import LONGEST_WAIT, REFUSALS, BadInput, Below, Id, Limit
from paddock.web.roles import API
from paddock.web.site import Site, identity_of
from paddock.wire import shapes
from paddock.wire.framing import Malformed, dump

AGENT = f"{API}/agents/{{id}}/commands"
ONE = f"{AGENT}/{{command}}"
LONGEST_ID = 100
LONGEST_GRACE = 600.0
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.@:+-]{{0,{LONGEST_ID - 1}}}")
_METHOD = re.compile(r"[a-z][a-z0-9_]{0,60}(\.[a-z][a-z0-9_]{0,60})?")
_PIECE = 1024 * 1024
_LOOK = 5.0
"""Seconds after which a follower looks by itself."""

CommandId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@:+-]*$", max_length=200)]
Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT)]


class Orders:
    """The routes; that somebody may use them at all was decided by the door, what they may order decides the engine."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def mount(self, app: FastAPI) -> None:
        def add(method: str, path: str, endpoint: Callable[..., Any], **rest: Any) -> None:
            app.add_api_route(path, endpoint, methods=[method], responses=REFUSALS, **rest)

        add("POST", AGENT, self.order, status_code=201)
        add("GET", AGENT, self.commands)
        add("GET", ONE, self.command)
        add("GET", f"{ONE}/output", self.output, response_class=PlainTextResponse)
        add("POST", f"{ONE}/cancel", self.cancel)

    async def order(
        self, request: Request, response: Response, id: Id, wanted: shapes.OrderCommand
    ) -> shapes.AgentCommand:
        """Have an agent do something, at most once. 201: queued now. 200: this id was ordered before, here it is.

        An agent that is away gets it when it is back; give `start_within` for what must not be late.
        """
        wish = _wish(wanted)
        ordered = await self._site.actions.order(id, wish, identity=identity_of(request))
        if not ordered.is_new:
            response.status_code = 200
        return telling.of_order(ordered.command)

    async def commands(
        self,
        request: Request,
        id: Id,
        state: Annotated[list[commands.State] | None, Query()] = None,
        below: Below = None,
        limit: Limit = 50,
    ) -> shapes.AgentCommands:
        """All commands of an agent, newest first: people's, runs' and upkeep's."""
        identity = identity_of(request)

        def look(tables: Tables) -> shapes.AgentCommands:
            equal: dict[str, Any] = {"state": state} if state else {}
            rows = tables.commands.where(
                agent=agent_of(tables, id).id, newest=True, below=below, limit=limit + 1, **equal
            )
            told = tuple(telling.of_order(row, is_open=may_see(tables, row, identity)) for row in rows[:limit])
            return shapes.AgentCommands(items=told, next=rows[limit - 1].id if len(rows) > limit else None)

        return await self._site.store.read(look)

    async def command(self, request: Request, id: Id, command: CommandId, wait: Wait = 0) -> shapes.AgentCommand:
        """One command; with `wait`, answers when it is over or after so many seconds."""
        identity = identity_of(request)
        loop = asyncio.get_running_loop()
        until = loop.time() + wait

        def look(tables: Tables) -> tuple[Command, bool]:
            row = own(tables, id, command)
            return row, may_see(tables, row, identity)

        with self._site.feed.listening([f"command:{command}"]) as (bell, _):
            while True:
                row, is_open = await self._site.store.read(look)
                left = until - loop.time()
                # Waits for: a write to this command, or the end of `wait`.
                if not row.is_open or left <= 0 or not await bell.wait(left):
                    return telling.of_order(row, is_open=is_open)

    async def output(
        self,
        request: Request,
        id: Id,
        command: CommandId,
        stream: Annotated[str, Query(min_length=1, max_length=2000)] = "out",
        offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=16 * _PIECE)] = _PIECE,
        wait: Wait = 0,
    ) -> Response:
        """Bytes of what it printed (`out`) or of a file that it brought; with `wait`, as soon as there are some.

        The header `Paddock-Length` says how long it is by now, `Paddock-Ended` whether it will grow no more.
        """
        site, identity = self._site, identity_of(request)
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        row = await site.store.read(lambda tables: need_seen(tables, id, command, identity))
        name = _archived(row, stream)
        with site.tail.listening([name]) as grew, site.feed.listening([f"command:{command}"], bell=grew):
            while True:
                row = await site.store.read(lambda tables: need_seen(tables, id, command, identity))
                length = await site.archive.length(name)
                ended = not row.is_open and (length or 0) >= row.outputs.get(stream, 0)
                left = until - loop.time()
                if (length or 0) > offset or ended or left <= 0:
                    break
                # Waits for: growth of the stream, a write to the command, or the end of `wait`.
                await grew.wait(min(left, _LOOK))
        if length is None and not row.is_open and stream not in row.outputs and stream != "out":
            raise Missing(f"command {command}: it has no stream {stream!r}", hint=await self._streams(row))
        there = length or 0
        data = await site.archive.read(name, offset, min(limit, there - offset)) if offset < there else b""
        is_last = ended and offset + len(data) >= there
        headers = {"Paddock-Length": str(there), "Paddock-Ended": "yes" if is_last else "no"}
        return Response(data, media_type="application/octet-stream", headers=headers)

    async def _streams(self, row: Command) -> str:
        names: Sequence[str] = sorted({*row.outputs, *await lengths(self._site.archive, row)})
        return f"its streams: {', '.join(names[:20])}" if names else "it has none"

    async def cancel(
        self, request: Request, id: Id, command: CommandId, wanted: shapes.CancelCommand
    ) -> shapes.AgentCommand:
        """End it: not sent yet, it is not; else its whole tree gets TERM, then KILL. Wait for it to be over."""
        if wanted.grace is not None and not 0 <= wanted.grace <= LONGEST_GRACE:
            raise BadInput(f"grace: it is not between 0 and {LONGEST_GRACE:g} seconds")
        row = await self._site.actions.cancel_order(id, command, grace=wanted.grace, identity=identity_of(request))
        return telling.of_order(row)


def check_id(id: str | None) -> None:
    """`BadInput` for the id of a command that cannot be one."""
    # An empty one is a mistake of whoever asks, who would ask again with it: each time another command.
    if id is not None and not _ID.fullmatch(id):
        raise BadInput(
            f"id: it is not 1 to {LONGEST_ID} letters, digits and _.@:+- beginning with one of the first two"
        )


def _wish(wanted: shapes.OrderCommand) -> Wish:
    check_id(wanted.id)
    if not _METHOD.fullmatch(wanted.method):
        raise BadInput("method: it is no name of a method, like script.run")
    try:
        dump({"params": wanted.params})  # type: ignore[dict-item]
    except Malformed as exc:
        raise BadInput(f"params: {exc.why}") from exc
    return Wish(id=wanted.id or "", method=wanted.method, params=wanted.params)


def _archived(row: Command, stream: str) -> str:
    try:
        return stream_name(row, stream)
    except Refused as exc:
        raise Missing(f"command {row.id}: {exc.message}") from exc
