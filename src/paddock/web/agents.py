"""What agents say of themselves, over the API and live: alerts, and their own log."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from paddock.core import alert
from paddock.core.errors import Missing
from paddock.engine import noting
from paddock.engine.ordering import agent_of
from paddock.web import telling
from paddock.web.api import LONGEST_WAIT, REFUSALS, Below, Id, Limit, Word
from paddock.web.live import BEAT, message
from paddock.web.roles import API
from paddock.web.site import Site, identity_of
from paddock.web.streams import Streams
from paddock.wire import shapes

Level = Annotated[str, Query(pattern=f"^({'|'.join(noting.LEVELS)})$")]
AT_ONCE = 200
"""Lines in one event of a live log."""
_LOOK = 5.0
"""Seconds after which a follower looks by itself."""


class Agents:
    """The routes."""

    def __init__(self, site: Site, streams: Streams) -> None:
        self._site = site
        self._streams = streams

    def mount(self, app: FastAPI) -> None:
        def add(method: str, path: str, endpoint: Callable[..., Any]) -> None:
            app.add_api_route(API + path, endpoint, methods=[method], responses=REFUSALS)

        add("GET", "/alerts", self.alerts)
        add("POST", "/alerts/{id}/acknowledge", self.acknowledge)
        add("GET", "/agents/{id}/log", self.log)
        add("GET", "/programs", self.programs)

    def routes(self) -> list[BaseRoute]:
        return [Route("/agents/{id}/log/live", self.follow)]

    async def alerts(
        self,
        state: Annotated[list[alert.State] | None, Query()] = None,
        agent: Word = None,
        below: Below = None,
        limit: Limit = 50,
    ) -> shapes.Alerts:
        """What agents want a person to know, newest first; without `state` what is not over."""
        equal: dict[str, Any] = {"state": state or sorted(alert.OPEN)}

        def look(tables: Any) -> list[alert.Alert]:
            if agent is not None:
                equal["agent"] = agent_of(tables, agent).id
            found: list[alert.Alert] = tables.alerts.where(newest=True, below=below, limit=limit + 1, **equal)
            return found

        rows = await self._site.store.read(look)
        told = tuple(telling.of_alert(row) for row in rows[:limit])
        return shapes.Alerts(items=told, next=rows[limit - 1].id if len(rows) > limit else None)

    async def acknowledge(self, request: Request, id: Id) -> shapes.Alert:
        """Say that a person knows: the agent stops repeating it. Idempotent."""
        return telling.of_alert(await self._site.actions.acknowledge(id, identity=identity_of(request)))

    async def log(
        self,
        id: Id,
        level: Level = "debug",
        cursor: Annotated[int | None, Query(ge=0, le=2**53)] = None,
        limit: Annotated[int, Query(ge=1, le=5000)] = 200,
        wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 0,
    ) -> shapes.AgentLines:
        """An agent's own log at or above a level: without `cursor` the last lines, with it those that came since."""
        site = self._site
        agent = (await site.store.read(lambda tables: agent_of(tables, id))).id
        if cursor is None:
            return telling.of_agent_lines(await noting.last(site.archive, agent, count=limit, level=level))
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        with site.tail.listening([noting.place(agent)]) as grew:
            while True:
                found = await noting.after(site.archive, agent, cursor, count=limit, level=level)
                cursor = found.cursor
                left = until - loop.time()
                if found.items or left <= 0:
                    return telling.of_agent_lines(found)
                # Waits for: growth of the log, or the end of `wait`.
                await grew.wait(min(left, _LOOK))

    async def programs(self) -> shapes.Programs:
        """The agent's program in each form that this server offers: what an agent is upgraded to."""
        base = self._site.public_url
        return shapes.Programs(
            items=tuple(
                shapes.Program(name=one.name, url=f"{base}/agent/{one.name}", sha256=one.sha256, size=len(one.content))
                for one in await self._site.kit.all()
            )
        )

    async def follow(self, request: Request) -> Response:
        """Events `lines [{at, level, text}]`: an agent's own log as it grows, from `cursor` on."""
        id = request.path_params["id"]
        agent = (await self._site.store.read(lambda tables: agent_of(tables, id))).id
        level = request.query_params.get("level", "debug")
        after = request.headers.get("last-event-id") or request.query_params.get("cursor", "0")
        if level not in noting.LEVELS or not after.isdecimal() or len(after) > 15:
            raise Missing(f"agent {agent}: its log has no such place or level")
        return self._streams.stream(self._lines(agent, int(after), level))

    async def _lines(self, agent: str, cursor: int, level: str) -> AsyncGenerator[bytes, None]:
        quiet = 0.0
        with self._site.tail.listening([noting.place(agent)]) as grew:
            yield b"retry: 1000\n\n"
            while True:
                found = await noting.after(self._site.archive, agent, cursor, count=AT_ONCE, level=level)
                cursor = found.cursor
                if found.items:
                    told = [{"at": line.at, "level": line.level, "text": words(line)} for line in found.items]
                    yield message(told, event="lines", id=str(cursor))
                    # A viewer draws a few times a second; whatever comes meanwhile is one more event.
                    await asyncio.sleep(0.05)
                elif not await grew.wait(_LOOK) and (quiet := quiet + _LOOK) >= BEAT:
                    quiet = 0.0
                    yield b": still here\n\n"


def words(line: noting.Line) -> str:
    """The message and its fields, as a person reads them."""
    fields = " ".join(f"{name}={_word(value)}" for name, value in line.fields.items())
    return f"{line.message}  {fields}" if fields else line.message


def _word(value: str) -> str:
    """One word as it is, anything else in quotes: where it ends must be seen."""
    return value if value and not set(value) & set(" \"'=") else json.dumps(value, ensure_ascii=False)
