"""`paddock env console`: a machine's serial line, followed and typed on."""

import os
import signal
import sys
import threading
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from paddock.cli.connection import asks
from paddock.cli.grammar import Noun, verb
from paddock.cli.naming import machine_of
from paddock.cli.root import clean, complain
from paddock.cli.spans import SPAN

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import AgentCommand, EnvironmentDetail

consoles = Noun("env")
"""The verbs of this file, which `paddock env` takes up."""
DETACH = 0x1D
"""Ctrl-], as telnet has it."""
_MOST = 4096
_LIMIT = 30.0


@verb(
    consoles,
    "console",
    example="paddock env console k3f9 one\npaddock env console k3f9 one --times | tee console.log\n"
    "echo reboot | paddock env console k3f9 one --input --for 30s",
)
@click.argument("id", metavar="ENV")
@click.argument("machine")
@click.option("--times", is_flag=True, help="Before each line, when it came here (UTC).")
@click.option("--input/--no-input", "typing", default=None, help="Type what stdin has. Default: if it is a terminal.")
@click.option(
    "--from", "offset", type=click.IntRange(0), default=0, metavar="BYTE", help="Begin there, not at the start."
)
@click.option("--for", "span", type=SPAN, default=None, metavar="SPAN", help="End after so long.")
@asks
def console(
    client: "Client",
    id: str,
    machine: str,
    times: bool,
    typing: bool | None,
    offset: int,
    span: float | None,
    as_json: bool,
) -> int:
    """Follow what a machine says on its serial line; at a terminal, type there. Ctrl-] leaves it.

    It begins with all that was said since the machine was made. What machines say in a run is kept among its logs.
    """
    from paddock.client import calls

    row, found = machine_of(client, id, machine)
    is_raw = sys.stdin.isatty() and sys.stdout.isatty() and typing is not False and not (times or as_json)
    command = client.send(calls.console(row.id, found.name, offset=offset, seconds=span, fence=row.fence))
    line = _Line(client, row, found.name, is_raw=is_raw)
    try:
        with _raw(is_raw, f"{found.name} of {row.id}: Ctrl-] leaves it"):
            if is_raw if typing is None else typing:
                threading.Thread(target=line.type, daemon=True).start()
            _show(client.output(command), _Manner(is_raw=is_raw, times=times, as_json=as_json))
            ended = client.finish(command, wait=_LIMIT)
    except BaseException as exc:
        _end(client, command)
        if isinstance(exc, _Left):
            return 0
        raise
    if ended.state == "failed":
        complain(f"machine {found.name}: {ended.message or ended.code}")
        return 1
    return 0


def _end(client: "Client", command: "AgentCommand") -> None:
    """Nobody follows it any more. What cannot be reached ends with the lease."""
    from paddock.client import calls
    from paddock.core.errors import PaddockError

    with suppress(PaddockError):
        client.send(calls.cancel_command(command.agent, command.id, grace=0), limit=5)


class _Left(BaseException):
    """Whoever types has had enough."""


class _Line:
    """The way from the keys to the machine."""

    def __init__(self, client: "Client", row: "EnvironmentDetail", machine: str, *, is_raw: bool) -> None:
        self._client = client
        self._row = row
        self._machine = machine
        self._is_raw = is_raw

    def type(self) -> None:
        """Give the machine what stdin has, piece by piece, until it ends or is left."""
        while data := os.read(0, _MOST):
            if self._is_raw and DETACH in data:
                if before := data[: data.index(DETACH)]:
                    self._press(before)
                break
            if not self._press(data) and not self._is_raw:
                return
        if self._is_raw:
            # The thread that shows waits for the server, which may be gone: it is told by a signal.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _press(self, data: bytes) -> bool:
        """Whether the machine took what was typed; what was typed at a dead one is lost, and said."""
        from paddock.client import calls
        from paddock.core.errors import PaddockError

        try:
            asked = self._client.send(calls.type_on(self._row.id, self._machine, data, fence=self._row.fence))
            over = self._client.finish(asked, wait=_LIMIT)
        except PaddockError as exc:
            complain(exc.message, exc.hint)
            return False
        if over.state == "failed":
            complain(f"machine {self._machine}: {over.message or over.code}")
        return over.state == "complete"


@contextmanager
def _raw(is_raw: bool, title: str) -> Iterator[None]:
    """The terminal gives each key as it is; afterwards it is as it was, whatever happened."""
    if not is_raw:
        yield
        return
    import termios
    import tty

    click.echo(title, err=True)
    before = termios.tcgetattr(0)

    def end(number: int, frame: object) -> None:
        raise _Left if number == signal.SIGUSR1 else KeyboardInterrupt

    heard = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
    try:
        tty.setraw(0)
        yield
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)
            click.echo("", err=True)
        for number, handler in heard.items():
            signal.signal(number, handler)


@dataclass(frozen=True, kw_only=True)
class _Manner:
    """How what the machine says is shown."""

    is_raw: bool
    times: bool
    as_json: bool


def _show(pieces: Iterator[bytes], manner: _Manner) -> None:
    """What the machine says, as it comes: whole to a terminal that is its own, or a pipe; else without what steers."""
    is_terminal = sys.stdout.isatty()
    if manner.is_raw or not (is_terminal or manner.times or manner.as_json):
        for data in pieces:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        return
    begins = True
    for text in _texts(pieces):
        if manner.as_json:
            from paddock.cli import painting

            painting.tell({"at": _now(), "text": text})
        else:
            shown = clean(text) if is_terminal else text
            if manner.times:
                shown, begins = _timed(shown, begins)
            sys.stdout.write(shown)
        sys.stdout.flush()


def _texts(pieces: Iterator[bytes]) -> Iterator[str]:
    """Its words with plain line ends."""
    decode = getincrementaldecoder("utf-8")("replace").decode
    for data in pieces:
        yield decode(data).replace("\r\n", "\n").replace("\r", "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _timed(text: str, begins: bool) -> tuple[str, bool]:
    """Each line with the time of now before it; whether the next piece begins a line."""
    mark = f"{_now()[11:23]} "
    lines = text.splitlines(keepends=True)
    timed = "".join(mark + line if index or begins else line for index, line in enumerate(lines))
    return timed, text.endswith("\n") if text else begins
