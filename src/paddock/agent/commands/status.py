"""paddock agent status: whether an agent lives on a state directory."""

import argparse
import sys

from paddock.agent.commands.grammar import Commands, command, path, say, tell
from paddock.core.errors import Refused

MISSING = 4


def add(commands: Commands) -> None:
    """Declare it."""
    status = command(
        commands,
        "status",
        "whether an agent lives on a state directory; exits 4 if none does",
        example="paddock agent status --state /var/lib/paddock-agent",
    )
    status.add_argument("--state", type=path, required=True, metavar="DIR", help="where its ledger and token are")
    status.add_argument("--json", action="store_true", help="one JSON object")
    status.set_defaults(act=_status)


def _status(chosen: argparse.Namespace) -> None:
    from paddock.agent import identity

    try:
        found = identity.signed_in(chosen.state)
    except OSError as exc:
        raise Refused(f"{chosen.state}: {exc.strerror}") from exc
    known = identity.load(chosen.state)
    if chosen.json:
        tell({"agent": known.agent if known else None, "runs": found is not None, "pid": found.pid if found else None})
    else:
        name = known.agent if known else "not enrolled"
        say(f"{name}: " + (f"runs as process {found.pid}" if found else "does not run"))
    if found is None:
        sys.exit(MISSING)
