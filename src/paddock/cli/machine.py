"""`paddock env power` and `screenshot`: a machine's buttons and its display."""

import sys
from typing import TYPE_CHECKING

import click

from paddock.cli.call import exit_of
from paddock.cli.connection import asks
from paddock.cli.grammar import Noun, verb
from paddock.cli.naming import machine_of
from paddock.cli.root import complain

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import AgentCommand

machines = Noun("env")
"""The verbs of this file, which `paddock env` takes up."""
ACTIONS = ("on", "off", "shutdown", "reset")
_DEVICES = ("network", "disk")
_LIMIT = 120.0


class _Order(click.ParamType[tuple[str, ...]]):
    """Devices to boot from, the first one first."""

    name = "devices"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        words = tuple(word.strip() for word in str(value).split(","))
        if len(set(words)) != len(words) or not set(words) <= set(_DEVICES):
            self.fail(f"{value!r} is no order of {' and '.join(_DEVICES)}, like network,disk", param, ctx)
        return words


@verb(
    machines,
    "power",
    example="paddock env power k3f9 one reset\npaddock env power k3f9 one off\n"
    "paddock env power k3f9 one on --boot network,disk",
)
@click.argument("id", metavar="ENV")
@click.argument("machine")
@click.argument("action", type=click.Choice(ACTIONS))
@click.option("--boot", type=_Order(), default=None, help="What it boots from, from now on.")
@asks
def power(client: "Client", id: str, machine: str, action: str, boot: tuple[str, ...] | None, as_json: bool) -> int:
    """Press a machine's buttons: `off` as in a power cut, `shutdown` as one asks for it."""
    from paddock.cli import painting
    from paddock.client import calls

    row, found = machine_of(client, id, machine)
    asked = client.send(calls.power(row.id, found.name, action, boot=boot or (), fence=row.fence))
    over = client.finish(asked, wait=_LIMIT)
    if as_json:
        painting.tell(over)
    elif over.state == "complete":
        painting.print_line(f"machine {found.name} of {row.id}: {over.result.get('power', action)}")
    return _ended(over, found.name, as_json=as_json)


@verb(
    machines,
    "screenshot",
    example="paddock env screenshot k3f9 one -o one.png\npaddock env screenshot k3f9 one > one.png",
)
@click.argument("id", metavar="ENV")
@click.argument("machine")
@click.option(
    "-o", "file", type=click.Path(dir_okay=False), default="", metavar="FILE", help="Where to. Default: stdout."
)
@asks
def screenshot(client: "Client", id: str, machine: str, file: str, as_json: bool) -> int:
    """What the display of a machine shows, as a PNG."""
    from base64 import b64decode
    from pathlib import Path

    from paddock.cli import painting
    from paddock.client import calls

    if not file and not as_json and sys.stdout.isatty():
        raise click.UsageError("a picture is nothing for a terminal: name a file with -o")
    row, found = machine_of(client, id, machine)
    over = client.finish(client.send(calls.screenshot(row.id, found.name, fence=row.fence)), wait=_LIMIT)
    if over.state == "complete":
        data = b64decode(str(over.result.get("png", "")))
        if file:
            Path(file).write_bytes(data)
        if as_json:
            painting.tell({"machine": found.name, "at": over.result.get("at"), "bytes": len(data), "file": file})
        elif file:
            painting.print_line(f"{file}: {len(data):,} bytes")
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    return _ended(over, found.name, as_json=as_json)


def _ended(over: "AgentCommand", machine: str, *, as_json: bool) -> int:
    """The exit code; what went wrong is said."""
    if over.state == "failed":
        complain(f"machine {machine}: {over.message or over.code}")
    elif over.state != "complete":
        complain(f"machine {machine}: its host does not answer", f"paddock agent show {over.agent}")
        return 1
    return exit_of(over)
