"""Makes one file that holds the agent and its own Python.

PyInstaller gathers the interpreter and what it needs into a directory. A program of its own kind in one file would
unpack that at every start, stay as a parent beside the agent, and take the files away under running tasks; so ours is
a script that unpacks the directory once, in a place of its owner alone, and becomes the agent.

Effects: idempotent; works in a temporary directory of its own.
"""

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from paddock.agent.bundle import bundling
from paddock.agent.bundle.bundled import PROGRAM
from paddock.core.errors import Broken, Missing

_LIMIT = 600.0
_NAME = "paddock-agent"
# Whatever belongs to machines with a screen, to other programs, or to the making of programs.
_LEFT_OUT = ("tkinter", "unittest", "pydoc", "pdb", "doctest", "lib2to3", "ensurepip", "readline")

_HEAD = r"""#!/bin/sh
# Paddock's agent with its own Python. It unpacks itself once, into a directory that nobody else may write, and runs.
set -eu
name=bundle-@DIGEST@
case $0 in */*) self=$0 ;; *) self=$(command -v -- "$0") ;; esac
self=$(readlink -f -- "$self")
base=$(dirname -- "$(dirname -- "$self")")

is_ours() {
    [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ] || return 1
    case $(ls -ldn -- "$1") in d????-??-*) ;; *) return 1 ;; esac
}

unpack() {
    draft=$1/.$name.$$
    rm -rf -- "$draft"
    mkdir -m 700 -- "$draft" || return 1
    if tail -c +@START@ -- "$self" | gzip -dc | tar -xf - -C "$draft" && [ -x "$draft/@NAME@" ]; then
        sync
        mv -- "$draft" "$1/$name" 2>/dev/null || true # somebody else was quicker: as good
    fi
    rm -rf -- "$draft"
    # shellcheck disable=SC2012  # the names are ours
    ls -1dt -- "$1"/bundle-* | tail -n +3 | while read -r old; do rm -rf -- "$old"; done
}

own=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/paddock-agent
for place in "${PADDOCK_AGENT_CACHE:-$base/cache}" "${PADDOCK_AGENT_CACHE:-$own}"; do
    if [ "$place" != "$base/cache" ]; then (umask 077 && mkdir -p -- "$place") 2>/dev/null || true; fi
    is_ours "$place" || continue
    is_ours "$place/$name" || unpack "$place" || continue
    is_ours "$place/$name" || continue
    export @PROGRAM@="$self"
    # shellcheck disable=SC2093  # what follows is for those places that will not do
    exec "$place/$name/@NAME@" "$@"
done
echo "paddock: agent: no directory of its own to unpack into" >&2
echo "hint: PADDOCK_AGENT_CACHE=DIR, a directory that you own and nobody else may write" >&2
exit 1
"""


def standalone(extensions: Sequence[str] = ()) -> bytes:
    """The file, for machines of this one's kind: same processor, and a C library that is not older than this one's.

    Missing where PyInstaller is not installed.
    """
    if find_spec("PyInstaller") is None:
        raise Missing("PyInstaller: is not installed here", hint=f"{sys.executable} -m pip install pyinstaller")
    with tempfile.TemporaryDirectory(prefix="paddock-standalone-") as made:
        place = Path(made)
        sources = place / "sources"
        with zipfile.ZipFile(io.BytesIO(bundling.archive(extensions))) as opened:
            opened.extractall(sources)
        _freeze(place, sources)
        payload = _packed(place / "dist" / _NAME)
    digest = hashlib.sha256(payload).hexdigest()[:16]
    return _head(digest) + payload


def _freeze(place: Path, sources: Path) -> None:
    begin = place / f"{_NAME}.py"
    begin.write_text("from paddock.agent.frozen import main\n\nmain()\n", "ascii")
    words = ["--onedir", "--noconfirm", "--clean", "--log-level", "WARN", "--name", _NAME, "--paths", str(sources)]
    words += ["--distpath", str(place / "dist"), "--workpath", str(place / "work"), "--specpath", str(place)]
    for module in sorted(_modules(sources)):
        words += ["--hidden-import", module]
    for notes in sorted(sources.glob("*.dist-info")):
        words += ["--add-data", f"{notes}:{notes.name}"]
    for module in [*_LEFT_OUT, *_strangers(sources)]:
        words += ["--exclude-module", module]
    try:
        subprocess.run(
            [sys.executable, "-m", "PyInstaller", *words, str(begin)],
            cwd=place,
            check=True,
            capture_output=True,
            text=True,
            timeout=_LIMIT,
        )
    except subprocess.CalledProcessError as exc:
        said = [line for line in exc.stderr.splitlines() if line.strip()]
        raise Broken(f"PyInstaller: {said[-1] if said else f'exit {exc.returncode}'}") from exc
    except subprocess.TimeoutExpired as exc:
        raise Broken(f"PyInstaller: not done within {_LIMIT:.0f} s") from exc


def _modules(sources: Path) -> Iterator[str]:
    """All of ours, and of the extensions: skills are loaded by their names. Of the others what is imported is taken."""
    for path in sources.rglob("*.py"):
        parts = path.relative_to(sources).with_suffix("").parts
        if parts[0] in ("websockets", "python_socks", "yaml", "__main__"):
            continue
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    yield from ("yaml", "websockets.asyncio.client", "python_socks.async_.asyncio", "logging.handlers")


def _strangers(sources: Path) -> list[str]:
    """Whatever else is installed here and is imported by somebody if it happens to be there."""
    ours = {path.stem for path in sources.iterdir()}
    return sorted(name for name in packages_distributions() if name.isidentifier() and name not in ours)


def _packed(directory: Path) -> bytes:
    made = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=made, mode="wb", compresslevel=9, mtime=0) as packing,
        tarfile.open(fileobj=packing, mode="w|", format=tarfile.GNU_FORMAT) as opened,
    ):
        for path in sorted(directory.rglob("*")):
            opened.add(path, path.relative_to(directory).as_posix(), recursive=False, filter=_anonymous)
    return made.getvalue()


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def _head(digest: str) -> bytes:
    text = _HEAD.replace("@DIGEST@", digest).replace("@NAME@", _NAME).replace("@PROGRAM@", PROGRAM)
    # The place of the payload stands in the text whose length it depends on; six digits are more than enough.
    length = len(text.encode()) - len("@START@") + 6
    return text.replace("@START@", f"{length + 1:06d}").encode()
