"""One small HTTP request to a metadata service: no proxy, no redirection, no large answer.

Effects: none.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from paddock.core.errors import Broken, Refused

_LONGEST = 1 << 20
_HEAD = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Response:
    """`headers` by their names in small letters."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


def place(url: str) -> tuple[str, int]:
    """Host and port of a service's URL. Refused for one that is not plain http."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError as exc:
        raise Refused(f"--metadata-url {url}: {exc}") from exc
    if parts.scheme != "http" or not host or parts.path not in ("", "/"):
        raise Refused(f"--metadata-url {url}: not a service's URL", hint="http://HOST:PORT")
    return host, port


async def fetch(
    host: str, port: int, path: str, *, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> Response:
    """The answer. Broken for none, or for what is no HTTP; the caller sets the deadline."""
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=_HEAD)
    except OSError as exc:
        raise Broken(f"{host}: {exc.strerror or exc}") from exc
    try:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", "User-Agent: paddock"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if method == "PUT":
            lines.append("Content-Length: 0")
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        return await _response(reader)
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as exc:
        raise Broken(f"{host}{path}: {exc}") from exc
    finally:
        with suppress(OSError):
            writer.transport.abort()


async def _response(reader: asyncio.StreamReader) -> Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    version, status, *_ = [*first.split(" "), "", ""]
    if not version.startswith("HTTP/1.") or not (status.isascii() and status.isdecimal() and len(status) == 3):
        raise ValueError("no HTTP")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _chunks(reader)
    elif headers.get("content-length", "").isdecimal():
        body = await reader.readexactly(min(int(headers["content-length"]), _LONGEST))
    else:
        body = await _rest(reader)
    return Response(status=int(status), headers=headers, body=body)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while len(body) < _LONGEST and (data := await reader.read(_LONGEST - len(body))):
        body += data
    return body


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while len(body) < _LONGEST:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size <= 0:
            break
        body += await reader.readexactly(min(size, _LONGEST))
        await reader.readexactly(2)
    return body
