"""Downloads that go on where they were cut off: whole and right, or not there.

Effects: idempotent. What has come so far is kept beside what the server said of it, and goes on only if it is the same
file still: by its ETag or its date.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from paddock.agent import durable
from paddock.agent.skills.hypervisor.stopping import Stop
from paddock.core.errors import Broken, PaddockError, Refused
from paddock.hands import faults

_log = logging.getLogger(__name__)

MOST = 1 << 40
"""Bytes of one file."""
RESERVE = 64 << 20
"""Bytes of a disk that no image fills."""
KEPT, KEPT_FOR = 4, timedelta(days=7)
"""Halves that are kept, and for how long."""
_CHUNK = 1 << 18
_SILENCE = 30.0  # seconds without a byte until a try is given up
_PAUSES = (0.5, 2.0, 5.0, 10.0)  # seconds before another try; one that brought something begins them anew
_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)")

Told = Callable[[int, int], None]
"""How many bytes are here, and how many there are; 0 if nobody knows."""


class _Whole(Exception):
    """There is nothing behind what is here."""


class _Cut(Exception):
    """The connection ended too early, or there was none; another try may go on."""


@dataclass(frozen=True, kw_only=True)
class Half:
    """What has come of a URL so far, and what its server said of it."""

    data: Path
    about: Path

    @classmethod
    def of(cls, url: str, directory: Path, *, sha256: str = "") -> "Half":
        """Where it lies: one for each URL and what it is to hold, which may come at the same time."""
        name = hashlib.sha256(f"{url} {sha256}".rstrip().encode()).hexdigest()[:32]
        return cls(data=directory / f"{name}.part", about=directory / f"{name}.json")

    def drop(self) -> None:
        """Nothing of it is left."""
        self.data.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)

    def start(self) -> tuple[int, str]:
        """From which byte it goes on, and by what its file is known; 0 where it begins anew."""
        try:
            told = json.loads(self.about.read_text("utf-8"))
            validator = str(told["validator"])
            return (self.data.stat().st_size, validator) if validator else (0, "")
        except (OSError, ValueError, KeyError, TypeError):
            return 0, ""


def objection(url: str) -> str:
    """Why nothing can be downloaded from it; nothing if something can."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        return str(exc)
    if parts.scheme not in ("http", "https") or not host:
        return "is neither http://HOST/... nor https://HOST/..."
    if parts.username is not None or parts.password is not None:
        return "has a user or a password in it, which would stand in every log"
    return ""


def sweep(directory: Path, now: float) -> None:
    """Halves that nobody has gone on with for long, and more than are kept, are gone."""
    halves = sorted(directory.glob("*.part"), key=lambda half: half.stat().st_mtime, reverse=True)
    for number, half in enumerate(halves):
        if number >= KEPT or now - half.stat().st_mtime > KEPT_FOR.total_seconds():
            half.unlink(missing_ok=True)
    for about in directory.glob("*.json"):
        if not about.with_suffix(".part").exists():
            about.unlink(missing_ok=True)


def download(url: str, *, sha256: str, directory: Path, told: Told, stop: Stop) -> tuple[str, Half]:
    """The whole file, and its SHA-256; who has no more use for it drops it. `directory` keeps halves.

    Refused for a URL that is not taken, another digest, too many bytes; Broken if it cannot be had.
    """
    if why := objection(url):
        raise Refused(f"{url}: {why}")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    half = Half.of(url, directory, sha256=sha256)
    pauses = list(_PAUSES)
    while True:
        before = half.start()[0]
        try:
            _go_on(url, half, is_known=bool(sha256), told=told, stop=stop)
            break
        except _Whole:
            break
        except _Cut as exc:
            stop.check()
            if half.start()[0] > before:
                pauses = list(_PAUSES)
            if not pauses:
                raise Broken(f"{url}: {exc}", hint="what has come is kept: the next try goes on from there") from None
            _log.info("a download was cut", extra={"url": url, "why": str(exc)})
            stop.wait(pauses.pop(0))
        except OSError as exc:
            raise Broken(f"{url}: {exc.strerror or exc}", hint="image.collect makes room") from exc
    found = digest(half.data, stop)
    if sha256 and found != sha256:
        half.drop()
        raise Refused(f"{url}: its sha256 is {found}, not {sha256}")
    faults.at("hypervisor.image_downloaded")
    return found, half


def digest(path: Path, stop: Stop) -> str:
    """The SHA-256 of a file, read from its beginning: what was there before this try is checked like the rest."""
    made = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            stop.check()
            made.update(data)
    return made.hexdigest()


def _go_on(url: str, half: Half, *, is_known: bool, told: Told, stop: Stop) -> None:
    at, validator = half.start()
    headers = {"User-Agent": "paddock", "Accept-Encoding": "identity"}
    if at:
        headers |= {"Range": f"bytes={at}-", "If-Range": validator}
    with _opened(url, headers, half) as response:
        stop.attend(lambda: _shut(response))
        try:
            at, total = _place(url, response, half, at)
            if not total and not is_known and response.headers.get("Transfer-Encoding", "").lower() != "chunked":
                raise Refused(f"{url}: its server does not say how long it is", hint="give its sha256")
            _check_room(url, half, total - at if total else 0)
            with half.data.open("r+b" if at else "wb") as file:
                file.seek(at)
                at = _receive(url, response, file.fileno(), at, total, told, stop)
        except Refused:
            half.drop()  # it would be refused again
            raise
        finally:
            stop.attend(None)
    if total and at != total:
        raise _Cut(f"ended after {at} of {total} bytes")


def _place(url: str, response: HTTPResponse, half: Half, asked: int) -> tuple[int, int]:
    """From which byte this answer goes on, and how long the file is. What is known of it is noted before its data."""
    if response.status == 206:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != asked:
            half.drop()
            raise _Cut("its server sent another part than it was asked for")
        return asked, int(found[3]) if found[3] != "*" else int(found[2]) + 1
    half.drop()
    tag = response.headers.get("ETag", "")
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    if response.headers.get("Accept-Ranges", "").lower() == "none":
        validator = ""
    durable.write(half.about, {"url": url, "validator": validator})
    return 0, int(response.headers.get("Content-Length") or 0)


def _receive(url: str, response: HTTPResponse, handle: int, at: int, total: int, told: Told, stop: Stop) -> int:
    next_look = at
    while True:
        try:
            data = response.read1(_CHUNK)
        except (OSError, HTTPException) as exc:
            raise _Cut(str(exc) or type(exc).__name__) from None
        if not data:
            told(at, total)
            return at
        stop.check()
        at += len(data)
        if at > MOST or (total and at > total):
            raise Refused(f"{url}: has more than {total or MOST} bytes")
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        faults.at("hypervisor.image_downloading")
        if at >= next_look:
            told(at, total)
            next_look = at + (16 << 20)
            if _room(handle) < RESERVE:
                raise Broken(f"{url}: there is no room for the rest of it", hint="image.collect makes room")


def _check_room(url: str, half: Half, more: int) -> None:
    if more > MOST:
        raise Refused(f"{url}: has {more} bytes more; at most {MOST} are taken")
    free = shutil.disk_usage(half.data.parent).free
    if more + RESERVE > free:
        raise Broken(f"{url}: needs {more} bytes, and {free} are free", hint="image.collect makes room")


def _room(handle: int) -> int:
    found = os.fstatvfs(handle)
    return found.f_bavail * found.f_frsize


def _opened(url: str, headers: dict[str, str], half: Half) -> HTTPResponse:
    """Through the proxy that the environment names, following redirections to where it might have been asked itself."""
    import ssl
    import urllib.error
    import urllib.request

    class Redirections(urllib.request.HTTPRedirectHandler):
        def redirect_request(  # type: ignore[no-untyped-def]  # as it is declared there
            self, request, response, code, message, headers, url
        ):
            why = objection(url)
            if not why and request.full_url.startswith("https:") and not url.startswith("https:"):
                why = "would be read in clear"
            if why:
                raise Refused(f"{url}: {request.full_url} leads there, which {why}")
            return super().redirect_request(request, response, code, message, headers, url)

    secure = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    opener = urllib.request.build_opener(secure, Redirections)
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=_SILENCE)
    except PaddockError:
        raise
    except urllib.error.HTTPError as exc:
        if exc.code == 416:
            if exc.headers.get("Content-Range", "") == f"bytes */{half.start()[0]}":
                raise _Whole from None
            half.drop()
        if exc.code == 416 or exc.code >= 500:
            raise _Cut(f"its server says {exc.code} {exc.reason}") from None
        raise Broken(f"{url}: its server says {exc.code} {exc.reason}") from None
    except (OSError, HTTPException) as exc:
        raise _Cut(str(getattr(exc, "reason", "") or exc) or type(exc).__name__) from None
    assert isinstance(response, HTTPResponse)
    return response


def _shut(response: HTTPResponse) -> None:
    """Whoever waits for its next byte stops waiting."""
    raw = getattr(getattr(response, "fp", None), "raw", None)
    connection = getattr(raw, "_sock", None)
    with suppress(OSError):
        if connection is not None:
            connection.shutdown(2)


class Progress:
    """Says how far something is, in lines that are seldom enough for a log."""

    def __init__(self, what: str, say: Callable[[str], object], told: Callable[[float], object]) -> None:
        self._what = what
        self._say = say
        self._told = told
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if total:
            self._told(done / total)
        if time.monotonic() - self._last >= 5 or (total and done >= total):
            self._last = time.monotonic()
            of = f" of {total >> 20} MiB ({100 * done // total} %)" if total else ""
            self._say(f"{self._what}: {done >> 20} MiB{of}")
