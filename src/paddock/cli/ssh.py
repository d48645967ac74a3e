"""`paddock env ssh` and `scp`: OpenSSH by way of a machine's agent, with a key of one call.

Effects: the key's public half is put on the machine and taken off again; whoever is killed in between leaves a public
half whose private one is gone.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paddock.cli.connection import connects
from paddock.cli.grammar import Noun, verb
from paddock.cli.naming import machine_of
from paddock.cli.tunnel import SIGNALLED, Told, hearing
from paddock.core.errors import Broken, PaddockError, Refused

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import AgentCommand, Machine

shells = Noun("env")
"""The verbs of this file, which `paddock env` takes up."""
_LIMIT = 60.0
_KEY_LIMIT = 64 * 1024
_FIND = """set -eu
umask 077
if [ -n "$KEYS" ]; then file=$KEYS; else
  eval "home=~$LOGIN"
  case $home in /*) ;; *) echo "there is no user $LOGIN" >&2; exit 1;; esac
  file=$home/.ssh/authorized_keys
  [ -d "$home/.ssh" ] || { mkdir "$home/.ssh"; own "$home/.ssh"; }
fi
if command -v flock >/dev/null 2>&1; then exec 9<"$(dirname "$file")"; flock 9; fi
"""
_OWN = 'own() { if [ "$(id -u)" = 0 ] && [ -z "$KEYS" ]; then chown "$LOGIN:" "$1"; fi; }\n'
_ADD = f"""{_OWN}{_FIND}
[ -e "$file" ] || {{ : >"$file"; own "$file"; }}
if [ -n "$(tail -c 1 "$file")" ]; then echo >>"$file"; fi
printf '%s\\n' "$KEY" >>"$file"
"""
_REMOVE = f"""{_OWN}{_FIND}
[ -e "$file" ] || exit 0
cp -p "$file" "$file.paddock"
grep -vxF -e "$KEY" "$file" >"$file.paddock" || [ $? -eq 1 ]
mv "$file.paddock" "$file"
[ -s "$file" ] || rm "$file"
"""


@dataclass(frozen=True, kw_only=True)
class Door:
    """How one machine is entered: its name for ssh, and the options that lead there."""

    name: str
    options: Sequence[str]
    environment: dict[str, str]


def _common(function: Any) -> Any:
    """The options that both programs take."""
    for option in reversed(
        (
            click.option("-l", "--login", default="root", show_default=True, help="Who you are on the machine."),
            click.option("-p", "--port", type=click.IntRange(1, 65535), default=22, show_default=True),
            click.option("-o", "options", multiple=True, metavar="NAME=VALUE", help="An option of ssh's own."),
            click.option("--keys", default="", metavar="PATH", help="authorized_keys there; else the login's own."),
            click.option("--host-key", default="", metavar="PATH", help="Its public host key there; else as made."),
        )
    ):
        function = option(function)
    return function


@verb(
    shells,
    "ssh",
    example="paddock env ssh k3f9 one\npaddock env ssh k3f9 one -- journalctl -f\n"
    "paddock env ssh k3f9 one -o LocalForward='8080 127.0.0.1:80'",
)
@click.argument("id", metavar="ENV")
@click.argument("machine")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@_common
@connects
def ssh(client: "Client", id: str, machine: str, command: tuple[str, ...], **how: Any) -> int:
    """Log in to a machine of yours, or run one command there, whatever became of its network.

    The connection goes by way of its agent. A key is made for this one login and removed after it; the machine's host
    key is the one that it was given when it was made. Ends with the exit code of ssh.
    """
    return _entered(client, id, machine, how, lambda door: ["ssh", *door.options, door.name, *command])


@verb(
    shells,
    "scp",
    example="paddock env scp k3f9 one big.img :/var/tmp/\npaddock env scp k3f9 one -r :/var/log logs",
)
@click.argument("id", metavar="ENV")
@click.argument("machine")
@click.argument("source", nargs=-1, required=True)
@click.argument("target")
@click.option("-r", "recursive", is_flag=True, help="Whole directories.")
@_common
@connects
def scp(
    client: "Client",
    id: str,
    machine: str,
    source: tuple[str, ...],
    target: str,
    recursive: bool,
    **how: Any,
) -> int:
    """Copy files to or from a machine of yours; a path that begins with a colon is the machine's."""

    def argv(door: Door) -> Sequence[str]:
        # A local name with a colon in it is no host to scp if it begins with a path.
        paths = [
            f"{door.name}{path}" if path.startswith(":") else path if path.startswith("/") else f"./{path}"
            for path in (*source, target)
        ]
        return ["scp", "-q", *(["-r"] if recursive else []), *door.options, "--", *paths]

    return _entered(client, id, machine, how, argv)


def _entered(
    client: "Client", id: str, machine: str, how: dict[str, Any], argv: Callable[[Door], Sequence[str]]
) -> int:
    """Run a program that goes through the door. Who is told to end, a terminal that is closed too, shuts it first."""
    try:
        with hearing(), _opened(client, id, machine, **how) as door:
            return _run(argv(door), door)
    except Told as told:
        return SIGNALLED + told.number


def _run(argv: Sequence[str], door: Door) -> int:
    """Run it in the foreground; what is typed there, Ctrl-C too, is its own to hear."""
    try:
        process = subprocess.Popen(argv, env=door.environment)
    except OSError as exc:
        raise Broken(f"{argv[0]}: {exc.strerror}", hint="install OpenSSH's client (openssh-client)") from exc
    while True:
        try:
            code = process.wait()
            return code if code >= 0 else SIGNALLED - code
        except KeyboardInterrupt:
            continue
        except Told:
            process.terminate()
            process.wait()
            raise


@contextmanager
def _opened(
    client: "Client",
    id: str,
    machine: str,
    *,
    login: str,
    port: int,
    options: tuple[str, ...],
    keys: str,
    host_key: str,
) -> Iterator[Door]:
    """A machine that lets us in, as long as the block runs."""
    row, found = machine_of(client, id, machine)
    if not found.image and not (keys and host_key):
        raise Refused(
            f"machine {found.name}: it is a process of host {row.host}, without a login of its own",
            hint="--port, --keys and --host-key name an sshd that you started on it",
        )
    if not (login.isascii() and login.replace("-", "_").isidentifier() and not login.startswith("-")):
        raise click.UsageError(f"{login!r} is no name of a user")
    known = _host_key(client, found, host_key)
    name = f"{found.name}.{row.id}"
    with tempfile.TemporaryDirectory(prefix="paddock-ssh-") as room:
        key = _make_key(Path(room))
        (Path(room) / "known").write_text(f"{name} {known}\n")
        variables = {"KEY": key, "LOGIN": login, "KEYS": keys}
        _on(client, found, _ADD, variables)
        try:
            yield Door(
                name=name,
                options=_options(Path(room), row.id, found.name, login, port, options),
                environment={**os.environ, "PADDOCK_SERVER": client.place.url, "PADDOCK_TOKEN": client.place.token},
            )
        finally:
            with suppress(PaddockError):  # with the lease the machine goes, and the key with it
                _on(client, found, _REMOVE, variables)


def _options(room: Path, id: str, machine: str, login: str, port: int, more: Sequence[str]) -> list[str]:
    ours = shlex.join([sys.executable, "-m", "paddock", "env", "tunnel", id, machine, str(port)])
    said = [
        *more,
        f"ProxyCommand={ours.replace('%', '%%')}",
        f"User={login}",
        f"IdentityFile={room / 'key'}",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "PasswordAuthentication=no",
        f"UserKnownHostsFile={room / 'known'}",
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        "CheckHostIP=no",
    ]
    return ["-F", "none", *(word for one in said for word in ("-o", one))]


def _make_key(room: Path) -> str:
    """The public half of a new key; both lie in the room."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"paddock-{uuid.uuid4().hex}", "-f", str(room / "key")]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as exc:
        raise Broken(f"ssh-keygen: {exc.strerror}", hint="install OpenSSH's client (openssh-client)") from exc
    if done.returncode:
        raise Broken(f"ssh-keygen: {done.stderr.decode(errors='replace').strip()}")
    return (room / "key.pub").read_text().strip()


def _host_key(client: "Client", machine: "Machine", path: str) -> str:
    """Type and key: as the machine was made with it, or as its agent reads it there."""
    text = machine.host_key
    if path:
        over = _over(client, machine, "file.get", {"path": path, "length": _KEY_LIMIT})
        text = b64decode(str(over.result.get("data", ""))).decode("ascii", "replace")
    words = text.split()[:2]
    if len(words) < 2 or not all(word.isprintable() for word in words):
        where = f"{path} holds no public key" if path else "its host key is not known"
        raise Refused(f"machine {machine.name}: {where}", hint="--host-key names the file on the machine that holds it")
    return " ".join(words)


def _on(client: "Client", machine: "Machine", script: str, variables: dict[str, str]) -> None:
    """Run it there, under the lease of whoever asks."""
    _over(client, machine, "script.run", {"run": script, "env": variables, "limit": _LIMIT})


def _over(client: "Client", machine: "Machine", method: str, params: dict[str, object]) -> "AgentCommand":
    over = client.order(machine.agent, method, {**params, "start_within": _LIMIT}, wait=2 * _LIMIT)
    if over.state == "complete" and not over.exit:
        return over
    if over.state not in ("complete", "failed"):
        raise Broken(f"machine {machine.name}: its agent does not answer", hint=f"paddock agent show {machine.agent}")
    said = b"".join(client.output(over)).decode(errors="replace").strip() if over.exit else over.message
    raise Refused(f"machine {machine.name}: {said or over.code or f'exit {over.exit}'}")
