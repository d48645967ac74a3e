"""`paddock agent call` and its like: have an agent do something, once, and see it through."""

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from paddock.cli.connection import asks, every
from paddock.cli.grammar import Noun, verb
from paddock.cli.naming import agent_of, choose
from paddock.cli.parameters import gathered

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import AgentCommand

orders = Noun("agent")
"""The verbs of this file, which `paddock agent` takes up."""
PROGRAM = "paddock-agent.pyz"
_SIGNALLED = 128
"""Added to the number of the signal that ended a program, as shells do."""
_REFUSALS = frozenset({"refused", "bad_params", "unknown_method", "stale", "busy", "expired"})
"""Codes of a command that was not carried out at all."""


@verb(
    orders,
    "call",
    example="paddock agent call vm-1 status\n"
    "paddock agent call --follow vm-1 script.run run='apt-get update' limit=600\n"
    "paddock agent call vm-1 file.put path=/etc/motd data=@motd.txt --id motd-7",
)
@click.argument("name", metavar="AGENT")
@click.argument("method")
@click.argument("values", metavar="[NAME=VALUE]...", nargs=-1)
@click.option("--json-params", type=click.File("rb"), metavar="FILE", help="Parameters as a JSON object; - is stdin.")
@click.option("-f", "--follow", is_flag=True, help="Print what it prints, as it comes.")
@click.option("--id", "given", metavar="ID", help="Name the command: the same id again runs nothing twice.")
@click.option("--no-wait", is_flag=True, help="Say the command's id, and do not wait for its end.")
@asks
def call(
    client: "Client",
    name: str,
    method: str,
    values: tuple[str, ...],
    json_params: Any,
    follow: bool,
    given: str | None,
    no_wait: bool,
    as_json: bool,
) -> int:
    """Have an agent do something. Ends with the exit code of the program that it ran, if it ran one.

    A value is JSON where it reads as JSON and the parameter is no text; NAME=@FILE reads a file, bytes are encoded
    by themselves, NAME.KEY=VALUE sets one entry of a map, and a list's name may be given several times. An agent that
    is away gets the command when it is back, unless `start_within` seconds have passed by then.
    """
    if follow and as_json:
        raise click.UsageError("--follow prints what the command prints, --json one object: choose one")
    params = gathered(method, values, json_params.read() if json_params is not None else b"")
    command = client.order(agent_of(client, name).id, method, params, id=given)
    if no_wait:
        _say(command, as_json=as_json)
        return 0
    return see_through(client, command, follow=follow, as_json=as_json)


def see_through(client: "Client", command: "AgentCommand", *, follow: bool, as_json: bool) -> int:
    """Wait for a command's end, printing what it prints if wanted; the exit code."""
    try:
        if follow:
            _print(client, command)
        over = client.finish(command)
    except KeyboardInterrupt:
        click.echo(f"paddock: command {command.id}: it goes on without you", err=True)
        click.echo(f"hint: paddock agent cancel {command.agent} {command.id}", err=True)
        raise
    if over.state == "failed":
        _complain(over)
    if as_json or not follow:
        _say(over, as_json=as_json)
    return exit_of(over)


def _print(client: "Client", command: "AgentCommand") -> None:
    """Output as it comes; a terminal gets none of what would steer it, a pipe gets every byte."""
    from codecs import getincrementaldecoder

    from paddock.cli.root import clean

    decode = getincrementaldecoder("utf-8")("replace").decode
    is_terminal = sys.stdout.isatty()
    for data in client.output(command):
        if is_terminal:
            sys.stdout.write(clean(decode(data)))
            sys.stdout.flush()
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def _complain(over: "AgentCommand") -> None:
    from paddock.cli.root import complain

    complain(f"command {over.id}: {over.code}: {over.message or 'its agent does not say why'}")


def exit_of(over: "AgentCommand") -> int:
    """The program's own exit code where there is one; else 0, or what stands for the code of its failure."""
    if over.state == "failed":
        return 3 if over.code in _REFUSALS else 1
    signal = over.result.get("signal")
    if isinstance(signal, int) and not isinstance(signal, bool):
        return _SIGNALLED + signal
    return over.exit or 0


def _say(command: "AgentCommand", *, as_json: bool) -> None:
    from paddock.cli import painting

    if as_json:
        return painting.tell(command)
    if command.state in ("queued", "sent", "accepted", "running"):
        painting.print_line(f"command {command.id}: {command.state}")
        return
    if command.state == "failed":
        return  # it was said on stderr
    for key, value in command.result.items():
        painting.print_line(f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    for stream, length in command.outputs.items():
        painting.print_line(f"printed {length:,} bytes ({stream}): paddock agent output {command.agent} {command.id}")


@verb(orders, "output", example="paddock agent output vm-1 motd-7\npaddock agent output -s logs/a.txt vm-1 c81")
@click.argument("name", metavar="AGENT")
@click.argument("command")
@click.option("-s", "--stream", default="out", show_default=True, help="Which stream; of collected files, the path.")
@asks
def output(client: "Client", name: str, command: str, stream: str, as_json: bool) -> None:
    """What a command printed, or is printing, to its end."""
    from paddock.cli import painting

    row = _command_of(client, name, command)
    if as_json:
        return painting.tell({"id": row.id, "outputs": dict(row.outputs)})
    for data in client.output(row, stream=stream):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@verb(orders, "cancel", example="paddock agent cancel vm-1 motd-7")
@click.argument("name", metavar="AGENT")
@click.argument("command")
@click.option("--grace", type=click.FloatRange(0, 600), default=None, help="Seconds between TERM and KILL.")
@asks
def cancel(client: "Client", name: str, command: str, grace: float | None, as_json: bool) -> None:
    """End a command: its whole tree gets TERM, then KILL. One that was not sent yet is not sent."""
    from paddock.cli import painting
    from paddock.client import calls

    row = _command_of(client, name, command)
    client.send(calls.cancel_command(row.agent, row.id, grace=grace))
    over = client.finish(row, wait=30 + (grace or 10))
    if as_json:
        return painting.tell(over)
    painting.print_line(f"command {over.id}: {over.code or over.state}")


def _command_of(client: "Client", name: str, typed: str) -> "AgentCommand":
    """By id, or the beginning of the id of one of its last commands."""
    from paddock.client import calls
    from paddock.core.errors import Missing

    agent = agent_of(client, name).id
    try:
        return client.send(calls.command(agent, typed))
    except Missing:
        rows = every(client, lambda below: calls.commands(agent, below=below, limit=500), 500)
    return client.send(calls.command(agent, choose("command", typed, [(row.id, ()) for row in rows])))


@verb(
    orders,
    "upgrade",
    example="paddock agent upgrade vm-1\n"
    "paddock agent upgrade vm-1 --url https://files.example.org/agent.pyz --sha256 9f86d081...",
)
@click.argument("name", metavar="AGENT")
@click.option("--program", default=PROGRAM, show_default=True, help="Which of those that the server offers.")
@click.option("--url", default="", help="Another one: https, or http on the agent's own machine.")
@click.option("--sha256", default="", metavar="HEX", help="Of that one, checked before anything of it runs.")
@asks
def upgrade(client: "Client", name: str, program: str, url: str, sha256: str, as_json: bool) -> int:
    """Replace an agent's program: tried beside the old one, back if it fails. Tasks go on."""
    if bool(url) != bool(sha256):
        raise click.UsageError("--url and --sha256 go together")
    if not url:
        url, sha256 = _offered(client, program)
    params: Mapping[str, object] = {"url": url, "sha256": sha256}
    command = client.order(agent_of(client, name).id, "agent.upgrade", params)
    return see_through(client, command, follow=False, as_json=as_json)


def _offered(client: "Client", name: str) -> tuple[str, str]:
    """Where the server has a program, and its digest."""
    from paddock.client import calls
    from paddock.core.errors import Missing

    offers = client.send(calls.programs()).items
    for one in offers:
        if one.name == name:
            return one.url, one.sha256
    raise Missing(
        f"program {name}: the server does not offer it", hint=f"it offers {', '.join(o.name for o in offers)}"
    )
