"""The peer of a fork: the same guest, saved and restored by libvirt.

What libvirt restores is the very machine that was saved: its identity, its clock and its random numbers are those of
before. libvirt's daemons are those that are installed here, with their own directories; nothing else may use them
meanwhile, and they are ended with the bench.
"""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench.aims import VIRSH
from bench.figure import Measured
from bench.pace import Pace
from tools.guest import Image, image

_PROGRAMS = ("virsh", "libvirtd", "virtlogd")
_URI = "qemu:///system"
_NAME = "paddock-bench"
_BOOTS_WITHIN = 120.0
_STARTS_WITHIN = 30.0
_UP = "graphical.target"
_MEMORY = 384
_DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type><kernel>{place}/kernel</kernel><initrd>{place}/initrd</initrd>
    <cmdline>root=/dev/vda rw console=ttyS0 panic=1 mitigations=off systemd.show_status=1</cmdline>
  </os>
  <features><acpi/></features><cpu mode='maximum'/>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{place}/disk.qcow2'/>
      <target dev='vda' bus='virtio'/></disk>
    <serial type='file'><source path='{place}/console'/></serial>
    <channel type='unix'><target type='virtio' name='org.paddock.0'/></channel>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def restores(pace: Pace) -> Mapping[str, Measured]:
    """From the command until it returns: its processors run then, and nobody inside has said anything."""
    missing = [program for program in _PROGRAMS if shutil.which(program, path="/usr/bin:/usr/sbin") is None]
    if missing:
        raise RuntimeError(f"no {missing[0]} here; on Debian: apt-get install libvirt-daemon-system libvirt-clients")
    took = []
    with _daemons(), _guest(image()) as place:
        for _ in range(max(3, pace.runs)):
            _virsh("save", _NAME, str(place / "saved"))
            began = time.perf_counter()
            _virsh("restore", str(place / "saved"))
            took.append(1e3 * (time.perf_counter() - began))
    return {VIRSH: Measured(values=tuple(took))}


@contextlib.contextmanager
def _guest(made: Image) -> Iterator[Path]:
    """The guest of all benches, booted and at rest. libvirt runs it as somebody else, who may not read our cache."""
    with tempfile.TemporaryDirectory(prefix="pb", dir="/var/tmp") as directory:
        place = Path(directory)
        place.chmod(0o755)
        for source, name in ((made.disk, "disk"), (made.kernel, "kernel"), (made.initrd, "initrd")):
            subprocess.run(("cp", "--sparse=always", str(source), str(place / name)), check=True)
        words = ("qemu-img", "create", "-q", "-f", "qcow2", "-b", "disk", "-F", "raw", str(place / "disk.qcow2"))
        subprocess.run(words, check=True)
        (place / "domain.xml").write_text(_DOMAIN.format(name=_NAME, memory=_MEMORY, place=place))
        _virsh("create", str(place / "domain.xml"))
        try:
            _wait(lambda: _UP in _text(place / "console"), "its guest is up", _BOOTS_WITHIN)
            yield place
        finally:
            _virsh("destroy", _NAME)


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""


@contextlib.contextmanager
def _daemons() -> Iterator[None]:
    """libvirt's own, as there is no systemd that would start them."""
    with contextlib.ExitStack() as running:
        for program in ("virtlogd", "libvirtd"):
            daemon = subprocess.Popen((f"/usr/sbin/{program}",), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            running.callback(_end, daemon)
        _wait(lambda: _answers("list"), "libvirt answers", _STARTS_WITHIN)
        yield


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    daemon.terminate()
    daemon.wait(20)


def _virsh(*words: str) -> None:
    subprocess.run(("virsh", "-q", "-c", _URI, *words), check=True, stdout=subprocess.DEVNULL, timeout=120)


def _answers(*words: str) -> bool:
    return subprocess.run(("virsh", "-q", "-c", _URI, *words), check=False, capture_output=True).returncode == 0


def _wait(is_so: Callable[[], bool], what: str, limit: float) -> None:
    end = time.monotonic() + limit
    while not is_so():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {limit:.0f} s: {what}")
        time.sleep(0.1)
