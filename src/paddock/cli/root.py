"""The command line as a whole: its nouns, and how what goes wrong is said."""

import os
import sys
from collections.abc import Sequence

import click

from paddock import __version__
from paddock.cli.grammar import Shelf
from paddock.core.errors import Missing, PaddockError, Refused

WRONG_USE, REFUSED, MISSING, UNREACHABLE, INTERRUPTED = 2, 3, 4, 5, 130

_ENTRIES = {
    "serve": ("paddock.cli.serve:serve", "Run the server that a configuration describes."),
    "demo": ("paddock.cli.demo:demo", "See the main job done on a recorded Gerrit stream."),
    "doctor": ("paddock.cli.doctor:doctor", "Look at what Paddock needs here, and say how to mend it."),
    "validate": ("paddock.cli.configuration:validate", "Check a configuration."),
    "explain": ("paddock.cli.configuration:explain", "Say what an event would start, and why."),
    "schema": ("paddock.cli.configuration:schema", "Print the configuration's JSON Schema, for editors."),
    "lease": ("paddock.cli.lease:lease", "Borrow: acquire, run, renew, release, list, show, why."),
    "env": ("paddock.cli.env:env", "Environments: list, show, ssh, console, power, hold, fork..."),
    "image": ("paddock.cli.image:image", "What machines are cloned from: list, show, build, log, gc."),
    "run": ("paddock.cli.run:run", "Runs of jobs: list, show, log, retry, cancel."),
    "host": ("paddock.cli.host:host", "What carries environments: list, show, add, drain, resume."),
    "event": ("paddock.cli.event:event", "What was heard, and what became of it: list, show."),
    "token": ("paddock.cli.token:token", "Who may ask: create, list, revoke."),
    "drain": ("paddock.cli.drain:drain", "Start no new runs, and wait for those under way."),
    "chaos": ("paddock.cli.chaos:chaos", "Break a server and an agent on purpose, and count: agent."),
    "agent": ("paddock.cli.agent:agent", "Agents: list, call, log, alerts...; the one here: run, status..."),
}

root = Shelf(
    "paddock",
    entries=_ENTRIES,
    help="Paddock lends whole machine rooms to changes under test.",
    example="paddock demo\npaddock lease run --env two-node -- ./reproduce.sh",
)
click.version_option(__version__, "--version", prog_name="paddock", message="%(prog)s %(version)s")(root)


def run(argv: Sequence[str]) -> int:
    """Carry out one command line; what goes wrong is said on stderr."""
    try:
        code = root.main(list(argv), prog_name="paddock", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as exc:
        return _wrong_use(exc)
    except PaddockError as exc:
        complain(exc.message, exc.hint)
        return code_of(exc)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain once more while flushing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def code_of(exc: PaddockError) -> int:
    """The exit code that an error stands for."""
    client = sys.modules.get("paddock.client.errors")
    if client is not None and isinstance(exc, client.Unreachable):
        return UNREACHABLE
    if isinstance(exc, Missing):
        return MISSING
    return REFUSED if isinstance(exc, Refused) else 1


def complain(message: str, hint: str = "") -> None:
    """Say what went wrong, in two lines at most."""
    click.echo(f"paddock: {clean(message)}", err=True)
    if hint:
        click.echo(f"hint: {clean(hint)}", err=True)


def _wrong_use(exc: click.ClickException) -> int:
    ctx = getattr(exc, "ctx", None)
    path = ctx.command_path.removeprefix("paddock").strip() if ctx is not None else ""
    words = exc.format_message().rstrip(".")
    said = f"{path or 'command line'}: {words[:1].lower()}{words[1:]}"
    complain(said, f"{ctx.command_path if ctx is not None else 'paddock'} -h")
    return WRONG_USE if isinstance(exc, click.UsageError) else 1


def clean(text: str) -> str:
    """Text of others without what would steer a terminal: each control character becomes a visible one."""
    return "".join(letter if letter.isprintable() else _visible(letter) for letter in text)


def _visible(letter: str) -> str:
    return letter if letter in "\n\t" or (letter.isspace() and ord(letter) > 0xA0) else "\ufffd"
