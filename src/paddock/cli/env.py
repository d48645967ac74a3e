"""`paddock env`: the environments, and what an operator may do to one."""

from typing import TYPE_CHECKING

import click

from paddock.cli.connection import asks, every
from paddock.cli.grammar import Noun, verb
from paddock.cli.lines import REASON
from paddock.cli.naming import environment_of
from paddock.cli.spans import TTL
from paddock.core.environment import State

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import Environment

env = Noun("env", help="Environments: machines and networks lent as one.", example="paddock env list")
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
        return f"held by {row.held_by}, ends {painting.left(row.hold_until)}"
    return row.reason or ("goes when it is given back" if row.retiring else "")


@verb(env, "show", example="paddock env show k3f9")
@click.argument("id")
@click.option("--history", "limit", type=click.IntRange(0, 10_000), default=15, show_default=True, help="Last steps.")
@asks
def show(client: "Client", id: str, limit: int, as_json: bool) -> None:
    """One environment: its machines, and who had it when."""
    from paddock.cli import painting

    row = environment_of(client, id)
    if as_json:
        return painting.tell(row)
    _show(row)
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


def _show(row: "Environment") -> None:
    from paddock.cli import painting

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
            ("note", _note(row)),
        ],
    )


def _answer(row: "Environment", *, as_json: bool) -> None:
    from paddock.cli import painting

    if as_json:
        painting.tell(row)
    else:
        note = _note(row)
        painting.print_line(f"environment {row.id}: {row.state}{f', {note}' if note else ''}")


@verb(env, "hold", example="paddock env hold k3f9 --ttl 2h")
@click.argument("id")
@click.option("--ttl", type=TTL, default="1h", show_default=True, help="How long you keep it.")
@asks
def hold(client: "Client", id: str, ttl: float, as_json: bool) -> None:
    """Keep a leased environment for yourself when its lease ends, to look at what happened."""
    from paddock.client import calls

    _answer(client.send(calls.hold(environment_of(client, id).id, ttl=ttl)), as_json=as_json)


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
