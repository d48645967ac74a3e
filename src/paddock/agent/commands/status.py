"""paddock agent status: whether the agent lives, and how it stands with its server."""

import argparse
import sys
from pathlib import Path
from typing import Any

from paddock.agent.commands import place
from paddock.agent.commands.grammar import Commands, clean, command, say, tell
from paddock.core.errors import Broken, Refused

MISSING = 4
_LOOKED_AT = 10_000


def add(commands: Commands) -> None:
    """Declare it."""
    status = command(
        commands,
        "status",
        "whether it lives and is connected; exits 4 if it does not live",
        example="paddock agent status",
    )
    place.add(status)
    status.add_argument("--json", action="store_true", help="one JSON object")
    status.set_defaults(act=_status)


def _status(chosen: argparse.Namespace) -> None:
    told = _told(place.state(chosen))
    if chosen.json:
        tell(told)
    else:
        _print(told)
    if not told["runs"]:
        sys.exit(MISSING)


def _told(state: Path) -> dict[str, Any]:
    from paddock.agent import durable, identity, ledger, shutout, standing

    try:
        found = identity.signed_in(state)
    except OSError as exc:
        raise Refused(f"{state}: {exc.strerror}") from exc
    known = identity.load(state)
    stands = standing.found(state)
    return {
        "agent": known.agent if known else None,
        "runs": found is not None,
        "pid": found.pid if found else None,
        "server": stands.server or None,
        "connected": found is not None and stands.is_connected,
        "since": stands.since or None,
        "shut_out": durable.read(state / shutout.MARK) if found is not None else None,
        "trouble": stands.trouble or None,
        "trouble_at": stands.trouble_at or None,
        "tasks": _tasks(state / "ledger"),
        "corrupt_ledgers": [str(one) for one in ledger.set_aside(state / "ledger")],
    }


def _tasks(ledger: Path) -> int:
    """How many commands are not over."""
    from paddock.agent.entry import State
    from paddock.agent.ledger import peek

    if not ledger.is_file():
        return 0
    try:
        return sum(entry.state in (State.ACCEPTED, State.STARTED) for entry in peek(ledger, limit=_LOOKED_AT))
    except Broken:
        return 0


def _print(told: dict[str, Any]) -> None:
    name = told["agent"] or "not enrolled"
    say(f"{name}: " + (f"runs as process {told['pid']}" if told["runs"] else "does not run"))
    if told["connected"]:
        say(f"  connected to {clean(told['server'] or 'its line')} since {told['since']}")
    elif told["runs"]:
        say(f"  not connected since {told['since']}" if told["since"] else "  not connected yet")
    if told["shut_out"]:
        say(f"  shut out, a copy of another machine: {clean(str(told['shut_out']))}")
    if told["trouble"]:
        say(f"  last trouble at {told['trouble_at']}: {clean(told['trouble'])}")
    for one in told["corrupt_ledgers"]:
        say(f"  a ledger was corrupt and is kept as {clean(one)}")
    if told["tasks"]:
        say(f"  {told['tasks']} tasks under way")
