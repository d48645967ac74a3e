"""Where the server is and which token opens it: told, or found in the server's records.

Effects: idempotent (one record of who was served last, written whole).
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from paddock.core.errors import Broken, Missing, Refused

DEFAULT_URL = "http://127.0.0.1:8080"
TOKEN_FILE = "operator.token"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A server's address and the secret to show there; an empty one asks as anyone. `source`: who named the token."""

    url: str
    token: str = field(default="", repr=False)
    source: str = ""


def find(
    *,
    server: str = "",
    token_file: str = "",
    state: str = "",
    environment: Mapping[str, str] | None = None,
) -> Place:
    """The place to speak to. Arguments come first, then PADDOCK_SERVER, PADDOCK_TOKEN, PADDOCK_STATE, then the record.

    A token that nobody named for this call is only shown to the server that it was recorded for, never elsewhere.
    """
    env = os.environ if environment is None else environment
    recorded = served(env)
    wanted = server or env.get("PADDOCK_SERVER", "")
    named_state = state
    state = state or env.get("PADDOCK_STATE", "")
    if not wanted:
        wanted = _url_of(state) if state else recorded.get("url", "")
    url = _checked(wanted or DEFAULT_URL)
    if token_file:
        return Place(url=url, token=_secret(Path(token_file)), source=token_file)
    if env.get("PADDOCK_TOKEN"):
        return Place(url=url, token=env["PADDOCK_TOKEN"].strip(), source="PADDOCK_TOKEN")
    if state and (not server or named_state or _url_of(state).rstrip("/") == url):
        file = Path(state) / TOKEN_FILE
        return Place(url=url, token=_secret(file), source=str(file))
    if recorded.get("url", "").rstrip("/") == url and recorded.get("state"):
        file = Path(recorded["state"]) / TOKEN_FILE
        with suppress(Missing, Refused):  # another user's server, or one that was cleared away: ask as anyone
            return Place(url=url, token=_secret(file), source=str(file))
    return Place(url=url)


def _checked(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise Refused(f"server {url}: it is no http:// or https:// address", hint="--server http://127.0.0.1:8080")
    return url.rstrip("/")


def _secret(file: Path) -> str:
    try:
        text = file.read_text("utf-8").strip()
    except FileNotFoundError:
        raise Missing(f"token file {file}: it does not exist", hint="paddock serve writes it into its state") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise Refused(f"token file {file}: {getattr(exc, 'strerror', None) or exc}") from exc
    if not text or not text.isascii() or any(char.isspace() for char in text):
        raise Refused(f"token file {file}: it holds no token")
    return text


# ---- the record of what was served last ------------------------------------------------------------------------------


def _homes(env: Mapping[str, str]) -> Path:
    root = env.get("XDG_STATE_HOME") or str(Path(env.get("HOME") or os.path.expanduser("~")) / ".local" / "state")
    return Path(root) / "paddock"


def record(*, url: str, state: Path, environment: Mapping[str, str] | None = None) -> None:
    """Remember for this user which server was started last, and beside its state what its address is.

    `serve` calls it once it listens. A user without a writable home goes without the record.
    """
    env = os.environ if environment is None else environment
    _write(state / "server.json", {"url": url, "state": str(state.resolve())})
    with suppress(OSError):
        home = _homes(env)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(home / "server.json", {"url": url, "state": str(state.resolve())})


def served(environment: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """`url` and `state` of the server that this user started last; empty if none was."""
    return _read(_homes(os.environ if environment is None else environment) / "server.json")


def _url_of(state: str) -> str:
    return _read(Path(state) / "server.json").get("url", "")


def _read(file: Path) -> Mapping[str, str]:
    try:
        found: object = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, str)}


def _write(file: Path, record: Mapping[str, str]) -> None:
    draft = file.with_name(f"{file.name}.{os.getpid()}.new")
    try:
        handle = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            json.dump(record, opened)
        os.replace(draft, file)
    except OSError as exc:
        raise Broken(f"{file}: {exc.strerror}") from exc
