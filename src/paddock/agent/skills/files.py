"""Puts, reads, sends and collects files, following no symbolic link on the way.

Effects: idempotent; a put appears whole or not at all, reading changes nothing.
"""

import base64
import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from paddock.agent import paths
from paddock.agent.entry import Outcome, Stream
from paddock.agent.skills import collects, puts
from paddock.agent.skills.skill import Call, Deed, Place, Read, Work, in_thread
from paddock.core.errors import Refused
from paddock.wire.framing import JSON

STREAM = "file"
_CHUNK = 1 << 20


def methods(place: Place) -> Mapping[str, Deed]:
    """file.put, file.get, file.send, file.collect."""

    async def get(call: Call) -> Mapping[str, JSON]:
        return (await in_thread(functools.partial(_get, place, call))).result

    async def put(call: Call) -> Outcome:
        return await in_thread(functools.partial(puts.put, place, plain(place, call.text("path")), call))

    async def send(call: Call) -> Outcome:
        return await in_thread(functools.partial(_send, place, call))

    async def collect(call: Call) -> Outcome:
        return await in_thread(functools.partial(collects.collect, place, call))

    place.keep("file.parts", lambda: puts.expire_for_ever(place))
    return {
        "file.put": Work(act=put),
        "file.get": Read(answer=get),
        "file.send": Work(act=send),
        "file.collect": Work(act=collect),
    }


def plain(place: Place, path: str) -> Path:
    """The path to walk: on a machine as it is, elsewhere with the links of the way there resolved as a user expects."""
    wanted = place.resolve(path)
    return wanted if place.machine else Path(os.path.realpath(wanted.parent)) / wanted.name


def _get(place: Place, call: Call) -> Outcome:
    handle = paths.open_file(plain(place, call.text("path")))
    try:
        data = os.pread(handle, call.number("length"), call.number("offset"))
        found = os.fstat(handle)
    finally:
        os.close(handle)
    return Outcome(
        result={
            "data": base64.b64encode(data).decode("ascii"),
            "size": found.st_size,
            "sha256": hashlib.sha256(data).hexdigest(),
            "version": _version(found),
            **_attributes(found),
        }
    )


def _send(place: Place, call: Call) -> Outcome:
    """The stream names the file itself: nothing is copied, and whoever gets other bytes sees it by the digest."""
    path = plain(place, call.text("path"))
    handle = paths.open_file(path)
    try:
        before = os.fstat(handle)
        if before.st_size > (limit := call.number("size_limit")):
            raise Refused(f"{path}: has {before.st_size} bytes, more than size_limit {limit}")
        digest = _digest(call, handle, before.st_size)
    finally:
        os.close(handle)
    return Outcome(
        result={"size": before.st_size, "sha256": digest, "version": _version(before), **_attributes(before)},
        streams={STREAM: Stream(path=str(path), length=before.st_size)},
    )


def _digest(call: Call, handle: int, size: int) -> str:
    """Of the first `size` bytes, in little memory."""
    digest = hashlib.sha256()
    offset = 0
    while offset < size:
        data = os.pread(handle, min(_CHUNK, size - offset), offset)
        if not data:
            raise Refused(f"{call.text('path')}: became shorter while it was read")
        digest.update(data)
        offset += len(data)
        if offset % (64 * _CHUNK) == 0:
            call.progress(100 * offset / size, None)
    return digest.hexdigest()


def _version(found: os.stat_result) -> str:
    """Pieces that were read at one version are of one content."""
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"


def _attributes(found: os.stat_result) -> dict[str, JSON]:
    return {"mode": found.st_mode & 0o7777, "uid": found.st_uid, "gid": found.st_gid}
