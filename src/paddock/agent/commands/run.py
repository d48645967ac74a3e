"""paddock agent run: an agent, until it is told to stop."""

import argparse
import asyncio
import os
from pathlib import Path

from paddock.agent.commands.grammar import Commands, command, path
from paddock.agent.settings import HOST_SKILLS, MACHINE_SKILLS, Settings, WrongUse


def add(commands: Commands) -> None:
    """Declare it."""
    run = command(
        commands,
        "run",
        "run an agent until it is told to stop",
        example="paddock agent run --server wss://ci.example.org/agent --state /var/lib/paddock-agent --code CODE",
    )
    where = run.add_mutually_exclusive_group(required=True)
    where.add_argument("--server", metavar="URL", help="dial this server: wss://HOST/agent")
    where.add_argument("--line", metavar="unix:PATH", help="serve lines on a socket, for a machine's own agent")
    run.add_argument("--state", type=path, required=True, metavar="DIR", help="where its ledger and token are")
    run.add_argument("--work", type=path, metavar="DIR", help="where tasks start (default: STATE/work)")
    run.add_argument("--code", default="", help="the enrolment code, once")
    run.add_argument("--ca", type=path, metavar="FILE", help="authorities that are trusted instead of the system's")
    run.add_argument("--pin", metavar="FILE|SHA256", help="the one certificate that is trusted, or its fingerprint")
    run.add_argument("--proxy", metavar="URL", help="an HTTP or SOCKS proxy, '' for none (default: *_proxy, no_proxy)")
    run.add_argument("--insecure", action="store_true", help="let code and token go to a ws:// server in clear")
    run.add_argument("--skills", metavar="LIST", help="what it can do, comma separated")
    run.add_argument("--environment", default="", help="a machine's agent: its environment")
    run.add_argument("--machine", default="", help="a machine's agent: its name")
    run.add_argument("--address", default="", help="a machine's agent: its address")
    run.add_argument("--cgroup", type=Path, metavar="DIR", help="a machine's agent: the control group it joins")
    run.add_argument("--no-bubblewrap", action="store_true", help="let machines see the host's files")
    run.add_argument("--hide", type=path, action="append", metavar="DIR", help="no machine sees into it; repeatable")
    run.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    run.add_argument("--json", dest="logs_objects", action="store_true", help="log one JSON object a line")
    run.set_defaults(act=_run)


def _run(chosen: argparse.Namespace) -> None:
    from paddock.agent import agent, events
    from paddock.hands import trust

    events.to_stderr(chosen.log_level, as_json=chosen.logs_objects)
    line = None
    if chosen.line is not None:
        kind, _, place = chosen.line.partition(":")
        if kind != "unix" or not place:
            raise WrongUse(f"--line {chosen.line}: not a socket's path", hint="--line unix:PATH")
        line = path(place)
    pin = chosen.pin or ""
    fingerprint = trust.fingerprint_of(pin)
    skills = (
        tuple(name.strip() for name in chosen.skills.split(","))
        if chosen.skills
        else HOST_SKILLS
        if line is None
        else MACHINE_SKILLS
    )
    asyncio.run(
        agent.live(
            Settings(
                state=chosen.state,
                work=chosen.work or chosen.state / "work",
                server=chosen.server or "",
                line=line,
                code=chosen.code,
                authorities=chosen.ca,
                certificate=path(pin) if pin and not fingerprint else None,
                fingerprint=fingerprint,
                proxy=chosen.proxy,
                insecure=chosen.insecure,
                environment=chosen.environment,
                machine=chosen.machine,
                address=chosen.address,
                cgroup=chosen.cgroup,
                bubblewrap=not chosen.no_bubblewrap and os.environ.get("PADDOCK_BUBBLEWRAP") != "no",
                hidden=tuple(chosen.hide or ()),
                skills=skills,
                log_level=chosen.log_level,
            )
        )
    )
