"""`paddock doctor`: what Paddock needs here, whether it is there, and what mends it."""

import os
import platform
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from paddock.cli.check import BROKEN, NOTE, OK, Check
from paddock.cli.connection import json_option
from paddock.cli.extras import MEND
from paddock.cli.grammar import Verb

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.client.finding import Place

_ROOM = 1 << 30
"""Bytes that should be free where the state is."""
_SOON = 5.0


@click.command("doctor", cls=Verb, example="paddock doctor\npaddock doctor --config /etc/paddock/paddock.yaml --json")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="Default: paddock.yaml, if it is here.")
@click.option("--server", default="", metavar="URL", help="The server. Default: PADDOCK_SERVER, or yours here.")
@click.option("--token-file", default="", metavar="FILE", help="File with your token. Or set PADDOCK_TOKEN.")
@click.option("--state", default="", metavar="DIR", help="State directory of a server of this machine.")
@click.option(
    "--agent",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="agent.conf of the host that this is.",
)
@json_option
def doctor(config: Path | None, server: str, token_file: str, state: str, agent: Path | None, as_json: bool) -> int:
    """Look at this machine, the configuration and the server; a line each. Exit 1 if something has to be mended."""
    from paddock.cli import painting

    checks: list[Check] = []
    marks = {OK: ("✓", "green"), NOTE: ("–", "yellow"), BROKEN: ("✗", "red")}
    for check in examine(config, server=server, token_file=token_file, state=state, agent=agent):
        checks.append(check)
        if as_json:
            painting.tell({"check": check.name, "state": check.state, "found": check.found, "mend": check.mend})
            continue
        mark, tone = marks[check.state]
        painting.stroke((mark, tone), f" {check.name:<15} {check.found}")
        if check.mend:
            painting.print_line(f"  {'':<15} mend: {check.mend}")
    broken = sum(check.state == BROKEN for check in checks)
    if not as_json:
        painting.print_line(f"{broken} to mend" if broken else "nothing to mend")
    return 1 if broken else 0


def examine(
    config: Path | None, *, server: str, token_file: str, state: str, agent: Path | None = None
) -> Iterator[Check]:
    """All checks, each as soon as it is known."""
    from paddock.cli import hosting

    yield _python()
    yield _program("git", BROKEN, "changes under test are fetched with it", "apt-get install git")
    yield _program(
        "bwrap", NOTE, "machines of the skill local see the host's files without it", "apt-get install bubblewrap"
    )
    yield _cgroup()
    yield _packages()
    yield from hosting.examine(agent)
    if config is not None or Path("paddock.yaml").exists():
        yield _configuration(config or Path("paddock.yaml"))
    yield from _server(server=server, token_file=token_file, state=state)


def _python() -> Check:
    from importlib.util import find_spec

    found = f"{platform.python_version()} at {sys.executable}"
    lacking = [name for name in ("sqlite3", "ssl", "asyncio", "venv") if find_spec(name) is None]
    if not lacking:
        return Check(name="python", state=OK, found=found)
    return Check(
        name="python",
        state=BROKEN,
        found=f"{found} lacks {', '.join(lacking)}",
        mend="apt-get install python3 python3-venv (python3-minimal is too little)",
    )


def _program(name: str, lack: str, why: str, mend: str) -> Check:
    path = shutil.which(name)
    if path:
        return Check(name=name, state=OK, found=path)
    return Check(name=name, state=lack, found=f"not found: {why}", mend=mend)


def _cgroup() -> Check:
    from paddock.hands.trees import Cgroup

    home = Cgroup.home()
    if home is not None:
        return Check(name="cgroup v2", state=OK, found=f"{home} is ours to write")
    return Check(
        name="cgroup v2",
        state=NOTE,
        found="not ours to write: processes are found and ended without it",
        mend="systemd-run --user --scope -p Delegate=yes paddock agent run ...",
    )


def _is_installed(package: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # half of it is there
        return False


def _packages() -> Check:
    lacking = [name for name in ("fastapi", "sqlalchemy", "uvicorn", "asyncssh", "pydantic") if not _is_installed(name)]
    if not lacking:
        return Check(name="server parts", state=OK, found="installed")
    return Check(
        name="server parts",
        state=NOTE,
        found=f"not installed: {', '.join(lacking)}; agent and client work without",
        mend=MEND,
    )


def _configuration(path: Path) -> Check:
    from paddock.core.errors import PaddockError

    try:
        from paddock.settings import load

        load(path)
    except PaddockError as exc:
        return Check(name="configuration", state=BROKEN, found=exc.message, mend=f"paddock validate {path}")
    except ImportError as exc:
        lack = f"not looked at: {exc.name or exc} is not installed"
        return Check(name="configuration", state=NOTE, found=lack, mend=MEND)
    return Check(name="configuration", state=OK, found=f"{path} is in order")


def _server(*, server: str, token_file: str, state: str) -> Iterator[Check]:
    from paddock.client.finding import find, served
    from paddock.core.errors import PaddockError

    place: Place | None = None
    try:
        place = find(server=server, token_file=token_file, state=state)
    except PaddockError as exc:
        yield Check(name="token", state=BROKEN, found=exc.message, mend=exc.hint)
    directory = state or os.environ.get("PADDOCK_STATE", "") or served().get("state", "")
    if directory:
        yield from _state(Path(directory))
    if place is not None:
        yield from _reachable(place)


def _state(path: Path) -> Iterator[Check]:
    """Modes of what is secret, and room for what is written."""
    if not path.is_dir():
        yield Check(name="state", state=NOTE, found=f"{path} is not there any more", mend="paddock serve paddock.yaml")
        return
    open_ones = [name for name in (path, path / "operator.token", path / "paddock.sqlite") if _is_open(name)]
    if open_ones:
        shown = ", ".join(map(str, open_ones))
        yield Check(name="state", state=BROKEN, found=f"open to others: {shown}", mend=f"chmod -R go= {path}")
    else:
        yield Check(name="state", state=OK, found=f"{path}, closed to others")
    free = shutil.disk_usage(path).free
    gigabytes = f"{free / (1 << 30):.1f} GiB free at {path}"
    if free >= _ROOM:
        yield Check(name="disk", state=OK, found=gigabytes)
    else:
        yield Check(name="disk", state=BROKEN, found=gigabytes, mend="make room, or keep less: server.keep")


def _is_open(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return bool(stat.S_IMODE(found.st_mode) & 0o077)


def _reachable(place: "Place") -> Iterator[Check]:
    from paddock.client import Client, NotAllowed, Unreachable, calls
    from paddock.core.errors import PaddockError

    with Client(place.url, token=place.token) as client:
        try:
            who = client.send(calls.whoami(), limit=_SOON)
        except Unreachable as exc:
            yield Check(name="server", state=BROKEN, found=exc.message, mend="paddock serve paddock.yaml")
            return
        except NotAllowed as exc:
            yield Check(name="server", state=OK, found=f"{place.url} answers")
            lack = f"{place.source}: {exc.message}" if place.token else "none: you may only look"
            state = BROKEN if place.token else NOTE
            yield Check(name="token", state=state, found=lack, mend="paddock token create NAME (an operator)")
        except PaddockError as exc:
            yield Check(name="server", state=BROKEN, found=exc.message, mend=exc.hint or "look at its log")
            return
        else:
            yield Check(name="server", state=OK, found=f"{place.url} answers")
            yield Check(name="token", state=OK, found=f"{who.name}, {who.role} (from {place.source})")
        yield from _asked(client, _hosts)


def _asked(client: "Client", ask: "Callable[[Client], Iterator[Check]]") -> Iterator[Check]:
    """What the server says; a refusal is a finding too."""
    from paddock.core.errors import PaddockError

    try:
        yield from ask(client)
    except PaddockError as exc:
        yield Check(name="hosts", state=NOTE, found=f"not told: {exc.message}", mend=exc.hint)


def _hosts(client: "Client") -> Iterator[Check]:
    from paddock.client import calls

    rows = client.send(calls.hosts(), limit=_SOON).items
    if not rows:
        yield Check(name="hosts", state=NOTE, found="none are configured: only noop can run")
    for row in rows:
        name = f"host {row.name}"
        if row.state == "online":
            yield Check(name=name, state=OK, found=f"online, agent {row.agent}")
        elif row.state == "joining":
            yield Check(name=name, state=BROKEN, found="no agent has joined", mend=f"paddock host add {row.name}")
        elif row.state == "draining":
            mend = f"paddock host resume {row.name}"
            yield Check(name=name, state=NOTE, found=f"draining, by {row.drained_by or 'an operator'}", mend=mend)
        else:
            reason = f", {row.reason}" if row.reason else ""
            yield Check(
                name=name, state=BROKEN, found=f"{row.state}{reason}", mend="start its agent: paddock agent run"
            )
