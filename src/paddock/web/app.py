"""Puts API, pages, live streams and doors together into one ASGI app."""

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
from paddock.web.actions import Actions
from paddock.web.api import Api, BadInput
from paddock.web.buttons import Buttons
from paddock.web.door import Door
from paddock.web.figures import Figures
from paddock.web.live import Feed, Tail
from paddock.web.logs import Logs
from paddock.web.pages import Pages
from paddock.web.site import Site
from paddock.web.streams import Streams
from paddock.wire import shapes


def create_app(
    store: Store,
    archive: Archive,
    actions: Actions,
    configuration: Callable[[], Configuration],
    clock: Clock,
    *,
    tail: Tail | None = None,
    agents: ASGIApp | None = None,
    ailing: Callable[[], Mapping[str, str]] = dict,
) -> Door:
    """The whole web as one ASGI app.

    `tail`: told by the server wherever a log grew. `agents`: takes the WebSocket at /agent. `ailing`: what does not
    work now, name → words; /healthz answers 503 with it.
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
        ailing=ailing,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        site.feed.stop()

    app = FastAPI(
        title="Paddock",
        version=__version__,
        description="Lends whole machine rooms to changes under test.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # The door has the last word on every exception; a traceback never reaches a browser.
        exception_handlers={RequestValidationError: _bad_input},
    )
    Api(site).mount(app)
    pages = Pages(site, schema=app.openapi)
    app.router.routes.extend([*Streams(site).routes(), *pages.routes(), *Buttons(site, pages).routes()])
    app.add_exception_handler(PaddockError, pages.on_purpose)
    app.add_exception_handler(Exception, pages.on_defect)
    app.add_exception_handler(BadInput, pages.on_bad_input)
    app.add_exception_handler(HTTPException, pages.on_http)
    return Door(site, app, app.router.routes, pages, agents)


async def _bad_input(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    first: Mapping[str, Any] = exc.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("path", "query", "body"))
    return _failure(422, shapes.Problem(code="bad_input", message=f"{place or 'body'}: {first['msg']}"))


def _failure(status: int, problem: shapes.Problem) -> Response:
    return JSONResponse(shapes.plain(shapes.Failure(error=problem)), status_code=status)
