"""Docker's Engine on its socket: which version of its API is spoken, and what its answers mean.

Effects: none of its own.
"""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

from paddock.core.errors import Broken, Missing, PaddockError, Refused
from paddock.wire.framing import JSON
from paddock_docker.http import ANSWER_LIMIT, Request, Response, asked

SOCKET = "/var/run/docker.sock"
NEWEST, OLDEST = (1, 44), (1, 24)
"""Of the Engine's API, what this extension was written for; between them it takes the newest that the Engine speaks."""
UNCHANGED = 304
Query = Mapping[str, str | int | bool | tuple[str, ...]]


class Taken(Refused):
    """What was asked for stands in another's way: a name that is taken, a container that runs."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An Engine that has answered, and the version that both speak."""

    socket: Path
    api: tuple[int, int]
    version: Mapping[str, JSON]

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: JSON = None,
        source: AsyncIterator[bytes] | None = None,
        limit: timedelta = ANSWER_LIMIT,
    ) -> AsyncIterator[Response]:
        """An answer that is none of the refusals. Raises what the Engine says, under the name of the thing."""
        target = f"/v{self.api[0]}.{self.api[1]}{path}" + (f"?{_spell(query)}" if query else "")
        request = Request(
            method=method,
            target=target,
            body=b"" if body is None else json.dumps(body).encode(),
            source=source,
            kind="application/json" if source is None else "application/x-tar",
        )
        async with asked(self.socket, request, limit=limit) as response:
            if response.status >= 400:
                raise refusal(response.status, await response.whole(most=1 << 20))
            yield response

    async def ask(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: JSON = None,
        limit: timedelta = ANSWER_LIMIT,
    ) -> JSON:
        """What the Engine answers; None without a body. False where it says that nothing was to be done."""
        async with self.open(method, path, query, body=body, limit=limit) as response:
            if response.status == UNCHANGED:
                return False
            return parse(await response.whole())

    async def inspect(self, path: str) -> Mapping[str, JSON] | None:
        """What the Engine says of one thing; None if it has no such thing."""
        try:
            return obj(await self.ask("GET", path))
        except Missing:
            return None


def address() -> Path:
    """Where the Engine is. Refused if DOCKER_HOST names something that is no socket of this machine."""
    told = os.environ.get("DOCKER_HOST", "")
    if told and not told.startswith("unix://"):
        raise Refused(f"DOCKER_HOST {told}: not a socket of this machine", hint="DOCKER_HOST=unix:///PATH")
    return Path(told.removeprefix("unix://") or SOCKET)


async def connect() -> Engine:
    """The Engine of this machine. Asked anew for each command: it may have been replaced by a newer one."""
    socket = address()
    async with asked(socket, Request(method="GET", target="/version")) as response:
        text = await response.whole(most=1 << 20)
        if response.status != 200:
            raise refusal(response.status, text)
    version = obj(parse(text))
    theirs, least = _number(version.get("ApiVersion")), _number(version.get("MinAPIVersion", "1.0"))
    api = min(theirs, NEWEST)
    if api < max(least, OLDEST):
        spoken = f"{least[0]}.{least[1]} to {theirs[0]}.{theirs[1]}"
        raise Broken(f"Docker Engine {version.get('Version')}: speaks API {spoken}, which this extension does not")
    return Engine(socket=socket, api=api, version=version)


def refusal(status: int, text: bytes) -> PaddockError:
    """The Engine's own words as the error that its status means."""
    try:
        message = str(obj(parse(text)).get("message", "")) or text.decode("utf-8", "replace")
    except Broken:
        message = text.decode("utf-8", "replace")
    told = f"Docker Engine: {message.strip()[:2000] or f'HTTP {status}'}"
    if status == 404:
        return Missing(told)
    if status == 409:
        return Taken(told)
    return Refused(told) if status < 500 else Broken(told)


def parse(text: bytes) -> JSON:
    """An answer's body as JSON; None if there is none."""
    if not text.strip():
        return None
    try:
        found: JSON = json.loads(text)
    except ValueError as exc:
        raise Broken(f"Docker Engine: its answer is no JSON: {exc}") from exc
    return found


def obj(found: JSON) -> Mapping[str, JSON]:
    """An object out of an answer; whatever else it is counts as an empty one."""
    return found if isinstance(found, dict) else {}


def rows(found: JSON) -> list[Mapping[str, JSON]]:
    """A list of objects out of an answer."""
    return [obj(one) for one in found] if isinstance(found, list) else []


def texts(found: JSON) -> list[JSON]:
    """A list of texts out of an answer."""
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _spell(query: Query) -> str:
    return urlencode(
        [
            (name, str(one).lower() if isinstance(one, bool) else str(one))
            for name, value in query.items()
            for one in (value if isinstance(value, tuple) else (value,))
        ]
    )


def _number(found: JSON) -> tuple[int, int]:
    major, _, minor = str(found).partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise Broken(f"Docker Engine: calls its API {found!r}, which is no version")
    return int(major), int(minor)
