"""`paddock lease`: borrow an environment, use it, give it back."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paddock.cli.connection import asks, every
from paddock.cli.grammar import Noun, verb
from paddock.cli.lines import HOLDER
from paddock.cli.naming import lease_of
from paddock.cli.root import complain
from paddock.cli.spans import SPAN, TTL

if TYPE_CHECKING:
    from paddock.client import Client, Held
    from paddock.client.calls import Call
    from paddock.client.command import Ended
    from paddock.wire.shapes import Lease, Leases

NO_ENVIRONMENT, LEASE_LOST, INFRASTRUCTURE = 120, 121, 122

lease = Noun(
    "lease",
    help="Borrow an environment: for one command (run), or for as long as you say (acquire).",
    example="paddock lease run --env two-node -- ./reproduce.sh",
)
_ttl = click.option("--ttl", type=TTL, default="1h", show_default=True, help="How long it lasts unless it is renewed.")
_pool = click.option("--env", "pool", required=True, metavar="POOL", help="The pool to borrow from.")
_wait = click.option("--wait", type=SPAN, default=None, help="Give up the place in the queue after so long.")


@verb(
    lease,
    "acquire",
    example="paddock lease acquire --env two-node --ttl 2h\npaddock lease acquire --env two-node --json",
)
@_pool
@_ttl
@_wait
@click.option("--holder", type=HOLDER, default="", help="Who asks, for a person to read. Default: you.")
@asks
def acquire(client: "Client", pool: str, ttl: float, wait: float | None, holder: str, as_json: bool) -> None:
    """Borrow an environment; waits in the queue until it is granted.

    It is yours until its ttl ends: renew it or release it. Ctrl-C while waiting takes the request back.
    """
    from paddock.cli import painting
    from paddock.client import calls

    with queueing(client) as waits:
        granted = client.acquire(pool, ttl=ttl, holder=holder or who(), patience=wait, waits=waits)
    row = client.send(calls.lease(granted.lease.id))
    if as_json:
        painting.tell(row)
        return
    tell(row, [f"{machine.name} {machine.address}".strip() for machine in granted.machines])
    painting.print_line(f"  give it back:  paddock lease release {row.id}")


@verb(
    lease,
    "run",
    example=(
        "paddock lease run --env two-node -- ./reproduce.sh\n"
        "paddock lease run --env two-node --ttl 2m -- sh -c 'cat $PADDOCK_ENVIRONMENT_FILE'"
    ),
)
@_pool
@_ttl
@_wait
@click.option("--grace", type=SPAN, default="10s", show_default=True, help="How long the command may take to end.")
@click.option("--holder", type=HOLDER, default="", help="Who asks, for a person to read. Default: you.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@asks
def run(
    client: "Client",
    pool: str,
    ttl: float,
    wait: float | None,
    grace: float,
    holder: str,
    command: tuple[str, ...],
    as_json: bool,
) -> int:
    """Run a command here while an environment is yours, and give it back when the command's whole tree is gone.

    The command finds PADDOCK_LEASE, PADDOCK_ENVIRONMENT and PADDOCK_ENVIRONMENT_FILE (JSON: machines and addresses).
    The exit code is the command's own; 120: no environment, 121: the lease was lost, 122: infrastructure.
    """
    from paddock.client import Held
    from paddock.client.errors import LeaseLost, NoEnvironment
    from paddock.core.errors import Missing, PaddockError, Refused

    try:
        with queueing(client) as waits:
            granted = client.acquire(pool, ttl=ttl, holder=holder or who(), patience=wait, waits=waits)
    except (NoEnvironment, Missing, Refused) as exc:
        complain(exc.message, exc.hint)
        return NO_ENVIRONMENT
    except PaddockError as exc:
        complain(exc.message, exc.hint)
        return INFRASTRUCTURE
    try:
        return _held(client, Held, granted, command, grace, as_json=as_json)
    except LeaseLost as exc:
        complain(exc.message, exc.hint)
        return LEASE_LOST
    except PaddockError as exc:
        complain(exc.message, exc.hint)
        return INFRASTRUCTURE


def _held(
    client: "Client", kind: "type[Held]", granted: Any, command: tuple[str, ...], grace: float, *, as_json: bool
) -> int:
    from paddock.cli import painting
    from paddock.client.command import Command
    from paddock.client.errors import LeaseLost
    from paddock.core.errors import PaddockError

    with (
        _described(granted) as environment,
        # Before the thread that renews, from which it keeps the signals.
        Command(command, environment=environment, grace=grace, say=complain) as job,
        kind(client, granted, renewed=job.tell_renewed, lost=job.tell_lost) as held,
    ):
        if sys.stderr.isatty():
            click.echo(f"paddock: lease {held.id}: {held.environment} is yours", err=True)
        try:
            ended = job.run(held)
        except BaseException:
            if not job.has_started:
                with suppress(PaddockError):
                    held.release()
            raise
        code = conclude(held, ended)
        if held.loss is None and not ended.left:
            try:
                held.release()
            except LeaseLost as exc:
                code = LEASE_LOST
                complain(exc.message, exc.hint)
            except PaddockError as exc:
                # The command had it to its own end, so its code stands.
                complain(exc.message, "the lease ends by its ttl")
    if as_json:
        painting.tell({"lease": granted.lease.id, "environment": granted.lease.environment, "exit": code})
    return code


def conclude(held: "Held", ended: "Ended") -> int:
    """The exit code, once nobody of the tree lives, or it is known who does."""
    if ended.message:
        complain(ended.message)
    if ended.left:
        complain(
            f"lease {held.id}: not given back: {', '.join(ended.left)} would not die",
            f"end them, then: paddock lease release {held.id}",
        )
        return INFRASTRUCTURE
    if held.loss is not None:
        complain(held.loss.message, held.loss.hint)
        return LEASE_LOST
    if ended.is_over:
        # A renewal came through after all, too late for the command.
        complain(f"lease {held.id}: no renewal was told in time, and the command was ended")
        return LEASE_LOST
    return ended.code if ended.is_held else INFRASTRUCTURE


@contextmanager
def _described(granted: Any) -> Iterator[Mapping[str, str]]:
    """The environment variables of a command, and the file that they name for as long as it runs."""
    import json
    import tempfile

    row = granted.lease
    description = {
        "lease": row.id,
        "environment": row.environment,
        "pool": row.pool,
        "fence": row.fence,
        "host": granted.host,
        "machines": [
            {"name": machine.name, "address": machine.address, "agent": machine.agent} for machine in granted.machines
        ],
    }
    with tempfile.TemporaryDirectory(prefix="paddock-lease-") as directory:
        file = Path(directory) / "environment.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(description, indent=2) + "\n", "utf-8")
        yield {
            **os.environ,
            "PADDOCK_LEASE": row.id,
            "PADDOCK_ENVIRONMENT": row.environment,
            "PADDOCK_ENVIRONMENT_FILE": str(file),
        }


@contextmanager
def queueing(client: "Client") -> Iterator[Callable[["Lease"], None]]:
    """Says where in the queue we stand, on stderr, for as long as we do; a line each time it changes where piped."""
    from paddock.cli import painting
    from paddock.client import calls
    from paddock.core.errors import PaddockError

    said: list[str] = []
    status: list[Any] = []

    def waits(row: "Lease") -> None:
        try:
            why = client.send(calls.why(row.id))
        except PaddockError:
            return
        place = f"{why.ahead} ahead" if why.ahead else "next in the queue"
        text = f"lease {row.id} waits: {place}"
        text += f"; {why.waits_for}" if why.waits_for else ""
        text += f"; next free {why.next_free}" if why.next_free else ""
        if said[-1:] == [text]:
            return
        said.append(text)
        if not sys.stderr.isatty():
            click.echo(text, err=True)
        elif status:
            status[0].update(painting.paint(text))
        else:
            status.append(painting.console(err=True).status(painting.paint(text)))
            status[0].start()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)  # as Ctrl-C does, it takes the request back
    try:
        yield waits
    finally:
        signal.signal(signal.SIGTERM, before)
        for shown in status:
            shown.stop()


def who() -> str:
    import getpass
    import socket

    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):
        return ""


@verb(lease, "renew", example="paddock lease renew 7f3a --ttl 2h")
@click.argument("id")
@click.option("--ttl", type=TTL, default=None, help="Another length from now on. Default: as before.")
@asks
def renew(client: "Client", id: str, ttl: float | None, as_json: bool) -> None:
    """Start the ttl of a lease again."""
    from paddock.cli import painting
    from paddock.client import calls

    row = lease_of(client, id)
    row = client.send(calls.renew(row.id, fence=row.fence, ttl=ttl))
    if as_json:
        painting.tell(row)
    else:
        painting.print_line(f"lease {row.id}: ends {painting.left(row.deadline)} unless it is renewed")


@verb(lease, "release", example="paddock lease release 7f3a")
@click.argument("id")
@asks
def release(client: "Client", id: str, as_json: bool) -> None:
    """Give an environment back, or a place in the queue up."""
    from paddock.cli import painting
    from paddock.client import calls

    row = lease_of(client, id)
    if row.state == "queued":
        row = client.send(calls.cancel_lease(row.id))
    else:
        row = client.send(calls.release(row.id, fence=row.fence))
    if as_json:
        painting.tell(row)
    else:
        painting.print_line(f"lease {row.id}: {row.state}")


_OPEN = ("queued", "granted")


def _page(below: str | None, *, state: str, pool: str) -> "Call[Leases]":
    from paddock.client import calls

    return calls.leases(below=below, state=state, pool=pool, limit=500)


@verb(lease, "list", example="paddock lease list\npaddock lease list --all --json")
@click.option("--all", "is_all", is_flag=True, help="Those that are over, too.")
@click.option("--env", "pool", default="", metavar="POOL", help="Of one pool.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True, help="At most so many.")
@asks
def list_(client: "Client", is_all: bool, pool: str, limit: int, as_json: bool) -> None:
    """Leases, newest first: those that wait and those that hold."""
    from paddock.cli import painting

    rows: list[Lease] = []
    for state in ("",) if is_all else _OPEN:
        rows += every(client, partial(_page, state=state, pool=pool), limit)
    rows = rows[:limit]
    if as_json:
        return painting.tell_all(rows)
    painting.table(
        ("id", "state", "pool", "holder", "environment", "asked", "ends"),
        [
            (
                row.id,
                row.state,
                row.pool,
                row.holder,
                row.environment,
                painting.ago(row.asked),
                painting.left(row.deadline) if row.state == "granted" else "",
            )
            for row in rows
        ],
        empty="no leases; borrow: paddock lease acquire --env POOL",
    )


@verb(lease, "show", example="paddock lease show 7f3a")
@click.argument("id")
@asks
def show(client: "Client", id: str, as_json: bool) -> None:
    """One lease: who holds what, until when."""
    from paddock.cli import painting
    from paddock.client import calls
    from paddock.core.errors import PaddockError

    row = lease_of(client, id)
    if as_json:
        return painting.tell(row)
    machines: list[str] = []
    if row.state == "granted":
        try:
            lent = client.send(calls.environment(row.environment))
            machines = [f"{machine.name} {machine.address}".strip() for machine in lent.machines]
        except PaddockError:
            pass  # the lease is what was asked for
    tell(row, machines)


def tell(row: "Lease", machines: list[str]) -> None:
    """What there is to know of a lease."""
    from paddock.cli import painting

    painting.fields(
        f"lease {row.id}",
        [
            ("state", row.state),
            ("pool", row.pool),
            ("holder", row.holder),
            ("run", row.run),
            ("environment", row.environment),
            ("machines", ", ".join(machines)),
            ("fence", str(row.fence) if row.fence else ""),
            ("asked", painting.ago(row.asked)),
            ("granted", painting.ago(row.granted)),
            (
                "ends",
                f"{painting.left(row.deadline)} unless it is renewed"
                if row.state == "granted" and row.deadline
                else "",
            ),
            ("ended", painting.ago(row.ended)),
            ("reason", row.reason),
        ],
    )


@verb(lease, "why", example="paddock lease why 7f3a")
@click.argument("id")
@asks
def why(client: "Client", id: str, as_json: bool) -> None:
    """What a lease waits for, how many are ahead, and what would help."""
    from paddock.cli import painting
    from paddock.client import calls

    row = lease_of(client, id)
    told = client.send(calls.why(row.id))
    if as_json:
        return painting.tell(told)
    painting.fields(
        f"lease {row.id}  {row.pool}  asked {told.asked}",
        [
            ("state", told.state),
            ("waits for", told.waits_for),
            ("ahead", str(told.ahead) if told.ahead else "nobody" if told.state == "queued" else ""),
            ("next free", told.next_free),
            ("would help", told.would_help),
        ],
    )
