"""How the agent's command line is declared, and how what goes wrong is said."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

WRONG_USE = 2


def complain(message: str, hint: str) -> None:
    sys.stderr.write(f"paddock: {clean(message)}\n" + (f"hint: {clean(hint)}\n" if hint else ""))


def warn(message: str, hint: str) -> None:
    """Something that is not as it should be, and does not keep the command from being carried out."""
    complain(f"agent: {message}", hint)


def clean(text: str) -> str:
    """Text of others without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


class Line(argparse.ArgumentParser):
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
        complain(f"{name}: {message}", f"{self.prog} -h")
        self.exit(WRONG_USE)


Commands: TypeAlias = "argparse._SubParsersAction[Line]"


def command(commands: Commands, name: str, told: str, *, example: str) -> Line:
    """Declare a verb; `told` says what it does, without a full stop."""
    return commands.add_parser(name, help=told, description=f"{told[:1].upper()}{told[1:]}.", example=example)


def count(text: str) -> int:
    """The type of an option that counts something."""
    if not text.isdecimal() or not 0 < int(text) < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text} is not a count of at least 1")
    return int(text)


def path(text: str) -> Path:
    """The type of an option that is a path."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: it names no file")
    # Links on the way are resolved once: later no path of ours is walked through one.
    return Path(text).resolve()


def tell(told: Mapping[str, Any]) -> None:
    """One JSON object, one line."""
    say(json.dumps(told, ensure_ascii=False))


def say(text: str) -> None:
    """A line for whoever asked."""
    sys.stdout.write(text + "\n")
