"""The first file of a bundle: checks its Python, unpacks the bundle once, starts the agent.

Written for every Python from 3.6 on: an old one should say that it is too old. It becomes `__main__.py`, and imports
nothing of what is in the bundle before that is unpacked.

Effects: idempotent; a bundle's directory appears whole or not at all.
"""

import os
import shutil
import sys
import zipfile

DIGEST = ""
"""Of everything in the bundle; put here when it is made."""
NEEDED = (3, 11)
CACHE = "PADDOCK_AGENT_CACHE"
_KEPT = 2  # this one, and the one before it, which may be gone back to


def main() -> None:
    """Start the agent of the bundle that this file is in."""
    _check()
    archive = os.path.dirname(os.path.abspath(__file__))
    # Unpacked it starts three times as fast: compiled once, and read without a search through an archive.
    sys.path[0] = unpacked(archive, places(archive)) or archive
    from paddock.agent.__main__ import main as begin

    begin()


def _check() -> None:
    found = ".".join(str(number) for number in sys.version_info[:3])
    if sys.version_info < NEEDED:
        wanted = ".".join(str(number) for number in NEEDED)
        sys.exit(
            f"paddock: agent: this is Python {found}, and {wanted} or newer is needed\n"
            "hint: another python3 on this machine, or the standalone agent, which carries its own"
        )
    from importlib.util import find_spec

    for name in ("_ssl", "_sqlite3"):
        if find_spec(name) is None:
            sys.exit(
                f"paddock: agent: this Python {found} was built without {name[1:]}\n"
                "hint: on Debian: apt-get install python3 (not python3-minimal alone)"
            )


def places(archive: str) -> "list[str]":
    """Directories in which a bundle may be unpacked, the best first."""
    named = os.environ.get(CACHE)
    if named:
        return [named]
    base = os.path.dirname(os.path.dirname(archive))
    own = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return [os.path.join(base, "cache"), os.path.join(own, "paddock-agent")]


def unpacked(archive: str, into: "list[str]", digest: str = "") -> str:
    """Where the bundle lies unpacked; empty if it cannot be, and has to be run as it is."""
    name = "bundle-" + (digest or DIGEST)
    for place in into:
        try:
            # The base's own cache is made by whoever configures the agent, never by who merely runs it.
            if place == into[-1]:
                os.makedirs(place, mode=0o700, exist_ok=True)
            if not _is_ours(place):
                continue
            directory = os.path.join(place, name)
            if _is_ours(directory):
                return directory
            _unpack(archive, place, directory)
        except (OSError, zipfile.BadZipFile):
            continue
        if _is_ours(directory):
            _forget(place, name)
            return directory
    return ""


def _is_ours(directory: str) -> bool:
    """Whether nobody else can have put something there: we are about to run it."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return found.st_uid == os.geteuid() and found.st_mode & 0o170022 == 0o040000


def _unpack(archive: str, place: str, directory: str) -> None:
    draft = os.path.join(place, f".{os.path.basename(directory)}.{os.getpid()}")
    try:
        os.mkdir(draft, 0o700)
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(draft)
        os.sync()  # a name must not outlive a power cut that its files did not
        os.rename(draft, directory)
    except OSError:
        # Somebody else may have been quicker, and that is as good.
        shutil.rmtree(draft, ignore_errors=True)


def _forget(place: str, name: str) -> None:
    """Remove what older bundles left, but for the last of them."""
    others = [one for one in os.listdir(place) if one.startswith(("bundle-", ".bundle-")) and one != name]
    others.sort(key=lambda one: os.lstat(os.path.join(place, one)).st_mtime, reverse=True)
    kept = [one for one in others if one.startswith("bundle-")][: _KEPT - 1]
    for one in others:
        if one not in kept:
            shutil.rmtree(os.path.join(place, one), ignore_errors=True)


if __name__ == "__main__":
    main()
