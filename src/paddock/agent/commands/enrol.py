"""paddock agent enrol: a code for the agent of this machine, which uses it when it starts.

Effects: idempotent.
"""

import argparse
from pathlib import Path

from paddock.agent.commands import place
from paddock.agent.commands.grammar import Commands, command, say
from paddock.agent.setup import placing
from paddock.core.errors import Missing, Refused


def add(commands: Commands) -> None:
    """Declare it."""
    enrol = command(
        commands,
        "enrol",
        "give it an enrolment code, which it uses once when it starts",
        example="paddock agent enrol --code-file - < code",
    )
    place.add(enrol)
    what = enrol.add_mutually_exclusive_group(required=True)
    what.add_argument("--code-file", metavar="FILE|-", help="the code, in a file or on standard input")
    what.add_argument("--same-machine", action="store_true", help="it is no copy: its hardware was changed")
    enrol.add_argument("--anew", action="store_true", help="forget who it is: the server takes it for a new agent")
    enrol.set_defaults(act=_enrol)


def _enrol(chosen: argparse.Namespace) -> None:
    from paddock.agent import enrolment, identity, shutout

    state = place.state(chosen)
    if not state.is_dir():
        raise Missing(f"{state}: no such directory", hint="paddock agent configure makes it")
    owner = _owner(state)
    if chosen.same_machine:
        placing.place(placing.File(path=state / shutout.SAME, content=b"", mode=0o600, owner=owner))
        say("it goes on as who it was")
        return
    known = identity.load(state)
    if (state / shutout.MARK).exists():
        code = enrolment.read(chosen.code_file)
        placing.place(placing.File(path=state / enrolment.FILE, content=f"{code}\n".encode(), mode=0o600, owner=owner))
        say("it was shut out as a copy: it enrols with this code as soon as it runs")
        return
    if known is not None and not chosen.anew:
        raise Refused(f"{state}: is enrolled as {known.agent}", hint="--anew, if the server is to take it for another")
    code = enrolment.read(chosen.code_file)
    if known is not None and identity.signed_in(state) is not None:
        raise Refused(f"{known.agent}: it runs", hint="paddock agent stop, then again")
    placing.place(placing.File(path=state / enrolment.FILE, content=f"{code}\n".encode(), mode=0o600, owner=owner))
    # The code first: killed in between, it is still who it was, and the code is thrown away.
    if known is not None:
        placing.place(placing.Absent(path=state / identity.FILE))
    say("it enrols when it starts: systemctl restart paddock-agent, or paddock agent run")


def _owner(state: Path) -> placing.Owner:
    found = state.stat()
    return placing.Owner(user=found.st_uid, group=found.st_gid)
