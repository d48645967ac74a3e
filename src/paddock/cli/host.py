"""`paddock host`: the machines that carry environments."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from paddock.cli.connection import asks, every
from paddock.cli.grammar import Noun, verb
from paddock.cli.naming import choose
from paddock.cli.spans import TTL

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import Host

_STATE = "/var/lib/paddock-agent"

host = Noun("host", help="Hosts: machines that carry environments.", example="paddock host list")


def _name(client: "Client", typed: str) -> str:
    from paddock.client import calls

    return choose("host", typed, [(row.name, ()) for row in every(client, lambda below: calls.hosts(below=below))])


@verb(host, "list", example="paddock host list")
@asks
def list_(client: "Client", as_json: bool) -> None:
    """Hosts and whether they can be asked."""
    from paddock.cli import painting
    from paddock.client import calls

    rows = every(client, lambda below: calls.hosts(below=below))
    if as_json:
        return painting.tell_all(rows)
    painting.table(
        ("name", "state", "since", "skills", "agent", "note"),
        [(row.name, row.state, painting.ago(row.since), " ".join(row.skills), row.agent, _note(row)) for row in rows],
        empty="no hosts; write one into the configuration, then: paddock host add NAME",
    )


def _booked(row: "Host") -> str:
    """Of what it has for virtual machines; empty where it carries none."""
    from paddock.cli.sizes import spell

    if row.capacity is None or row.booked is None:
        return ""
    has, of = row.booked, row.capacity
    return (
        f"memory {spell(has.memory)} of {spell(of.memory)}, vcpus {has.vcpus} of {of.vcpus}, "
        f"disk {spell(has.disk)} of {spell(of.disk)}"
    )


def _stored(row: "Host") -> str:
    """What of that no environment owns; empty where its agent has not counted it."""
    from paddock.cli.sizes import spell

    return f"images {spell(row.stored.images)}, templates {spell(row.stored.templates)}" if row.stored else ""


def _note(row: "Host") -> str:
    return f"drained by {row.drained_by}" if row.drained_by else row.reason


@verb(host, "show", example="paddock host show local")
@click.argument("name")
@asks
def show(client: "Client", name: str, as_json: bool) -> None:
    """One host and what it carries."""
    from paddock.cli import painting
    from paddock.client import calls

    row = client.send(calls.host(_name(client, name)))
    if as_json:
        return painting.tell(row)
    painting.fields(
        f"host {row.name}",
        [
            ("state", row.state),
            ("since", painting.ago(row.since)),
            ("skills", " ".join(row.skills)),
            ("agent", row.agent),
            ("labels", " ".join(row.labels)),
            ("booked", _booked(row)),
            ("stored", _stored(row)),
            ("note", _note(row)),
        ],
    )
    painting.print_line("")
    painting.table(
        ("id", "pool", "state", "since", "lease"),
        [(each.id, each.pool, each.state, painting.ago(each.since), each.lease) for each in row.environments],
        empty="it carries no environment now",
    )


@verb(host, "add", example="paddock host add local")
@click.argument("name")
@click.option("--ttl", type=TTL, default="1h", show_default=True, help="How long the code may be used.")
@asks
def add(client: "Client", name: str, ttl: float, as_json: bool) -> None:
    """Make a code with which one agent may join as a host, and print the command that uses it."""
    from paddock.cli import painting
    from paddock.client import calls

    made = client.send(calls.enrol(name, ttl=ttl))
    by_hand = joining(client.place.url, made.code, skills=made.skills)
    command = made.command or by_hand
    if as_json:
        told = {"host": made.host, "code": made.code, "ttl": made.ttl, "command": command, "by_hand": by_hand}
        return painting.tell(told)
    painting.print_line(f"On the machine that is to be {made.host}, within {_spell(made.ttl)}, once, as root:")
    painting.print_line("")
    painting.print_line(f"  {command}")
    if command == by_hand:
        return
    painting.print_line("")
    painting.print_line("That installs the agent as a service. Where Paddock is installed, for a try:")
    painting.print_line("")
    painting.print_line(f"  {by_hand}")
    note = _clear(command)
    if note:
        painting.print_line("")
        painting.print_line(note)


def _clear(command: str) -> str:
    """What is to be known of a line that fetches a program without TLS."""
    from urllib.parse import urlsplit

    from paddock.hands.link import is_loopback

    place = next(word for word in command.split() if word.startswith("http"))
    parts = urlsplit(place)
    if parts.scheme == "https":
        return ""
    if is_loopback(parts.hostname or ""):
        return "It speaks in clear, which reaches this machine alone: other machines need server: tls: or a public-url."
    return "It speaks in clear: whoever is on the way can read the code, and change what is installed."


def joining(url: str, code: str, *, skills: Sequence[str] = ()) -> str:
    """The command that joins a host to the server of this address, with skills that it has to be told."""
    from paddock.hands.links import is_clear

    where = door(url)
    # Whoever reaches the server in clear has chosen that; the agent wants to hear it once more.
    clear = " --insecure" if is_clear(where) else ""
    chosen = f" --skills {','.join(skills)}" if skills else ""
    return f"paddock agent run --server {where}{clear} --state {_STATE} --code {code}{chosen}"


def door(url: str) -> str:
    """Where agents dial, at a server of this address: `https://ci.example.org` → `wss://ci.example.org/agent`."""
    return f"ws{url.removeprefix('http')}/agent"


def _spell(seconds: float) -> str:
    from datetime import timedelta

    from paddock.core.report import spell

    return spell(timedelta(seconds=seconds))


@verb(host, "drain", example="paddock host drain vm-1")
@click.argument("name")
@asks
def drain(client: "Client", name: str, as_json: bool) -> None:
    """Lend nothing new of a host; what is lent stays until it is given back."""
    from paddock.client import calls

    _answer(client.send(calls.drain_host(_name(client, name))), as_json=as_json)


@verb(host, "resume", example="paddock host resume vm-1")
@click.argument("name")
@asks
def resume(client: "Client", name: str, as_json: bool) -> None:
    """Lend a drained host again."""
    from paddock.client import calls

    _answer(client.send(calls.resume_host(_name(client, name))), as_json=as_json)


def _answer(row: "Host", *, as_json: bool) -> None:
    from paddock.cli import painting

    if as_json:
        painting.tell(row)
    else:
        painting.print_line(f"host {row.name}: {row.state}{f', {_note(row)}' if _note(row) else ''}")
