"""paddock agent run: an agent, until it is told to stop."""

import argparse
import asyncio
import os
from datetime import timedelta
from pathlib import Path

from paddock.agent.commands import filling, place
from paddock.agent.commands.grammar import Commands, command, path
from paddock.agent.settings import HOST_SKILLS, MACHINE_SKILLS, Hypervisor, Settings


def add(commands: Commands) -> None:
    """Declare it."""
    run = command(
        commands,
        "run",
        "run an agent until it is told to stop",
        example="paddock agent run --config /opt/paddock-agent/etc/agent.conf\n"
        "paddock agent run --server wss://ci.example.org/agent --state /var/lib/paddock-agent --code-file code",
    )
    place.add(run)
    where = run.add_mutually_exclusive_group()
    where.add_argument(
        "--server",
        action="append",
        metavar="URL",
        help="dial this server: wss://HOST/agent; repeatable, or comma separated: then each in turn",
    )
    where.add_argument(
        "--line",
        metavar="URL",
        help="speak lines: tls://HOST:PORT, tcp://HOST:PORT (loopback), virtio:DEVICE, stdio:, or serve on unix:PATH",
    )
    run.add_argument("--parked", action="store_true", help="be nobody until the host says on the line who this is")
    run.add_argument("--work", type=path, metavar="DIR", help="where tasks start (default: STATE/work)")
    run.add_argument("--code-file", metavar="FILE|-", help="the enrolment code, once: in a file, or on standard input")
    run.add_argument("--code", default="", help="the same, for everybody on this machine to see")
    run.add_argument("--ca", type=path, metavar="FILE", help="authorities that are trusted instead of the system's")
    run.add_argument("--pin", metavar="FILE|SHA256", help="the one certificate that is trusted, or its fingerprint")
    run.add_argument("--proxy", metavar="URL", help="an HTTP or SOCKS proxy, '' for none (default: *_proxy, no_proxy)")
    run.add_argument("--insecure", action="store_true", help="let code and token go to a ws:// server in clear")
    run.add_argument("--connect-limit", type=_span, metavar="SECONDS", help="for connecting, TLS included (15)")
    run.add_argument("--hello-limit", type=_span, metavar="SECONDS", help="for the answer to the first words (60)")
    run.add_argument("--retry-limit", type=_span, metavar="SECONDS", help="the longest wait between attempts (60)")
    run.add_argument("--rotation", type=_long, metavar="SECONDS", help="how old a token may get (30 days)")
    run.add_argument("--cloud", default="", metavar="NAME", help="where this machine runs; none: ask no metadata")
    run.add_argument("--metadata-url", default="", metavar="URL", help="where the cloud's metadata are served")
    run.add_argument("--rootfs", type=path, default=Path("/"), metavar="DIR", help="the machine's own file system (/)")
    run.add_argument("--same-machine", action="store_true", help="this is no copy, though its hardware changed")
    run.add_argument("--skills", metavar="LIST", help="what it can do, comma separated")
    run.add_argument("--retention", type=_days, metavar="DAYS", help="how long acknowledged commands are known (2)")
    run.add_argument("--environment", default="", help="a machine's agent: its environment")
    run.add_argument("--machine", default="", help="a machine's agent: its name")
    run.add_argument("--address", default="", help="a machine's agent: its address")
    run.add_argument("--cgroup", type=Path, metavar="DIR", help="a machine's agent: the control group it joins")
    run.add_argument("--no-bubblewrap", action="store_true", help="let machines see the host's files")
    run.add_argument("--hide", type=path, action="append", metavar="DIR", help="no machine sees into it; repeatable")
    run.add_argument(
        "--hypervisor",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how virtual machines are made: a key of that section of agent.conf; repeatable",
    )
    run.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    run.add_argument("--json", dest="logs_objects", action="store_true", help="log one JSON object a line")
    run.set_defaults(act=_run)


def _span(text: str) -> timedelta:
    return _within(text, 3600)


def _long(text: str) -> timedelta:
    return _within(text, 10 * 365 * 86400)


def _within(text: str, most: int) -> timedelta:
    seconds = float(text)
    if not 0 < seconds <= most:
        raise argparse.ArgumentTypeError(f"not between 0 and {most} seconds")
    return timedelta(seconds=seconds)


def _days(text: str) -> timedelta:
    days = float(text)
    if not 0 < days <= 3650:
        raise argparse.ArgumentTypeError("not between 0 and 3650 days")
    return timedelta(days=days)


def _run(chosen: argparse.Namespace) -> None:
    from paddock.agent import agent, events
    from paddock.agent.skills import usual
    from paddock.hands import trust

    filling.fill(chosen)
    events.begin(chosen.conf, chosen.log_level, as_json=chosen.logs_objects)
    pin = chosen.pin or ""
    fingerprint = trust.fingerprint_of(pin)
    skills = (
        tuple(name.strip() for name in chosen.skills.split(","))
        if chosen.skills
        else usual(HOST_SKILLS)
        if not chosen.line
        else MACHINE_SKILLS
    )
    asyncio.run(
        agent.live(
            Settings(
                state=chosen.state,
                work=chosen.work or chosen.state / "work",
                servers=tuple(url.strip() for word in chosen.server or () for url in word.split(",") if url.strip()),
                line=chosen.line or "",
                code=chosen.code,
                authorities=chosen.ca,
                certificate=path(pin) if pin and not fingerprint else None,
                fingerprint=fingerprint,
                proxy=chosen.proxy,
                insecure=chosen.insecure,
                connect_limit=chosen.connect_limit or Settings.connect_limit,
                hello_limit=chosen.hello_limit or Settings.hello_limit,
                retry_limit=chosen.retry_limit or Settings.retry_limit,
                rotation=chosen.rotation or Settings.rotation,
                cloud=chosen.cloud,
                metadata_url=chosen.metadata_url,
                rootfs=chosen.rootfs,
                same_machine=chosen.same_machine,
                parked=chosen.parked,
                environment=chosen.environment,
                machine=chosen.machine,
                address=chosen.address,
                cgroup=chosen.cgroup,
                bubblewrap=not chosen.no_bubblewrap and os.environ.get("PADDOCK_BUBBLEWRAP") != "no",
                hidden=tuple(chosen.hide or ()),
                skills=skills,
                retention=chosen.retention,
                log_level=chosen.log_level,
                hypervisor=Hypervisor.read(dict(word.partition("=")[::2] for word in chosen.hypervisor)),
            )
        )
    )
