"""Puts API, pages, live streams and doors together into one ASGI app."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from paddock import __version__
from paddock.core.configuration import Configuration
from paddock.core.errors import PaddockError
from paddock.ports import Archive, Clock, Store
from paddock.settings.problems import suggest
from paddock.web.actions import Actions
from paddock.web.agents import Agents
from paddock.web.api import Api, BadInput
from paddock.web.buttons import Buttons
from paddock.web.description import described
from paddock.web.door import Door
from paddock.web.enrolling import Enrolling
from paddock.web.figures import Figures
from paddock.web.images import Images
from paddock.web.kit import Kit
from paddock.web.live import Feed, Tail
from paddock.web.logs import Logs
from paddock.web.machines import Machines
from paddock.web.orders import Orders
from paddock.web.pages import Pages
from paddock.web.site import Site
from paddock.web.streams import Streams
from paddock.web.virtual import Virtual
from paddock.wire import shapes


def create_app(
    store: Store,
    archive: Archive,
    actions: Actions,
    configuration: Callable[[], Configuration],
    clock: Clock,
    kit: Kit,
    *,
    tail: Tail | None = None,
    agents: ASGIApp | None = None,
    ailing: Callable[[], Mapping[str, str]] = dict,
    draining: Callable[[], bool] = bool,
) -> Door:
    """The whole web as one ASGI app.

    `kit`: what a machine needs to become a host.
    `tail`: told by the server wherever a log grew. `agents`: takes the WebSocket at /agent. `ailing`: what does not
    work now, name → words; /healthz answers 503 with it. `draining`: whether no new run is started.
    """
    site = Site(
        store=store,
        archive=archive,
        actions=actions,
        configuration=configuration,
        clock=clock,
        feed=Feed(store),
        tail=tail or Tail(),
        logs=Logs(archive),
        figures=Figures(),
        kit=kit,
        ailing=ailing,
        draining=draining,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        site.feed.stop()

    app = FastAPI(
        title="Paddock",
        version=__version__,
        description="Lends whole machine rooms to changes under test.",
        openapi_url=None,  # pages serves it, with what the door adds
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # The door has the last word on every exception; a traceback never reaches a browser.
        exception_handlers={RequestValidationError: _bad_input},
    )
    Api(site).mount(app)
    Orders(site).mount(app)
    Machines(site).mount(app)
    Images(site).mount(app)
    streams = Streams(site)
    agents_own = Agents(site, streams)
    agents_own.mount(app)
    pages = Pages(site, schema=lambda: described(app))
    app.router.routes.extend(
        [
            *streams.routes(),
            *agents_own.routes(),
            *pages.routes(),
            *Virtual(site, pages, streams).routes(),
            *Buttons(site, pages).routes(),
            *Enrolling(site).routes(),
        ]
    )
    app.add_exception_handler(PaddockError, pages.on_purpose)
    app.add_exception_handler(Exception, pages.on_defect)
    app.add_exception_handler(BadInput, pages.on_bad_input)
    app.add_exception_handler(HTTPException, pages.on_http)
    return Door(site, app, app.router.routes, pages, agents)


async def _bad_input(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    first: Mapping[str, Any] = exc.errors()[0]
    # An index only counts how often a parameter stands in the query.
    place = ".".join(str(part) for part in first["loc"] if part not in ("path", "query", "body") and part != 0)
    fact = first["msg"]
    if first["type"] == "enum":
        known = re.findall("'([^']*)'", first["ctx"]["expected"])
        given = str(first["input"])
        fact = f"{ascii(given)[:80]} is none of {', '.join(known)}{suggest(given[:80], known)}"
    return _failure(422, shapes.Problem(code="bad_input", message=f"{place or 'body'}: {fact}"))


def _failure(status: int, problem: shapes.Problem) -> Response:
    return JSONResponse(shapes.plain(shapes.Failure(error=problem)), status_code=status)
