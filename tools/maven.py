"""Jars from Maven Central by their digest, through the machine's own settings."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

LIMIT_SECONDS = 600


class Unavailable(Exception):
    """A big real part cannot be had or run here; the message says why, for the line that a skipped test prints."""


class Forged(Exception):
    """What was fetched is not what is pinned."""


def cache(room: str) -> Path:
    """A directory below the cache, made if absent."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    directory = Path(root) / "paddock" / room
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory


def jar(coordinates: str, digest: str) -> Path:
    """The jar of `group:name:version` with this sha256, from the cache or the registry.

    `Unavailable` if the registry does not give it; `Forged` if it gives another one, which is neither kept nor run.
    """
    _, name, version = coordinates.split(":")
    kept = cache("jars") / f"{name}-{version}.jar"
    if kept.is_file() and sha256(kept) == digest:
        return kept
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        fetched = _fetch(coordinates, Path(scratch), kept.name)
        if (found := sha256(fetched)) != digest:
            raise Forged(f"{coordinates}: its sha256 is {found}, and {digest} is pinned")
        fetched.replace(kept)
    return kept


def _fetch(coordinates: str, directory: Path, name: str) -> Path:
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable(f"{coordinates}: there is no mvn here to fetch it with; on Debian: apt-get install maven")
    command = [maven, "-B", "-q", "dependency:copy", f"-Dartifact={coordinates}:jar", f"-DoutputDirectory={directory}"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
            cwd=directory,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{coordinates}: the Maven registry did not give it within {LIMIT_SECONDS} s") from None
    if done.returncode != 0 or not (directory / name).is_file():
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
        words = lines[0].partition("ERROR]")[2].strip() if lines else "no word"
        raise Unavailable(f"{coordinates}: the Maven registry does not give it: {words[:300]}")
    return directory / name


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
