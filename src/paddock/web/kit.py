"""The agent in its forms, as this server offers it, and the words to take it with."""

import asyncio
import hashlib
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paddock.core.errors import Missing
from paddock.hands.links import is_clear
from paddock.hands.pins import Pins

ARCHIVE = "paddock-agent.pyz"
_FILE = re.compile(r"paddock-agent(\.pyz|-[A-Za-z0-9_]{1,40})")
_SCRIPT = (Path(__file__).parent / "templates" / "enrol.sh").read_text("utf-8")
_STANDALONE = (
    "on a machine of that kind: paddock agent bundle --standalone --output {name}; then into agent/ of the state"
)


@dataclass(frozen=True, kw_only=True)
class Offered:
    """One file of the offer."""

    name: str
    content: bytes
    sha256: str


class Kit:
    """The agent in its forms. What an operator puts into `place` goes before what `make` would make.

    `pins` are those of our certificate; None where none is needed, or none is ours.
    """

    def __init__(self, place: Path, make: Callable[[], bytes], pins: Pins | None = None) -> None:
        self.place = place
        self.pins = pins
        self._make = make
        self._making = asyncio.Lock()
        self._known: dict[str, tuple[tuple[int, int], Offered]] = {}

    async def find(self, name: str) -> Offered:
        """A file of the offer. Missing if there is none of that name, with what to do about it."""
        if not _FILE.fullmatch(name):
            raise Missing(f"{name[:80]}: is not offered", hint=f"there is {ARCHIVE}")
        async with self._making:
            return await asyncio.to_thread(self._find, name)

    async def all(self) -> list[Offered]:
        """Everything there is."""
        names = {ARCHIVE, *(path.name for path in self.place.glob("paddock-agent-*") if _FILE.fullmatch(path.name))}
        return [await self.find(name) for name in sorted(names)]

    def _find(self, name: str) -> Offered:
        path = self.place / name
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
        except FileNotFoundError:
            stamp = (0, 0)
        known = self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        if stamp != (0, 0):
            content = path.read_bytes()
        elif name == ARCHIVE:
            content = self._make()
        else:
            raise Missing(f"{name}: is not here", hint=_STANDALONE.format(name=name))
        offered = Offered(name=name, content=content, sha256=hashlib.sha256(content).hexdigest())
        self._known[name] = (stamp, offered)
        return offered


def script(server: str, pins: Pins | None, offers: list[str]) -> str:
    """The text of the installer."""
    agents = door(server)
    values = {
        "SERVER": server,
        "AGENTS": agents,
        "CERTIFICATE": pins.certificate if pins else "",
        "KEY": pins.key if pins else "",
        "INSECURE": "yes" if is_clear(agents) else "",
    }
    head, _, rest = _SCRIPT.partition("set -eu")
    text = head.replace("@SERVER@", server) + "set -eu" + rest
    for name, value in values.items():
        text = text.replace(f"@{name}@", shlex.quote(value) if value else "")
    return text.replace("@OFFERS@", "\n".join(offers))


def one_liner(server: str, pins: Pins | None, code: str, *, skills: str = "") -> str:
    """The command that makes a machine a host: the script is fetched from us and nobody else, then run.

    `skills` are those that its agent is to have; empty: what an agent has by itself.
    """
    # With a pinned key it does not matter who signed the certificate: only we have that key.
    trust = f"-k --pinnedpubkey '{pins.key}' " if pins else ""
    chosen = f" --skills {skills}" if skills else ""
    return f"curl -fsS {trust}{server}/enrol | sh -s -- {code}{chosen}"


def door(server: str) -> str:
    """Where agents dial, at a server of this address: `https://ci.example.org` → `wss://ci.example.org/agent`."""
    return f"ws{server.removeprefix('http')}/agent"
