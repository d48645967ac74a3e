"""Images: pulled from a registry, made of a tar, removed.

Effects: idempotent; an image that is here already is left as it is.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from paddock.agent.entry import Outcome, Stream
from paddock.agent.skills.skill import Call, Place
from paddock.core.errors import Broken, Missing
from paddock.wire.framing import JSON
from paddock.wire.hello import LOG_STREAM
from paddock_docker.engine import Engine, Query, connect, obj, parse, rows
from paddock_docker.http import Response

LABEL = "org.paddock.imported"
"""Says of an image which tar with which changes it was made of."""
_PIECE = 256 << 10
_STATES = {
    "Pulling fs layer": 0.0,
    "Waiting": 0.0,
    "Verifying Checksum": 0.5,
    "Download complete": 0.5,
    "Pull complete": 1.0,
    "Already exists": 1.0,
}
_SILENCE = timedelta(minutes=5)
_LARGEST_LINE = 1 << 20


class _Told:
    """What the Engine says while it is at it: lines of output, and how much is done."""

    def __init__(self, call: Call) -> None:
        call.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._call = call
        self._path = call.directory / "output"
        self._file: BinaryIO = self._path.open("wb", buffering=0)
        self._layers: dict[str, float] = {}
        self._states: dict[str, str] = {}
        self._percent = 0.0

    def hear(self, told: Mapping[str, JSON]) -> None:
        """One object of the Engine's. Raises what it complains of: its status was good before it had begun."""
        if "error" in told:
            raise Broken(f"Docker Engine: {str(told['error'])[:2000]}")
        layer, state = str(told.get("id", "")), str(told.get("status", ""))
        if (share := _share(state, obj(told.get("progressDetail")))) is not None:
            self._layers[layer] = share
            percent = round(100 * sum(self._layers.values()) / len(self._layers), 1)
            # A layer that is heard of late makes the whole larger; what was told is not taken back.
            if percent > self._percent:
                self._percent = percent
                self._call.progress(percent, None)
        if state and self._states.get(layer) != state:
            self._states[layer] = state
            self.say(f"{layer}: {state}" if layer else state)

    def say(self, line: str) -> None:
        self._file.write(f"{line}\n".encode())
        self._call.grew()

    def end(self, **result: JSON) -> Outcome:
        length = os.fstat(self._file.fileno()).st_size
        return Outcome(result=result, streams={LOG_STREAM: Stream(path=str(self._path), length=length)})

    def close(self) -> None:
        self._file.close()


def _share(state: str, progress: Mapping[str, JSON]) -> float | None:
    """How much of a layer is done: half when its bytes are here, all when its files are. None says nothing of it."""
    if (share := _STATES.get(state)) is not None:
        return share
    current, total = progress.get("current"), progress.get("total")
    part = current / total if isinstance(current, int) and isinstance(total, int) and 0 <= current <= total > 0 else 0
    return {"Downloading": part / 2, "Extracting": 0.5 + part / 2}.get(state)


async def pull(call: Call) -> Outcome:
    """docker.pull"""
    engine = await connect()
    name = whole(call.text("image"))
    before = await image_id(engine, name)
    told = _Told(call)
    try:
        repository, _, digest = name.partition("@")
        # By its digest it is found, whatever its tag says.
        plain, tag = _split(repository)
        query: Query = {"fromImage": plain, "tag": digest or tag}
        async with engine.open("POST", "/images/create", query) as response:
            await _hear(response, told)
        after = await image_id(engine, name)
        if after is None:
            raise Broken(f"{name}: is not here although the Engine pulled it")
        return told.end(id=after, changed=before != after)
    finally:
        told.close()


async def make(place: Place, call: Call) -> Outcome:
    """docker.import"""
    name, path = whole(call.text("image")), place.resolve(call.text("path"))
    changes = call.texts("changes")
    if not path.is_file():
        raise Missing(f"{path}: no file")
    engine = await connect()
    digest = await asyncio.to_thread(_digest, path, changes)
    known = await engine.inspect(f"/images/{quote(name)}/json")
    told = _Told(call)
    try:
        if known is not None and obj(obj(known.get("Config")).get("Labels")).get(LABEL) == digest:
            told.say(f"{name}: is made of this already")
            return told.end(id=known.get("Id"), changed=False)
        repository, tag = _split(name)
        query: Query = {
            "fromSrc": "-",
            "repo": repository,
            "tag": tag,
            "changes": (*changes, f"LABEL {LABEL}={digest}"),
        }
        limit = call.limit or timedelta(days=1)
        with path.open("rb") as file:
            source = _pieces(file, path.stat().st_size, call)
            async with engine.open("POST", "/images/create", query, source=source, limit=limit) as response:
                await _hear(response, told)
        return told.end(id=await image_id(engine, name), changed=True)
    finally:
        told.close()


async def remove(call: Call) -> dict[str, JSON]:
    """docker.remove_image"""
    engine = await connect()
    try:
        found = await engine.ask(
            "DELETE", f"/images/{quote(call.text('image'))}", {"force": call.params.get("force") is True}
        )
    except Missing:
        return {"changed": False, "removed": []}
    removed: list[JSON] = [f"{act.lower()} {name}" for row in rows(found) for act, name in row.items()]
    return {"changed": True, "removed": removed[:1000]}


def whole(name: str) -> str:
    """An image's name with the tag that is meant: without one the Engine would pull every tag."""
    return name if "@" in name or name.startswith("sha256:") or _split(name)[1] else f"{name}:latest"


async def image_id(engine: Engine, name: str) -> str | None:
    """The id of an image that is here."""
    found = await engine.inspect(f"/images/{quote(name)}/json")
    return str(found["Id"]) if found is not None else None


def _split(name: str) -> tuple[str, str]:
    """Name and tag; a port before the first slash is no tag."""
    front, slash, last = name.rpartition("/")
    plain, _, tag = last.partition(":")
    return f"{front}{slash}{plain}", tag


def _digest(path: Path, changes: tuple[str, ...]) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(changes).encode())
    return digest.hexdigest()


async def _pieces(file: BinaryIO, size: int, call: Call) -> AsyncIterator[bytes]:
    sent = 0
    while piece := await asyncio.to_thread(file.read, _PIECE):
        yield piece
        sent += len(piece)
        call.progress(round(min(100.0, 100 * sent / max(size, 1)), 1), None)


async def _hear(response: Response, told: _Told) -> None:
    """The Engine's objects, a line each, as they come."""
    buffer = b""
    async for piece in response.pieces(silence=_SILENCE):
        *lines, buffer = (buffer + piece).split(b"\n")
        if len(buffer) > _LARGEST_LINE:
            raise Broken("Docker Engine: says a line that does not end")
        for line in lines:
            if line.strip():
                told.hear(obj(parse(line)))
    if buffer.strip():
        told.hear(obj(parse(buffer)))
