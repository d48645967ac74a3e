"""Routes that carry bytes: raw logs, windows of lines, artifacts, live streams."""

import asyncio
import mimetypes
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from posixpath import basename
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from paddock.core.errors import Broken, Missing, Refused
from paddock.web.live import AT_MOST, PATIENCE, appended, grown, touches
from paddock.web.logs import Stream
from paddock.web.reading import need, streams_of, whole_run
from paddock.web.site import Site

_PIECE = 256 * 1024
_TOPIC = re.compile(r"[a-z]+(:[A-Za-z0-9_.@:+/-]{1,300})?")
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_TEXTS = frozenset(
    """.cfg .conf .css .csv .diff .err .htm .html .ini .js .json .log .md .out .patch .py .rst .sh .subunit .svg .toml
    .txt .xml .yaml .yml""".split()
)
# Whatever a machine wrote may be hostile: nothing in it runs, loads, frames or asks for anything in our name.
_INERT = {"Content-Security-Policy": "sandbox; default-src 'none'; style-src 'none'"}


class EventStream(Response):
    """Server-sent events; a listener that does not take them in time is dropped, one that left is noticed."""

    media_type = "text/event-stream"

    def __init__(self, source: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        async with asyncio.TaskGroup() as group:
            # Waits for: the end of the source or its listener's patience, and the listener leaving.
            pumping = group.create_task(self._pump(send))
            leaving = group.create_task(_left(receive))
            pumping.add_done_callback(lambda _: leaving.cancel())
            leaving.add_done_callback(lambda _: pumping.cancel())

    async def _pump(self, send: Send) -> None:
        try:
            # Closed here and now, so that no bell of a listener who left goes on hanging.
            async with aclosing(self._source):
                async for piece in self._source:
                    async with asyncio.timeout(PATIENCE):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except (TimeoutError, OSError):
            # Too slow, or gone: it reconnects by itself and reads on from where it was.
            return


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Streams:
    """The routes; logs and artifacts are found through their run, never by a path that a browser sent."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._listeners = 0

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/live", self.live),
            Route("/runs/{id}/log/{stream}", self.raw),
            Route("/runs/{id}/log/{stream}/lines", self.lines),
            Route("/runs/{id}/log/{stream}/search", self.search),
            Route("/runs/{id}/log/{stream}/live", self.follow),
            Route("/runs/{id}/artifacts/{path:path}", self.artifact),
            Route("/runs/{id}/results/{path:path}", self.result),
        ]

    async def live(self, request: Request) -> Response:
        """Topics that were touched: `now`, `events`, `run:7`, `environment:two-1`, `change:forge/7`..."""
        topics = request.query_params.get("topics", "now").split(",")[:20]
        if not all(_TOPIC.fullmatch(topic) for topic in topics):
            raise Missing("live: there is no such topic")
        return EventStream(self._counted(touches(self._site.feed, topics)))

    async def follow(self, request: Request) -> Response:
        """The bytes of one log from `offset` on, as they are written; with `bell` only word that it grew."""
        run, stream = await self._stream(request)

        async def has_ended() -> bool:
            whole = await self._site.store.read(lambda tables: whole_run(tables, run))
            streams = await streams_of(self._site.archive, whole.run, whole.commands)
            return all(each.ended for each in streams if each.name == stream.name)

        return self.follow_of(request, stream, has_ended)

    def follow_of(self, request: Request, stream: Stream, has_ended: Callable[[], Awaitable[bool]]) -> Response:
        """The same of any log; `has_ended` is asked while it is silent."""
        site = self._site
        after = request.headers.get("last-event-id") or request.query_params.get("offset", "0")
        offset = _number(after, 0, 2**53)
        if "bell" in request.query_params:
            source = grown(site.tail, site.archive, stream.archive, has_ended=has_ended)
        else:
            source = appended(site.tail, site.archive, stream.archive, offset=offset, has_ended=has_ended)
        return EventStream(self._counted(source))

    def stream(self, source: AsyncGenerator[bytes, None]) -> Response:
        """Server-sent events of somebody else's, under the same limits."""
        return EventStream(self._counted(source))

    async def _counted(self, source: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        if self._listeners >= AT_MOST:
            yield b"retry: 30000\n\n"
            return
        self._listeners += 1
        try:
            async with aclosing(source):
                async for piece in source:
                    yield piece
        finally:
            self._listeners -= 1

    async def raw(self, request: Request) -> Response:
        """A log as it was printed; `Range` and `offset`, `limit` are understood."""
        _, stream = await self._stream(request)
        return await self.raw_of(request, stream)

    async def raw_of(self, request: Request, stream: Stream) -> Response:
        """The same of any log."""
        return await self._bytes(request, stream.archive, "text/plain; charset=utf-8", {})

    async def lines(self, request: Request) -> Response:
        """Some lines as safe HTML, for the page's window onto a log."""
        _, stream = await self._stream(request)
        return await self.lines_of(request, stream)

    async def lines_of(self, request: Request, stream: Stream) -> Response:
        """The same of any log."""
        first = _number(request.query_params.get("first", "1"), -(2**53), 2**53)
        count = _number(request.query_params.get("count", "300"), 1, 2000)
        if not await self._site.archive.length(stream.archive):
            return JSONResponse({"first": 1, "total": 0, "length": 0, "ended": stream.ended, "lines": []})
        window = await self._site.logs.window(stream.archive, first=first, count=count)
        return JSONResponse(
            {
                "first": window.first,
                "total": window.total,
                "length": window.length,
                "ended": stream.ended,
                "lines": [[line.number, line.at, line.html] for line in window.lines],
            }
        )

    async def search(self, request: Request) -> Response:
        """Numbers of the lines that hold `q`."""
        _, stream = await self._stream(request)
        return await self.search_of(request, stream)

    async def search_of(self, request: Request, stream: Stream) -> Response:
        """The same of any log."""
        wanted = request.query_params.get("q", "")[:200]
        if not wanted or not await self._site.archive.length(stream.archive):
            return JSONResponse({"hits": [], "more": False})
        hits, more = await self._site.logs.search(stream.archive, wanted.encode("utf-8", "replace").decode())
        return JSONResponse({"hits": hits, "more": more})

    async def artifact(self, request: Request) -> Response:
        return await self._file(request, "artifacts")

    async def result(self, request: Request) -> Response:
        return await self._file(request, "results")

    async def _stream(self, request: Request) -> tuple[str, Stream]:
        id, name = request.path_params["id"], request.path_params["stream"]
        whole = await self._site.store.read(lambda tables: whole_run(tables, id))
        for stream in await streams_of(self._site.archive, whole.run, whole.commands):
            if stream.name == name:
                return id, stream
        raise Missing(f"run {id}: it has no log of that name")

    async def _file(self, request: Request, folder: str) -> Response:
        """A file that a machine wrote, served so that it can only be looked at."""
        id, path = request.path_params["id"], request.path_params["path"]
        run = await self._site.store.read(lambda tables: need(tables.runs, id, "run"))
        if not run.archive or any(part in ("", ".", "..") for part in path.split("/")):
            raise Missing(f"run {id}: it has no such file")
        kind = mimetypes.guess_type(path)[0] or ""
        suffix = f".{path.rpartition('.')[2].lower()}" if "." in basename(path) else ""
        headers = dict(_INERT)
        if suffix in _TEXTS or kind == "text/plain":
            kind = "text/plain; charset=utf-8"
        elif kind not in _PICTURES:
            kind = "application/octet-stream"
        manner = "attachment" if kind == "application/octet-stream" else "inline"
        headers["Content-Disposition"] = f"{manner}; filename*=UTF-8''{quote(basename(path), safe='')}"
        try:
            return await self._bytes(request, f"{run.archive}/{folder}/{path}", kind, headers)
        except Refused as exc:
            raise Missing(f"run {id}: it has no such file") from exc

    async def _bytes(self, request: Request, name: str, kind: str, headers: dict[str, str]) -> Response:
        """A file of the archive, or the part that was asked for, read piece by piece as it is taken."""
        length = await self._site.archive.length(name)
        if length is None:
            raise Missing("file: there is none of that name")
        start, end, status = 0, length, 200
        if (wanted := _RANGE.fullmatch(request.headers.get("range", ""))) and any(wanted.groups()):
            start, end = _bounds(wanted[1], wanted[2], length)
            if start >= end:
                return Response(status_code=416, headers={"Content-Range": f"bytes */{length}"})
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{length}"
        elif "offset" in request.query_params or "limit" in request.query_params:
            start = min(length, _number(request.query_params.get("offset", "0"), 0, 2**53))
            end = min(length, start + _number(request.query_params.get("limit", str(_PIECE)), 0, 2**53))
        headers |= {"Content-Length": str(end - start), "Accept-Ranges": "bytes", "Paddock-Length": str(length)}
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=kind)
        return StreamingResponse(self._read(name, start, end), status_code=status, headers=headers, media_type=kind)

    async def _read(self, name: str, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            piece = await self._site.archive.read(name, start, min(_PIECE, end - start))
            if not piece:
                raise Broken(f"{name}: it became shorter while it was read")
            yield piece
            start += len(piece)


def _bounds(first: str, last: str, length: int) -> tuple[int, int]:
    """Start and end of a byte range; `-500` means the last 500."""
    if not first:
        return max(0, length - int(last)), length
    return int(first), min(length, int(last) + 1) if last else length


def _number(text: str, least: int, most: int) -> int:
    """A whole number of a query, kept within its bounds; what is none of it is the least."""
    try:
        return max(least, min(most, int(text[:20])))
    except ValueError:
        return least
