"""Another kernel of this machine: loaded beside the one that runs, and jumped into.

Effects: idempotent (loading replaces what was loaded; the jump is journaled by the reboot that it is)
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from paddock.core.errors import Broken, Refused
from paddock.wire import fields
from paddock.wire.fields import Fields
from paddock.wire.framing import JSON

PROGRAMS = "/usr/sbin:/sbin:/usr/bin:/bin"
_LIMIT = 60.0  # seconds: a kernel and its first file system are read and checked


def load(told: JSON, *, programs: str = PROGRAMS) -> None:
    """Put the kernel beside the one that runs. Refused, with nothing changed, for one that cannot be."""
    words = loading(told)
    for name in words[2:]:
        file = name.removeprefix("--initrd=")
        if file.startswith("/") and not Path(file).is_file():
            raise Refused(f"kexec: {file}: no such file")
    _run([_program(programs), *words[1:]])


def loading(told: JSON) -> list[str]:
    """The program's words for `{kernel, initrd, cmdline}`. BadParams for anything else."""
    found = Fields(told, "params.kexec")
    kernel = found.need("kernel", fields.path)
    initrd = found.maybe("initrd", fields.path, "")
    cmdline = found.maybe("cmdline", fields.text, "")
    words = ["kexec", "-l", kernel]
    if initrd:
        words.append(f"--initrd={initrd}")
    words.append(f"--command-line={cmdline}" if cmdline else "--reuse-cmdline")
    return words


def jump(reason: str, *, root: Path = Path("/"), programs: str = PROGRAMS) -> None:
    """Go on in the kernel that was loaded: in order where something can do that, at once where nothing can."""
    os.sync()
    if (root / "run/systemd/system").is_dir():
        _run(["systemctl", "--no-wall", "kexec"])
    else:
        _run([_program(programs), "-e"])


def _program(programs: str) -> str:
    found = shutil.which("kexec", path=programs)
    if found is None:
        raise Refused("kexec: the program is not there", hint="install the package kexec-tools")
    return found


def _run(words: Sequence[str]) -> None:
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Broken(f"kexec: {exc}") from exc
    if done.returncode != 0:
        why = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise Broken(f"kexec: {' '.join(words[:2])} exited {done.returncode}: {why}")
