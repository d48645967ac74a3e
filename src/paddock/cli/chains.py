"""Chains of images drawn as a tree: each below what it is made of, its layers below it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from paddock.cli import painting
from paddock.cli.sizes import spell
from paddock.wire import shapes

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import HostImage, Image, Layer

COLUMNS = ("image", "state", "host", "own", "disk", "built", "used", "note")
_LOOK = 5.0
"""Seconds for a host to say when its layers were used last; one that is away is not waited for."""

Uses = Mapping[tuple[str, str], str]
"""(host, digest) → when it was used last."""


def last_uses(client: "Client", rows: Iterable["Image"]) -> Uses:
    """As far as hosts answer now, and whoever asks may ask them."""
    from paddock.core.errors import PaddockError

    found: dict[tuple[str, str], str] = {}
    for host in sorted({there.host for row in rows for there in row.hosts if there.layers}):
        try:
            over = client.order(host, "image.list", {"start_within": _LOOK}, wait=_LOOK)
        except PaddockError:
            continue
        layers = over.result.get("layers")
        for layer in layers if isinstance(layers, list) else ():
            if layer.get("used"):
                found[host, str(layer.get("digest"))] = str(layer["used"])
    return found


def plain(row: "Image", used: Uses) -> object:
    """The image for programs, with the last use of each layer where it is known."""
    told = shapes.plain(row)
    if not isinstance(told, dict):
        raise AssertionError("a shape is an object")
    for there in told["hosts"]:
        there["used"] = used.get((there["host"], there["digest"]))
        for layer in there["layers"]:
            layer["used"] = used.get((there["host"], layer["digest"]))
    return told


def lineage(rows: Sequence["Image"], row: "Image") -> tuple["Image", ...]:
    """The image with all that it is made of."""
    by_name = {each.name: each for each in rows}
    found = [row]
    while (parent := by_name.get(found[0].parent)) is not None and parent not in found:
        found.insert(0, parent)
    return tuple(found)


def drawn(rows: Sequence["Image"], used: Uses) -> Iterator[Sequence[str]]:
    """Rows of a table of COLUMNS."""
    names = {row.name for row in rows}
    for row in rows:
        if row.parent not in names:
            yield from _image(row, rows, used, "", "")


def _image(row: "Image", rows: Sequence["Image"], used: Uses, head: str, rest: str) -> Iterator[Sequence[str]]:
    """The image, its layers, and what is made of it; `head` leads to its name, `rest` to what is below it."""
    for place, there in enumerate(row.hosts):
        told = f"{head}{row.name}" if not place else f"{rest}"
        yield (
            told,
            there.state,
            there.host,
            spell(there.bytes) if there.bytes else "",
            spell(there.apparent) if there.apparent else "",
            painting.ago(there.built),
            painting.ago(used.get((there.host, there.digest))),
            _note(there),
        )
    if not row.hosts:
        yield (f"{head}{row.name}", "not built", "", "", spell(row.size) if row.size else "", "", "", "")
    layers = _layers(row)
    children = [each for each in rows if each.parent == row.name]
    for place, (host, layer) in enumerate(layers):
        is_last = place == len(layers) - 1 and not children
        name = layer.script or ("(larger disk)" if row.parent else ("(base)", "(agent)")[min(place, 1)])
        yield _layer(host, layer, used, f"{rest}{'└ ' if is_last else '├ '}{name}")
    for child in children:
        corner, line = ("└─ ", "   ") if child is children[-1] else ("├─ ", "│  ")
        yield from _image(child, rows, used, f"{rest}{corner}", f"{rest}{line}")


def _layers(row: "Image") -> list[tuple[str, "Layer"]]:
    """Its own layers, on the first host that has some; as configured, they are the same on all."""
    there = next((there for there in row.hosts if there.layers and there.current), None)
    there = there or next((there for there in row.hosts if there.layers), None)
    return [] if there is None else [(there.host, layer) for layer in there.layers if layer.image == row.name]


def _layer(host: str, layer: "Layer", used: Uses, name: str) -> Sequence[str]:
    took = f"{layer.digest[:8]} {layer.seconds:.0f}s"
    when = painting.ago(used.get((host, layer.digest)))
    return (name, "", "", spell(layer.bytes), "", painting.ago(layer.built), when, took)


def _note(there: "HostImage") -> str:
    if there.state == "building":
        return f"{progress(there).strip()}{'; the one before serves' if there.serves else ''}".strip("; ")
    if there.state == "failed":
        return f"{there.reason}{'; the one before serves' if there.serves else ''}"
    return "" if there.current or there.state == "wanted" else "not as configured"


def progress(there: "HostImage") -> str:
    """How far a build is, with a space before it; empty where it is not known."""
    if there.percent is None:
        return ""
    from datetime import timedelta

    from paddock.core.report import spell as spell_span

    left = f", {spell_span(timedelta(seconds=there.eta))} left" if there.eta else ""
    return f" {there.percent:.0f}%{left}"
