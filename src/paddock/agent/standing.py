"""How the agent stands with its server: a file for its status, and words for systemd.

Effects: idempotent; the file is news, not memory: it is written without sync, and missing where the disk is full.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from paddock.agent.notifying import Notifier

FILE = "standing"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """`since` is when it came to be connected, or not; `trouble` why it is not, or was not before."""

    server: str = ""
    agent: str = ""
    is_connected: bool = False
    since: str = ""
    trouble: str = ""
    trouble_at: str = ""


class Register:
    """Keeps the file of one living agent."""

    def __init__(self, state: Path, notifier: Notifier) -> None:
        self._path = state / FILE
        self._notifier = notifier
        self._now = Standing(since=_now())

    def dials(self, server: str) -> None:
        """It turns to this server."""
        parts = urlsplit(server)
        # Neither a password nor a query: this is read by others than the agent.
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._now = replace(self._now, server=place)

    def connected(self, agent: str) -> None:
        """Hello was answered."""
        self._now = replace(self._now, agent=agent, is_connected=True, since=_now())
        self._write(f"{agent or 'connected'}: connected to {self._now.server or 'its line'}")

    def apart(self, why: str) -> None:
        """No link, for this reason. The same reason again is no news."""
        was = self._now
        if not was.is_connected and was.trouble == why:
            return
        now = _now()
        since = now if was.is_connected else was.since
        self._now = replace(was, is_connected=False, since=since, trouble=why, trouble_at=now)
        self._write(f"not connected: {why}")

    def _write(self, words: str) -> None:
        self._notifier.tell(words)
        draft = self._path.with_name(f"{FILE}.new")
        with suppress(OSError):
            draft.write_text(json.dumps(asdict(self._now)), "utf-8")
            draft.rename(self._path)


def found(state: Path) -> Standing:
    """What the agent of this state wrote last; nothing known if it wrote nothing, or not this."""
    try:
        fields = json.loads((state / FILE).read_text("utf-8"))
        return Standing(**{name: value for name, value in fields.items() if name in Standing.__annotations__})
    except (OSError, ValueError, TypeError, AttributeError):
        return Standing()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
