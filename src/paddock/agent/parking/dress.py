"""What tells a woken machine from others, as files: put when it settles, taken away by park.

Effects: idempotent; a file is the old or the new one, and durable once its caller has synced.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from paddock.hands import faults
from paddock.wire.specs import Wake

_BEGIN, _END = "# begin paddock", "# end paddock"
_HOSTS = Path("etc/hosts")
_ENVIRONMENT = Path("etc/environment")
_AUTHORIZED = Path("root/.ssh/authorized_keys")
_SSH = Path("root/.ssh/config")
_LOGIN = Path("root/.ssh/paddock")
_NETWORK = Path("etc/systemd/network")
_DIRECTORIES = ("etc", "etc/ssh", "etc/systemd/network", "root/.ssh", "var/lib/dbus")
"""Where something of it is put."""
_NETWORKD = ("usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd")


def dress(rootfs: Path, wake: Wake) -> None:
    """All of it, whatever was there before. OSError, with the file, where that cannot be."""
    _name(rootfs, wake)
    faults.at("settling.named")
    _key(rootfs, wake)
    faults.at("settling.keyed")
    _list_others(rootfs, wake)
    faults.at("settling.listed")


def _name(rootfs: Path, wake: Wake) -> None:
    """Its host name and its machine-id."""
    _put(rootfs / "etc/hostname", f"{wake.hostname}\n")
    _put(rootfs / "etc/machine-id", f"{wake.machine_id}\n", mode=0o444)
    other = rootfs / "var/lib/dbus/machine-id"
    if other.is_file() and not other.is_symlink():
        _put(other, f"{wake.machine_id}\n")


def _key(rootfs: Path, wake: Wake) -> None:
    """The keys by which it is known, by which one gets in, and by which it gets into its peers."""
    for file, text in wake.host_keys.items():
        _put(rootfs / "etc/ssh" / file, text, mode=0o644 if file.endswith(".pub") else 0o600)
    _block(rootfs / _AUTHORIZED, [one.strip() for one in wake.authorized_keys], mode=0o600)
    peers = [word for peer in wake.peers for word in (peer.machine, *map(_bare, peer.addresses))]
    if wake.login_key:
        _put(rootfs / _LOGIN, wake.login_key, mode=0o600)
    else:
        _gone(rootfs / _LOGIN)
    is_known = wake.login_key and peers
    config = (f"Host {' '.join(peers)}", "    IdentityFile ~/.ssh/paddock", "    StrictHostKeyChecking accept-new")
    _block(rootfs / _SSH, config if is_known else (), mode=0o600)


def _list_others(rootfs: Path, wake: Wake) -> None:
    """Its peers' names, the variables of its logins, and its addresses for the next boot."""
    lines = [f"127.0.1.1 {wake.hostname}"]
    lines += [f"{_bare(address)} {peer.machine}" for peer in wake.peers for address in peer.addresses]
    _block(rootfs / _HOSTS, lines)
    _block(rootfs / _ENVIRONMENT, [f'{name}="{value}"' for name, value in sorted(wake.env.items())])
    _remove_networks(rootfs)
    if any((rootfs / program).exists() for program in _NETWORKD):
        for mac, address in zip(wake.macs, wake.addresses, strict=True):
            if address:
                text = f"[Match]\nMACAddress={mac}\n\n[Network]\nAddress={address}\nKeepConfiguration=static\n"
                _put(rootfs / _NETWORK / f"05-paddock-{mac.replace(':', '')}.network", text)


def undress(rootfs: Path) -> None:
    """None of that is there, but what belongs to every machine: see the traces of system.clean_image."""
    for path in (_AUTHORIZED, _SSH, _HOSTS, _ENVIRONMENT):
        _block(rootfs / path, ())
    _gone(rootfs / _LOGIN)
    _remove_networks(rootfs)
    for directory in _DIRECTORIES:
        for draft in (rootfs / directory).glob(".*.paddock"):
            _gone(draft)  # of a kill
    if (rootfs / "etc/hostname").exists():
        _put(rootfs / "etc/hostname", "localhost\n")


def _bare(address: str) -> str:
    return address.partition("/")[0]


def _remove_networks(rootfs: Path) -> None:
    for path in sorted((rootfs / _NETWORK).glob("05-paddock-*.network")):
        _gone(path)


def _block(path: Path, lines: Iterable[str], *, mode: int = 0o644) -> None:
    """Our part of a file that is others' too; without lines, no part, and no file that was ours alone."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode & 0o7777
    before = path.read_text("utf-8", "surrogateescape") if path.exists() else ""
    kept, is_ours = [], False
    for line in before.splitlines(keepends=True):
        is_ours = is_ours or line.strip() == _BEGIN
        if not is_ours:
            kept.append(line)
        is_ours = is_ours and line.strip() != _END
    text = "".join(kept)
    if ours := [*lines]:
        text += "" if not text or text.endswith("\n") else "\n"
        text += "".join(f"{line}\n" for line in (_BEGIN, *ours, _END))
    if text == before:
        return
    if text:
        _put(path, text, mode=mode)
    else:
        _gone(path)


def _put(path: Path, text: str, *, mode: int = 0o644) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if path.parent.name == ".ssh" else 0o755)
    draft = path.with_name(f".{path.name}.paddock")
    handle = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(handle, text.encode("utf-8", "surrogateescape"))
        os.fchmod(handle, mode)
    finally:
        os.close(handle)
    draft.rename(path)


def _gone(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
