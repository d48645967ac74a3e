"""The agent's command line: run, methods, ledger, status."""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from paddock.agent.settings import HOST_SKILLS, MACHINE_SKILLS, Settings
from paddock.core.errors import PaddockError


def main(words: Sequence[str] | None = None) -> None:
    """Carry out one command line; exits 1 with the reason, 2 for a line that says nothing sensible."""
    chosen = _parser().parse_args(words)
    try:
        chosen.act(chosen)
    except PaddockError as exc:
        sys.exit(f"paddock agent: {exc.message}" + (f" ({exc.hint})" if exc.hint else ""))
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paddock agent", description="The program on a machine of Paddock.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run an agent until it is told to stop")
    where = run.add_mutually_exclusive_group(required=True)
    where.add_argument("--server", metavar="URL", help="dial this server: wss://HOST/agent")
    where.add_argument("--line", metavar="unix:PATH", help="serve lines on a socket, for a machine's own agent")
    run.add_argument("--state", type=_path, required=True, metavar="DIR", help="where its ledger and token are")
    run.add_argument("--work", type=_path, metavar="DIR", help="where tasks start (default: STATE/work)")
    run.add_argument("--code", default="", help="the enrolment code, once")
    run.add_argument("--ca", type=_path, metavar="FILE", help="authorities that are trusted instead of the system's")
    run.add_argument("--pin", metavar="FILE|SHA256", help="the one certificate that is trusted, or its fingerprint")
    run.add_argument("--proxy", metavar="URL", help="an HTTP or SOCKS proxy, '' for none (default: *_proxy, no_proxy)")
    run.add_argument("--skills", metavar="LIST", help="what it can do, comma separated")
    run.add_argument("--environment", default="", help="a machine's agent: its environment")
    run.add_argument("--machine", default="", help="a machine's agent: its name")
    run.add_argument("--address", default="", help="a machine's agent: its address")
    run.add_argument("--cgroup", type=Path, metavar="DIR", help="a machine's agent: the control group it joins")
    run.add_argument("--no-bubblewrap", action="store_true", help="let machines see the host's files")
    run.add_argument("--hide", type=_path, action="append", metavar="DIR", help="no machine sees into it; repeatable")
    run.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    run.set_defaults(act=_run)
    methods = commands.add_parser("methods", help="what an agent can be asked")
    methods.add_argument("--json", action="store_true")
    methods.set_defaults(act=_methods)
    ledger = commands.add_parser("ledger", help="what it has been asked")
    shown = ledger.add_subparsers(required=True, metavar="COMMAND").add_parser("show", help="print the newest entries")
    shown.add_argument("--state", type=_path, required=True, metavar="DIR")
    shown.add_argument("--limit", type=int, default=100)
    shown.set_defaults(act=_show)
    status = commands.add_parser("status", help="whether an agent lives on a state directory")
    status.add_argument("--state", type=_path, required=True, metavar="DIR")
    status.set_defaults(act=_status)
    return parser


def _path(text: str) -> Path:
    # Links on the way are resolved once: later no path of ours is walked through one.
    return Path(text).resolve()


def _run(chosen: argparse.Namespace) -> None:
    from paddock.agent import agent
    from paddock.hands import trust

    _log_to_stderr(chosen.log_level)
    line = None
    if chosen.line is not None:
        kind, _, place = chosen.line.partition(":")
        if kind != "unix" or not place:
            sys.exit("paddock agent: --line: only unix:PATH is served")
        line = _path(place)
    pin = chosen.pin or ""
    fingerprint = trust.fingerprint_of(pin)
    skills = tuple(chosen.skills.split(",")) if chosen.skills else HOST_SKILLS if line is None else MACHINE_SKILLS
    asyncio.run(
        agent.live(
            Settings(
                state=chosen.state,
                work=chosen.work or chosen.state / "work",
                server=chosen.server or "",
                line=line,
                code=chosen.code,
                authorities=chosen.ca,
                certificate=_path(pin) if pin and not fingerprint else None,
                fingerprint=fingerprint,
                proxy=chosen.proxy,
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


def _methods(chosen: argparse.Namespace) -> None:
    from paddock.wire.methods import describe

    rows = describe()
    if chosen.json:
        _say(json.dumps(rows))
        return
    for row in rows:
        if row["method"]:
            _say(f"\n{row['method']}  ({row['toward']}, {row['effect']})  {row['caption']}\n    -> {row['result']}")
        else:
            _say(f"    {row['param']}: {row['kind']}, {row['needed']}: {row['doc']}")


def _show(chosen: argparse.Namespace) -> None:
    from paddock.agent.ledger import peek

    for entry in peek(chosen.state / "ledger", limit=chosen.limit):
        ended = "" if entry.outcome is None else f"  {entry.outcome.code or 'complete'} {entry.outcome.msg}"
        _say(f"{entry.accepted.at:%Y-%m-%d %H:%M:%S}  {entry.state:12}  {entry.method:18}  {entry.id}{ended}")


def _status(chosen: argparse.Namespace) -> None:
    from paddock.agent import identity

    found = identity.signed_in(chosen.state)
    known = identity.load(chosen.state)
    name = known.agent if known else "not enrolled"
    _say(f"{name}: " + (f"runs as process {found.pid}" if found else "does not run"))
    if found is None:
        sys.exit(1)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


class _Events(logging.Formatter):
    """Constant text, then what it is about, as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        from paddock.agent.logs import fields_of

        when = datetime.fromtimestamp(record.created, UTC)
        fields = "".join(f" {key}={value!r}" for key, value in fields_of(record).items())
        text = f"{when:%Y-%m-%dT%H:%M:%S}Z {record.levelname.lower()} {record.name}: {record.getMessage()}{fields}"
        return text + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Events())
    logger = logging.getLogger("paddock")
    logger.setLevel(level.upper())
    logger.addHandler(handler)


if __name__ == "__main__":
    main()
