"""Builds of images, watched from a terminal: their logs line by line, how they ended."""

import sys
import threading
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from paddock.cli import painting
from paddock.cli.chains import progress
from paddock.cli.root import complain

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import HostImage, Image

_WAIT = 20.0
_LOOK = 0.5


def lines(client: "Client", id: str, *, follow: bool) -> Iterator[str]:
    """The log of a build, line by line; followed, to the build's end, also past a restart of the server."""
    from paddock.client import Unreachable, calls
    from paddock.client.waiting import PAUSE, SILENCE

    decode, rest, offset, heard = getincrementaldecoder("utf-8")("replace").decode, "", 0, time.monotonic()
    while True:
        try:
            piece = client.send(calls.image_log(id, offset=offset, wait=_WAIT if follow else 0))
        except Unreachable:
            if not follow or time.monotonic() - heard > SILENCE:
                raise
            time.sleep(PAUSE)
            continue
        heard = time.monotonic()
        offset += len(piece.data)
        *whole, rest = (rest + decode(piece.data)).split("\n")
        yield from whole
        if piece.is_last or not (piece.data or follow):
            break
    if rest:
        yield rest


def build(client: "Client", before: "Image", hosts: Sequence[str]) -> int:
    """Print the logs of the builds that were just asked for, to their ends; 1 if one did not succeed."""
    if len(hosts) <= 1:
        return max((_follow(client, before, host, _say) for host in hosts), default=1)
    lock, codes = threading.Lock(), []

    def follow(host: str) -> None:
        def say(text: str) -> None:
            with lock:
                _say(f"{host}| {text}")

        codes.append(_follow(client, before, host, say))

    threads = [threading.Thread(target=follow, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(codes) if len(codes) == len(hosts) else 1


def _say(text: str) -> None:
    painting.print_line(text)
    sys.stdout.flush()


def _follow(client: "Client", before: "Image", host: str, say: Callable[[str], None]) -> int:
    from paddock.core.errors import PaddockError

    old = next((there for there in before.hosts if there.host == host), None)
    try:
        begun = _until(client, before.name, host, lambda row: _has_begun(row, old), say)
        for line in lines(client, begun.id, follow=True):
            say(line)
        over = _until(client, before.name, host, lambda row: row.state in ("ready", "failed"), say)
    except PaddockError as exc:
        complain(exc.message, exc.hint)
        return 1
    if over.state == "failed":
        complain(f"image {over.id}: {over.reason}", f"paddock image log {over.id}")
        return 1
    say(f"image {over.id}: {over.state}, {painting.lasted(begun.since, over.since)}")
    return 0


def _has_begun(row: "HostImage", old: "HostImage | None") -> bool:
    """Whether its log is that of the build that was asked for: it runs, or it is over since then."""
    if row.state == "building":
        return True
    return row.state in ("ready", "failed") and (old is None or row.since != old.since)


def _until(
    client: "Client", name: str, host: str, is_so: Callable[["HostImage"], bool], say: Callable[[str], None]
) -> "HostImage":
    """Its row on this host once it is so; says when that takes a while, and how far it is."""
    from paddock.client import Unreachable, calls
    from paddock.client.waiting import SILENCE
    from paddock.core.errors import Missing

    told, heard = "", time.monotonic()
    while True:
        try:
            rows = client.send(calls.image(name)).hosts
        except Unreachable:
            if time.monotonic() - heard > SILENCE:
                raise
            rows = ()
        else:
            heard = time.monotonic()
            row = next((row for row in rows if row.host == host), None)
            if row is None:
                raise Missing(
                    f"image {name}@{host}: it is not wanted there any more", hint=f"paddock image show {name}"
                )
            if is_so(row):
                return row
            now = f"image {row.id}: {row.state}{progress(row)}"
            if now != told:
                say(now)
                told = now
        time.sleep(_LOOK)
