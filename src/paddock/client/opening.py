"""How both clients reach a server: the same headers, limits and proxies."""

from collections.abc import Sequence
from typing import TypedDict, TypeVar
from urllib.parse import urlsplit

import httpx

from paddock import __version__
from paddock.client.calls import Call
from paddock.client.finding import Place

S = TypeVar("S")

CONNECT = 5.0
ANSWER = 30.0
"""Seconds for an answer that nobody waits with on purpose."""


class Options(TypedDict):
    """What httpx.Client and httpx.AsyncClient both take."""

    base_url: str
    headers: dict[str, str]
    follow_redirects: bool
    trust_env: bool


def options(place: Place) -> Options:
    headers = {"User-Agent": f"paddock/{__version__}", "Accept": "application/json"}
    if place.token:
        headers["Authorization"] = f"Bearer {place.token}"
    host = urlsplit(place.url).hostname or ""
    is_here = host in ("localhost", "::1") or host.startswith("127.")
    # A proxy of the environment has no business between two programs of one machine; a redirect none with a token.
    return Options(base_url=place.url, headers=headers, follow_redirects=False, trust_env=not is_here)


class Arguments(TypedDict):
    """What `request` of both takes."""

    method: str
    url: str
    params: dict[str, str | Sequence[str]]
    json: object


def limits(call: Call[S], limit: float | None) -> httpx.Timeout:
    answer = ANSWER + call.wait if limit is None else max(0.05, limit)
    return httpx.Timeout(answer, connect=min(CONNECT, answer))


def request(call: Call[S]) -> Arguments:
    return Arguments(
        method=call.method,
        url=call.path,
        params=dict(call.query),
        json=call.body if call.method == "POST" else None,
    )
