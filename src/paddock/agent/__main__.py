"""The agent's command line: its verbs, and the exit code of each end."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from paddock import __version__
from paddock.agent.commands import bundle, configure, enrol, grammar, ledger, methods, status, stop
from paddock.agent.commands import run as running
from paddock.agent.settings import WrongUse
from paddock.core.errors import Missing, PaddockError, Refused

BROKEN, WRONG_USE, REFUSED, MISSING, INTERRUPTED = 1, 2, 3, 4, 130


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Carry out one command line as a program of its own."""
    sys.exit(run(words))


def run(words: Sequence[str] | None = None) -> int:
    """Carry out one command line; the exit code.

    0 done, 1 something is broken, 2 wrong use, 3 refused, 4 not found, 130 interrupted; why is said on stderr.
    """
    complain = grammar.complain
    try:
        chosen = _parser().parse_args(words)
        complain = _log_complaint if getattr(chosen, "logs_objects", False) else grammar.complain
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


def _log_complaint(message: str, hint: str) -> None:
    """Whoever reads a log of objects gets no other line between them."""
    logging.getLogger("paddock.agent").error(message, extra={"hint": hint} if hint else {})


def verbs() -> dict[str, str]:
    """Each verb, and what it does: for a command line that has others beside them."""
    (commands,) = (one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction))
    return {one.dest: one.help or "" for one in commands._choices_actions}


def _parser() -> argparse.ArgumentParser:
    parser = grammar.Line(
        prog="paddock agent",
        description="The program on a machine of Paddock.",
        example="paddock agent configure --url wss://ci.example.org/agent --code-file - < code\n"
        "paddock agent run\npaddock agent status",
    )
    parser.add_argument("--version", action="version", version=f"paddock-agent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=grammar.Line)
    for verb in (configure, enrol, running, status, stop, methods, ledger, bundle):
        verb.add(commands)
    return parser


if __name__ == "__main__":
    main()
