"""paddock agent ledger: what the agent of this machine has been asked."""

import argparse
from typing import TYPE_CHECKING, Any

from paddock.agent.commands import place
from paddock.agent.commands.grammar import Commands, Line, command, count, say, tell
from paddock.core.errors import Missing

if TYPE_CHECKING:
    from paddock.agent.entry import Entry


def add(commands: Commands) -> None:
    """Declare it."""
    example = "paddock agent ledger show --limit 20"
    ledger = command(commands, "ledger", "what it has been asked", example=example)
    shelves = ledger.add_subparsers(required=True, metavar="COMMAND", parser_class=Line)
    shown = command(shelves, "show", "print the newest entries", example=example)
    place.add(shown)
    shown.add_argument("--limit", type=count, default=100, help="so many at most (default: 100)")
    shown.add_argument("--json", action="store_true", help="one JSON object an entry, one a line")
    shown.set_defaults(act=_show)


def _show(chosen: argparse.Namespace) -> None:
    from paddock.agent.ledger import peek

    state = place.state(chosen)
    path = state / "ledger"
    if not path.exists():
        raise Missing(f"{state}: no ledger", hint="--state DIR: the one that the agent runs with")
    for entry in peek(path, limit=chosen.limit):
        if chosen.json:
            tell(_told(entry))
            continue
        ended = "" if entry.outcome is None else f"  {entry.outcome.code or 'complete'} {entry.outcome.msg}"
        say(f"{entry.accepted.at:%Y-%m-%d %H:%M:%S}  {entry.state:12}  {entry.method:18}  {entry.id}{ended}")


def _told(entry: "Entry") -> dict[str, Any]:
    """An entry without its params: they may hold secrets."""
    outcome = entry.outcome
    return {
        "id": entry.id,
        "task": entry.task,
        "method": entry.method,
        "state": str(entry.state),
        "accepted": entry.accepted.at.isoformat().replace("+00:00", "Z"),
        "seq": entry.seq,
        "epoch": entry.epoch,
        "environment": entry.environment,
        "fence": entry.fence,
        "outcome": None
        if outcome is None
        else {"code": str(outcome.code) if outcome.code else None, "msg": outcome.msg, "result": outcome.result},
    }
