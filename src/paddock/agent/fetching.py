"""Fetches a file by its URL and digest: it is there whole and right, or not at all.

Effects: idempotent; a draft that was left is written over.
"""

import asyncio
import contextlib
import hashlib
import ipaddress
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from paddock.core.errors import Broken, PaddockError, Refused

if TYPE_CHECKING:
    from ssl import SSLContext
    from urllib.request import OpenerDirector

_CHUNK = 1 << 16
_SILENCE = 20.0  # seconds without a byte until it is given up


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file that is somewhere else. `resolve` says where a path of this machine is, or refuses it."""

    url: str
    sha256: str
    most: int
    """Bytes."""
    resolve: Callable[[str], Path] = field(default=Path)
    trust: "SSLContext | None" = None
    """Whom a TLS connection trusts; the system's authorities if None."""


def objection(url: str) -> str:
    """Why this is no URL to fetch from; nothing if it is one.

    The digest tells whether it is the right file. Without TLS others would still read it, and recipes hold secrets: in
    clear it does not leave the machine.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as exc:
        return str(exc)
    if parts.username is not None or parts.password is not None:
        return "has a user or a password in it, which would stand in every log"
    match parts.scheme:
        case "https" if host:
            return ""
        case "http" if _is_own(host):
            return ""
        case "http":
            return "is http to another machine: in clear nothing is fetched but from this machine itself"
        case "file" if host in ("", "localhost") and parts.path.startswith("/"):
            return ""
    return "is neither https://HOST/..., file:///... nor http:// of this machine"


def _is_own(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


async def fetch(wanted: Wanted, into: Path, *, limit: timedelta) -> None:
    """The file is there when this returns. Refused for a URL that is not taken, another digest or too many bytes.

    Broken if it cannot be had. Cancelled, it returns at once; a thread that still waits writes nothing any more.
    """
    if why := objection(wanted.url):
        raise Refused(f"{wanted.url}: {why}")
    given_up = threading.Event()
    try:
        async with asyncio.timeout(limit.total_seconds()):
            await asyncio.to_thread(_fetch, wanted, into, given_up)
    except TimeoutError:
        raise Broken(f"{wanted.url}: is not here after {limit.total_seconds():g} s") from None
    finally:
        given_up.set()


def _fetch(wanted: Wanted, into: Path, given_up: threading.Event) -> None:
    draft = into.with_name(f".{into.name}.fetched")
    try:
        with _opened(wanted) as source, _create(draft) as target:
            _copy(wanted, source, target, given_up)
        if not given_up.is_set():
            draft.rename(into)
    except PaddockError:
        raise
    except OSError as exc:  # of files, sockets, TLS; urllib's own errors are OSErrors too
        raise Broken(f"{wanted.url}: {getattr(exc, 'reason', None) or exc.strerror or exc}") from exc
    except Exception as exc:
        if type(exc).__module__ != "http.client":
            raise
        raise Broken(f"{wanted.url}: {type(exc).__name__}: {exc}") from exc
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _create(draft: Path) -> BinaryIO:
    return os.fdopen(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb")


def _copy(wanted: Wanted, source: BinaryIO, target: BinaryIO, given_up: threading.Event) -> None:
    digest, size = hashlib.sha256(), 0
    while (data := source.read(_CHUNK)) and not given_up.is_set():
        size += len(data)
        if size > wanted.most:
            raise Refused(f"{wanted.url}: has more than {wanted.most} bytes")
        digest.update(data)
        target.write(data)
    if digest.hexdigest() != wanted.sha256 and not given_up.is_set():
        raise Refused(f"{wanted.url}: its sha256 is {digest.hexdigest()}, not {wanted.sha256}")


def _opened(wanted: Wanted) -> BinaryIO:
    parts = urlsplit(wanted.url)
    if parts.scheme == "file":
        return wanted.resolve(unquote(parts.path)).open("rb")
    opener = _opener(uses_proxy=parts.scheme == "https", trust=wanted.trust)
    response: BinaryIO = opener.open(wanted.url, timeout=_SILENCE)
    return response


def _opener(*, uses_proxy: bool, trust: "SSLContext | None") -> "OpenerDirector":
    """Follows a redirection only to where it might have been asked itself."""
    import ssl
    import urllib.request

    class Redirections(urllib.request.HTTPRedirectHandler):
        def redirect_request(  # type: ignore[no-untyped-def]  # as it is declared there
            self, request, response, code, message, headers, url
        ):
            if why := objection(url):
                raise Refused(f"{url}: {request.full_url} leads there, which {why}")
            return super().redirect_request(request, response, code, message, headers, url)

    proxies = urllib.request.ProxyHandler(None if uses_proxy else {})
    secure = urllib.request.HTTPSHandler(context=trust or ssl.create_default_context())
    return urllib.request.build_opener(proxies, secure, Redirections)
