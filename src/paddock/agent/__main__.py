"""The agent's command line: run, methods, ledger, status."""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from paddock.agent.settings import HOST_SKILLS, MACHINE_SKILLS, Settings, WrongUse
from paddock.core.errors import Missing, PaddockError, Refused

if TYPE_CHECKING:
    from paddock.agent.entry import Entry

BROKEN, WRONG_USE, REFUSED, MISSING, INTERRUPTED = 1, 2, 3, 4, 130


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Carry out one command line as a program of its own."""
    sys.exit(run(words))


def run(words: Sequence[str] | None = None) -> int:
    """Carry out one command line; the exit code.

    0 done, 1 something is broken, 2 wrong use, 3 refused, 4 not found, 130 interrupted; why is said on stderr.
    """
    complain = _complain
    try:
        chosen = _parser().parse_args(words)
        complain = _log_complaint if chosen.act is _run and chosen.json else _complain
        chosen.act(chosen)
    except PaddockError as exc:
        complain(f"agent: {exc.message}", exc.hint)
        return _code_of(exc)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain once more while flushing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except SystemExit as exc:  # how argparse ends after -h
        return exc.code if isinstance(exc.code, int) else 0
    return 0


def _code_of(exc: PaddockError) -> int:
    if isinstance(exc, WrongUse):
        return WRONG_USE
    if isinstance(exc, Missing):
        return MISSING
    return REFUSED if isinstance(exc, Refused) else BROKEN


def _complain(message: str, hint: str) -> None:
    sys.stderr.write(f"paddock: {_clean(message)}\n" + (f"hint: {_clean(hint)}\n" if hint else ""))


def _log_complaint(message: str, hint: str) -> None:
    """Whoever reads a log of objects gets no other line between them."""
    logging.getLogger("paddock.agent").error(message, extra={"hint": hint} if hint else {})


def _clean(text: str) -> str:
    """Text of others without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


class _Line(argparse.ArgumentParser):
    """A command whose help ends with an example, and whose complaints have two lines."""

    def __init__(self, *, example: str, **rest: Any) -> None:
        told = "\n".join(f"  $ {line}" for line in example.splitlines())
        heading = "Examples" if "\n" in example else "Example"
        super().__init__(
            epilog=f"{heading}:\n{told}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # A shortened option is a surprise once there are two that begin so.
            allow_abbrev=False,
            **rest,
        )

    def error(self, message: str) -> NoReturn:
        name = self.prog.removeprefix("paddock ")
        _complain(f"{name}: {message}", f"{self.prog} -h")
        self.exit(WRONG_USE)


def _parser() -> argparse.ArgumentParser:
    parser = _Line(
        prog="paddock agent",
        description="The program on a machine of Paddock.",
        example="paddock agent run --server wss://ci.example.org/agent --state /var/lib/paddock-agent --code CODE\n"
        "paddock agent status --state /var/lib/paddock-agent",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Line)
    run = _command(
        commands,
        "run",
        "run an agent until it is told to stop",
        example="paddock agent run --server wss://ci.example.org/agent --state /var/lib/paddock-agent --code CODE",
    )
    where = run.add_mutually_exclusive_group(required=True)
    where.add_argument("--server", metavar="URL", help="dial this server: wss://HOST/agent")
    where.add_argument("--line", metavar="unix:PATH", help="serve lines on a socket, for a machine's own agent")
    run.add_argument("--state", type=_path, required=True, metavar="DIR", help="where its ledger and token are")
    run.add_argument("--work", type=_path, metavar="DIR", help="where tasks start (default: STATE/work)")
    run.add_argument("--code", default="", help="the enrolment code, once")
    run.add_argument("--ca", type=_path, metavar="FILE", help="authorities that are trusted instead of the system's")
    run.add_argument("--pin", metavar="FILE|SHA256", help="the one certificate that is trusted, or its fingerprint")
    run.add_argument("--proxy", metavar="URL", help="an HTTP or SOCKS proxy, '' for none (default: *_proxy, no_proxy)")
    run.add_argument("--insecure", action="store_true", help="let code and token go to a ws:// server in clear")
    run.add_argument("--skills", metavar="LIST", help="what it can do, comma separated")
    run.add_argument("--environment", default="", help="a machine's agent: its environment")
    run.add_argument("--machine", default="", help="a machine's agent: its name")
    run.add_argument("--address", default="", help="a machine's agent: its address")
    run.add_argument("--cgroup", type=Path, metavar="DIR", help="a machine's agent: the control group it joins")
    run.add_argument("--no-bubblewrap", action="store_true", help="let machines see the host's files")
    run.add_argument("--hide", type=_path, action="append", metavar="DIR", help="no machine sees into it; repeatable")
    run.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    run.add_argument("--json", action="store_true", help="log one JSON object a line")
    run.set_defaults(act=_run)
    methods = _command(commands, "methods", "what an agent can be asked", example="paddock agent methods --json")
    methods.add_argument("--json", action="store_true", help="one JSON object a method, one a line")
    methods.set_defaults(act=_methods)
    example = "paddock agent ledger show --state /var/lib/paddock-agent --limit 20"
    ledger = _command(commands, "ledger", "what it has been asked", example=example)
    shelves = ledger.add_subparsers(required=True, metavar="COMMAND", parser_class=_Line)
    shown = _command(shelves, "show", "print the newest entries", example=example)
    shown.add_argument("--state", type=_path, required=True, metavar="DIR", help="where its ledger is")
    shown.add_argument("--limit", type=_count, default=100, help="so many at most (default: 100)")
    shown.add_argument("--json", action="store_true", help="one JSON object an entry, one a line")
    shown.set_defaults(act=_show)
    status = _command(
        commands,
        "status",
        "whether an agent lives on a state directory; exits 4 if none does",
        example="paddock agent status --state /var/lib/paddock-agent",
    )
    status.add_argument("--state", type=_path, required=True, metavar="DIR", help="where its ledger and token are")
    status.add_argument("--json", action="store_true", help="one JSON object")
    status.set_defaults(act=_status)
    return parser


def _command(commands: "argparse._SubParsersAction[_Line]", name: str, told: str, *, example: str) -> _Line:
    return commands.add_parser(name, help=told, description=f"{told[:1].upper()}{told[1:]}.", example=example)


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text} is not a count of at least 1")
    return int(text)


def _path(text: str) -> Path:
    # Links on the way are resolved once: later no path of ours is walked through one.
    return Path(text).resolve()


def _run(chosen: argparse.Namespace) -> None:
    from paddock.agent import agent
    from paddock.hands import trust

    _log_to_stderr(chosen.log_level, as_json=chosen.json)
    line = None
    if chosen.line is not None:
        kind, _, place = chosen.line.partition(":")
        if kind != "unix" or not place:
            raise WrongUse(f"--line {chosen.line}: not a socket's path", hint="--line unix:PATH")
        line = _path(place)
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
                certificate=_path(pin) if pin and not fingerprint else None,
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


def _methods(chosen: argparse.Namespace) -> None:
    from paddock.wire.methods import describe

    rows = describe()
    if chosen.json:
        nested: list[dict[str, Any]] = []
        for row in rows:
            if row["method"]:
                nested.append({**row, "params": []})
            else:
                nested[-1]["params"].append({name: told for name, told in row.items() if name != "method"})
        for one in nested:
            _tell(one)
        return
    for row in rows:
        if row["method"]:
            _say(f"\n{row['method']}  ({row['toward']}, {row['effect']})  {row['caption']}\n    -> {row['result']}")
        else:
            _say(f"    {row['param']}: {row['kind']}, {row['needed']}: {row['doc']}")


def _show(chosen: argparse.Namespace) -> None:
    from paddock.agent.ledger import peek

    path = chosen.state / "ledger"
    if not path.exists():
        raise Missing(f"{chosen.state}: no ledger", hint="--state DIR: the one that the agent runs with")
    for entry in peek(path, limit=chosen.limit):
        if chosen.json:
            _tell(_told(entry))
            continue
        ended = "" if entry.outcome is None else f"  {entry.outcome.code or 'complete'} {entry.outcome.msg}"
        _say(f"{entry.accepted.at:%Y-%m-%d %H:%M:%S}  {entry.state:12}  {entry.method:18}  {entry.id}{ended}")


def _status(chosen: argparse.Namespace) -> None:
    from paddock.agent import identity

    try:
        found = identity.signed_in(chosen.state)
    except OSError as exc:
        raise Refused(f"{chosen.state}: {exc.strerror}") from exc
    known = identity.load(chosen.state)
    if chosen.json:
        _tell({"agent": known.agent if known else None, "runs": found is not None, "pid": found.pid if found else None})
    else:
        name = known.agent if known else "not enrolled"
        _say(f"{name}: " + (f"runs as process {found.pid}" if found else "does not run"))
    if found is None:
        sys.exit(MISSING)


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


def _tell(told: Mapping[str, Any]) -> None:
    _say(json.dumps(told, ensure_ascii=False))


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


class _Objects(logging.Formatter):
    """The same as one JSON object, with the names that the server's log has."""

    def format(self, record: logging.LogRecord) -> str:
        from paddock.agent.logs import fields_of

        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told: dict[str, Any] = {
            "at": when,
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        told |= {key: value for key, value in fields_of(record).items() if key not in told}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def _log_to_stderr(level: str, *, as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Objects() if as_json else _Events())
    logger = logging.getLogger("paddock")
    logger.setLevel(level.upper())
    logger.addHandler(handler)


if __name__ == "__main__":
    main()
