"""`paddock event`: what was heard, and what became of it."""

from typing import TYPE_CHECKING

import click

from paddock.cli.connection import asks, every
from paddock.cli.grammar import Noun, verb
from paddock.cli.naming import event_of

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import Event

event = Noun("event", help="Events: what forges, clocks and people said.", example="paddock event list")


@verb(event, "list", example="paddock event list\npaddock event list --project openstack/nova --limit 5")
@click.option("--in", "condition", metavar="STATE", default="", help="In one state: heard, planned, ignored.")
@click.option("--project", default="", help="About one project.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=30, show_default=True, help="At most so many.")
@asks
def list_(client: "Client", condition: str, project: str, limit: int, as_json: bool) -> None:
    """Events, newest first, and why each started something or not."""
    from paddock.cli import painting
    from paddock.client import calls

    rows = every(
        client,
        lambda below: calls.events(below=below, state=condition, project=project, limit=min(limit, 500)),
        limit,
    )
    if as_json:
        return painting.tell_all(rows)
    painting.table(
        ("id", "heard", "type", "change", "state", "outcome"),
        [(row.id, painting.ago(row.heard), row.type or row.kind, about(row), row.state, row.outcome) for row in rows],
        empty="nothing was heard yet; is the forge reachable? paddock doctor",
    )


def about(row: "Event") -> str:
    """Which change an event is about."""
    if row.change is not None:
        return f"{row.change.project} {row.change.number},{row.change.patchset}"
    return f"{row.project} {row.number}" if row.number else row.project


@verb(event, "show", example="paddock event show 7f3a")
@click.argument("id")
@click.option("--raw", is_flag=True, help="The line as the forge sent it, and nothing else.")
@asks
def show(client: "Client", id: str, raw: bool, as_json: bool) -> None:
    """One event: who said what, and for each job why it ran or did not."""
    from paddock.cli import painting

    row = event_of(client, id)
    if raw:
        return painting.print_line(row.raw)
    if as_json:
        return painting.tell(row)
    painting.fields(
        f"event {row.id}  {row.type or row.kind}",
        [
            ("change", about(row)),
            ("by", row.author),
            ("comment", " ".join(row.comment.split())),
            ("heard", painting.ago(row.heard)),
            ("state", row.state),
            ("outcome", row.outcome),
            ("round", row.round),
        ],
    )
    if row.whys:
        painting.print_line("")
        painting.table(
            ("job", "runs", "why", "where"),
            [(why.job, "runs" if why.runs else "no", why.reason, why.where) for why in row.whys],
            empty="",
        )
