"""`paddock env`: the environments, and what an operator may do to one."""

from typing import TYPE_CHECKING

import click

from paddock.cli.connection import asks, every
from paddock.cli.console import consoles
from paddock.cli.grammar import Noun, verb
from paddock.cli.lines import HOLDER, REASON
from paddock.cli.machine import machines
from paddock.cli.naming import environment_of
from paddock.cli.spans import SPAN, TTL
from paddock.cli.ssh import shells
from paddock.cli.tunnel import tunnels
from paddock.core.environment import State

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import Environment, EnvironmentDetail, Machine, Network, Nic

env = Noun(
    "env",
    help="Environments: machines and networks lent as one.",
    example="paddock env list\npaddock env show k3f9\npaddock env ssh k3f9 one",
)
_STATE = click.Choice([str(state) for state in State])


@verb(env, "list", example="paddock env list\npaddock env list --env two-node --json")
@click.option("--env", "pool", default="", metavar="POOL", help="Of one pool.")
@click.option("--in", "condition", type=_STATE, metavar="STATE", help="In one state: ready, leased, quarantined...")
@asks
def list_(client: "Client", pool: str, condition: str | None, as_json: bool) -> None:
    """Environments that exist now, and what holds them."""
    from paddock.cli import painting
    from paddock.client import calls

    rows = every(client, lambda below: calls.environments(below=below, pool=pool, state=condition or ""))
    if as_json:
        return painting.tell_all(rows)
    painting.table(
        ("id", "pool", "state", "since", "host", "lease", "machines", "note"),
        [
            (
                row.id,
                row.pool,
                row.state,
                painting.ago(row.since),
                row.host,
                row.lease,
                " ".join(machine.name for machine in row.machines),
                _note(row),
            )
            for row in rows
        ],
        empty="no environments yet: they are built when somebody asks, or ahead with min-ready",
    )


def _note(row: "Environment") -> str:
    from paddock.cli import painting

    if row.held_by:
        what = "its disks are held" if row.state == "saved" else "held"
        until = f", ends {painting.left(row.hold_until)}" if row.hold_until else ", once its lease is over"
        return f"{what} by {row.held_by}{until}{' (disks alone)' if row.saving and row.state != 'saved' else ''}"
    return row.reason or ("goes when it is given back" if row.retiring else "")


@verb(env, "show", example="paddock env show k3f9")
@click.argument("id")
@click.option("--history", "limit", type=click.IntRange(0, 10_000), default=15, show_default=True, help="Last steps.")
@asks
def show(client: "Client", id: str, limit: int, as_json: bool) -> None:
    """One environment: its machines, how each came to life, and who had it when."""
    from paddock.cli import painting

    row = environment_of(client, id)
    if as_json:
        return painting.tell(row)
    _show(row)
    for machine in row.machines:
        if machine.image:
            _show_machine(machine)
    if limit and row.history:
        painting.print_line("")
        painting.table(
            ("at", "from", "to", "by", "fence", "note"),
            [
                (step.at[:19].replace("T", " "), step.before, step.after, step.by, str(step.fence), step.note)
                for step in row.history[-limit:]
            ],
            empty="",
        )


def _show(row: "EnvironmentDetail") -> None:
    from paddock.cli import painting
    from paddock.cli.sizes import spell

    painting.fields(
        f"environment {row.id}",
        [
            ("pool", row.pool),
            ("state", row.state),
            ("since", painting.ago(row.since)),
            ("host", row.host),
            ("machines", ", ".join(f"{machine.name} {machine.address}".strip() for machine in row.machines)),
            ("lease", row.lease),
            ("fence", str(row.fence)),
            (
                "booked",
                ""
                if row.size is None
                else f"memory {spell(row.size.memory)}, vcpus {row.size.vcpus}, disk {spell(row.size.disk)}",
            ),
            ("networks", "; ".join(_network(each) for each in row.networks)),
            ("egress", ", ".join(row.egress)),
            ("fork of", row.fork_of),
            ("note", _note(row)),
        ],
    )


def _network(row: "Network") -> str:
    from paddock.cli.sizes import spell

    facts = [row.subnet or f"bridge {row.bridge}"]
    facts += [f"{row.latency * 1000:g} ms"] if row.latency else []
    facts += [f"{row.loss:.3g} lost"] if row.loss else []
    facts += [f"{spell(row.rate)}/s"] if row.rate else []
    return f"{row.name} {', '.join(facts)}"


def _show_machine(machine: "Machine") -> None:
    from paddock.cli import painting
    from paddock.cli.sizes import spell

    painting.print_line("")
    painting.fields(
        f"machine {machine.name}",
        [
            ("image", f"{machine.image}  {machine.digest[:12]}".strip()),
            ("memory", spell(machine.memory)),
            ("vcpus", str(machine.vcpus)),
            ("disks", ", ".join(f"{spell(size)} blank" for size in machine.disks)),
            *((f"card {place}", _card(card)) for place, card in enumerate(machine.nics)),
            ("start", f"{machine.start}: {machine.why}" if machine.why else machine.start),
            ("host key", fingerprint(machine.host_key)),
            ("display", f"paddock env screenshot ENV {machine.name} -o FILE" if machine.display else ""),
            ("agent", machine.agent),
        ],
    )


def _card(card: "Nic") -> str:
    return f"{card.network or 'not connected'}  {card.mac}  {card.address}".strip()


def fingerprint(key: str) -> str:
    """`ED25519 SHA256:...` of a public key, as ssh shows it; empty where there is none."""
    import base64
    import hashlib

    kind, _, rest = key.partition(" ")
    try:
        data = base64.b64decode(rest.split()[0], validate=True)
    except (ValueError, IndexError):
        return ""
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"{kind.removeprefix('ssh-').upper()} SHA256:{digest}"


def _answer(row: "Environment", *, as_json: bool) -> None:
    from paddock.cli import painting

    if as_json:
        painting.tell(row)
    else:
        note = _note(row)
        painting.print_line(f"environment {row.id}: {row.state}{f', {note}' if note else ''}")


@verb(env, "hold", example="paddock env hold k3f9 --ttl 2h\npaddock env hold k3f9 --disks --ttl 7d")
@click.argument("id")
@click.option("--ttl", type=TTL, default="1h", show_default=True, help="How long you keep it.")
@click.option("--disks", is_flag=True, help="Only copies of its disks; its machines are freed for others.")
@asks
def hold(client: "Client", id: str, ttl: float, disks: bool, as_json: bool) -> None:
    """Keep a leased environment for yourself when its lease ends, to look at what happened.

    With --disks its machines go, and `paddock env fork` brings the copies of their disks up again, later.
    """
    from paddock.client import calls

    _answer(client.send(calls.hold(environment_of(client, id).id, ttl=ttl, disks=disks)), as_json=as_json)


@verb(env, "fork", example="paddock env fork k3f9\npaddock env fork k3f9 --ttl 4h --json")
@click.argument("id")
@click.option("--ttl", type=TTL, default="1h", show_default=True, help="How long you have it unless you renew it.")
@click.option("--wait", type=SPAN, default=None, help="Give up the place in the queue after so long.")
@click.option("--holder", type=HOLDER, default="", help="Who asks, for a person to read. Default: you.")
@asks
def fork(client: "Client", id: str, ttl: float, wait: float | None, holder: str, as_json: bool) -> None:
    """Bring the disks that an environment saved up again, booted cold, as a new environment of yours.

    The saved disks stay as they are: they may be forked again, until their hold ends.
    """
    from paddock.cli import lease, painting
    from paddock.client import calls

    row = environment_of(client, id)
    with lease.queueing(client) as waits:
        granted = client.fork(row.id, ttl=ttl, holder=holder or lease.who(), patience=wait, waits=waits)
    lent = client.send(calls.lease(granted.lease.id))
    if as_json:
        return painting.tell(lent)
    lease.tell(lent, [f"{machine.name} {machine.address}".strip() for machine in granted.machines])
    painting.print_line(f"  give it back:  paddock lease release {lent.id}")


@verb(env, "release", example="paddock env release k3f9")
@click.argument("id")
@asks
def release(client: "Client", id: str, as_json: bool) -> None:
    """End a hold: the environment is cleaned and lent again."""
    from paddock.client import calls

    _answer(client.send(calls.release_environment(environment_of(client, id).id)), as_json=as_json)


@verb(env, "quarantine", example="paddock env quarantine k3f9 --reason 'its disk is slow'")
@click.argument("id")
@click.option("--reason", type=REASON, default="", help="Why, for the next who looks.")
@asks
def quarantine(client: "Client", id: str, reason: str, as_json: bool) -> None:
    """Lend an environment no more, and end the lease of who has it; `env clean` replaces it by a new one."""
    from paddock.client import calls

    _answer(client.send(calls.quarantine(environment_of(client, id).id, reason=reason)), as_json=as_json)


@verb(env, "clean", example="paddock env clean k3f9")
@click.argument("id")
@asks
def clean(client: "Client", id: str, as_json: bool) -> None:
    """Clean a free environment now, to lend it again; replace one that is broken or quarantined.

    What is broken or quarantined is destroyed: its pool builds a new one, under a new name, where one is wanted.
    """
    from paddock.cli import painting
    from paddock.client import calls

    row = client.send(calls.clean(environment_of(client, id).id))
    if as_json:
        return painting.tell(row)
    becomes = "it is destroyed, and its pool builds a new one where one is wanted"
    painting.print_line(
        f"environment {row.id}: {row.state}: {becomes if row.retiring else 'it is lent again afterwards'}"
    )


for _noun in (machines, consoles, shells, tunnels):
    for _name, _command in _noun.commands.items():
        env.add_command(_command, _name)
