"""What there is: the Engine itself, its containers and images, in pages that come to an end.

Effects: none.
"""

import json
from collections.abc import Mapping

from paddock.agent.skills.skill import Call
from paddock.wire.framing import JSON
from paddock_docker.engine import connect, obj, rows, texts

_ROOM = 600 << 10
"""Bytes that a page's rows may take: a message holds 1 MiB."""
_LONGEST = 1000
_NAMES = 50


async def info(call: Call) -> dict[str, JSON]:
    """docker.info"""
    engine = await connect()
    found = obj(await engine.ask("GET", "/info"))
    version = engine.version
    return {
        "version": version.get("Version"),
        "api": f"{engine.api[0]}.{engine.api[1]}",
        "os": found.get("OperatingSystem"),
        "kernel": version.get("KernelVersion"),
        "driver": found.get("Driver"),
        "root": found.get("DockerRootDir"),
        "memory": found.get("MemTotal"),
        "cpus": found.get("NCPU"),
        "containers": found.get("Containers"),
        "running": found.get("ContainersRunning"),
        "images": found.get("Images"),
        "warnings": texts(found.get("Warnings"))[:_NAMES],
    }


async def list_all(call: Call) -> dict[str, JSON]:
    """docker.list"""
    engine = await connect()
    kind = call.text("of", "containers")
    found = rows(await engine.ask("GET", f"/{kind}/json", {"all": call.params.get("all") is True}))
    told = [_container(row) if kind == "containers" else _image(row) for row in found]
    page, cursor = cut(told, cursor=call.text("cursor"), most=call.number("most", 1000))
    return {kind: page, **({"cursor": cursor} if cursor else {})}


def cut(found: list[dict[str, JSON]], *, cursor: str, most: int) -> tuple[list[JSON], str]:
    """The rows after the cursor that fit, by id, and where the next page begins; nothing if this is the last.

    One row at least, however large: whoever goes on comes to the end. Nothing is kept between two pages.
    """
    rest = sorted((row for row in found if str(row["id"]) > cursor), key=lambda row: str(row["id"]))
    page: list[JSON] = []
    room = _ROOM
    for row in rest[:most]:
        room -= len(json.dumps(row))
        if page and room < 0:
            break
        page.append(row)
    return page, str(rest[len(page) - 1]["id"]) if len(page) < len(rest) else ""


def _container(row: Mapping[str, JSON]) -> dict[str, JSON]:
    return {
        "id": row.get("Id"),
        "names": [str(name).removeprefix("/")[:_LONGEST] for name in texts(row.get("Names"))[:_NAMES]],
        "image": str(row.get("Image"))[:_LONGEST],
        "command": str(row.get("Command"))[:_LONGEST],
        "state": row.get("State"),
        "status": row.get("Status"),
        "created": row.get("Created"),
    }


def _image(row: Mapping[str, JSON]) -> dict[str, JSON]:
    return {
        "id": row.get("Id"),
        "names": [str(name)[:_LONGEST] for name in texts(row.get("RepoTags"))[:_NAMES] if name != "<none>:<none>"],
        "digests": [str(name)[:_LONGEST] for name in texts(row.get("RepoDigests"))[:_NAMES]],
        "size": row.get("Size"),
        "created": row.get("Created"),
    }
