"""`paddock doctor` on a machine that is, or could be, a host of virtual machines."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from paddock.agent.conf import Conf
from paddock.agent.durable import write
from paddock.agent.skills.hypervisor.disks import NAMES
from paddock.agent.skills.hypervisor.drivers.qemu import accel
from paddock.cli import hosting
from paddock.cli.check import BROKEN, NOTE, OK, Check

Found = Callable[..., dict[str, Check]]
_QEMU = "#!/bin/sh\necho 'QEMU emulator version {}'\n"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in which programs are looked for: every one that is needed, doing nothing."""
    place = tmp_path / "bin"
    place.mkdir()
    for name in ("qemu-system-x86_64", "qemu-img", "ssh-keygen", "zstd"):
        (place / name).write_text(_QEMU.format("7.2.22 (Debian 1:7.2)"))
        (place / name).chmod(0o755)
    monkeypatch.setattr(hosting, "_PATH", str(place))
    return place


@pytest.fixture
def found(tmp_path: Path, programs: Path) -> Found:
    """What is found by name, on a host whose agent.conf has these values."""

    def look(**values: str) -> dict[str, Check]:
        chosen = {("hypervisor", name.replace("_", "-")): value for name, value in values.items()}
        told = {("skills", "enabled"): "hypervisor", ("storage", "base"): str(tmp_path / "agent"), **chosen}
        file = tmp_path / "agent.conf"
        file.write_text(Conf.fresh().put(told).ini.text)
        return {check.name: check for check in hosting.examine(file)}

    return look


def test_a_host_with_everything_has_nothing_broken(found: Found) -> None:
    checks = found(memory="4GiB", disk="40GiB", vcpus="8")
    assert {check.name for check in checks.values() if check.state == BROKEN} == set()
    assert checks["room"].found == "memory 4.0 GiB, vcpus 8, disk 40.0 GiB may be booked"
    assert checks["qemu"].found.endswith("/qemu-system-x86_64, version 7.2.22")


@pytest.mark.parametrize(
    ("program", "name", "package"),
    [("qemu-system-x86_64", "qemu", "qemu-system-x86"), ("ssh-keygen", "ssh-keygen", "openssh-client")],
)
def test_what_no_machine_is_made_without_is_broken_on_a_host(
    found: Found, programs: Path, program: str, name: str, package: str
) -> None:
    (programs / program).unlink()
    lacking = found()[name]
    assert (lacking.state, lacking.mend) == (BROKEN, f"apt-get install {package}")


@pytest.mark.parametrize(("program", "package"), [("qemu-img", "qemu-utils"), ("zstd", "zstd")])
def test_what_some_images_need_is_a_note(found: Found, programs: Path, program: str, package: str) -> None:
    (programs / program).unlink()
    assert (found()[program].state, found()[program].mend) == (NOTE, f"apt-get install {package}")


@pytest.mark.parametrize("version", ["7.1.0", "6.2.0 (Debian)", "of its own"])
def test_a_qemu_that_is_too_old_is_broken(found: Found, programs: Path, version: str) -> None:
    (programs / "qemu-system-x86_64").write_text(_QEMU.format(version))
    assert found()["qemu"].state == BROKEN
    assert "QEMU 7.2 or newer" in found()["qemu"].mend


def test_a_machine_that_is_no_host_and_has_no_qemu_says_so_in_one_line(
    programs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PADDOCK_AGENT_CONF", str(tmp_path / "nothing"))
    (programs / "qemu-system-x86_64").unlink()
    (only,) = hosting.examine(None)
    assert (only.name, only.state) == ("machines", NOTE)
    assert "apt-get install qemu-system-x86" in only.mend


def test_an_agent_conf_that_is_not_there_is_broken_if_it_was_named(programs: Path, tmp_path: Path) -> None:
    first = next(hosting.examine(tmp_path / "nothing"))
    assert (first.name, first.state) == ("agent.conf", BROKEN)
    assert "does not exist" in first.found


def test_the_kind_of_disks_is_that_of_the_file_system(found: Found) -> None:
    told = found()["disks"]
    assert told.state == OK
    assert told.found.split()[0] in NAMES


def test_disks_that_the_file_system_does_not_give_are_broken(found: Found, tmp_path: Path) -> None:
    if found()["disks"].found.startswith("btrfs"):
        pytest.skip("temporary files lie on btrfs here")
    told = found(disks="btrfs")["disks"]
    assert told.state == BROKEN
    assert told.found.endswith("does not lie on btrfs")
    assert told.mend == "choose reflink or qcow2"
    assert list(tmp_path.glob(".probe*")) == []


def test_a_kvm_that_was_tried_in_vain_says_why(found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "DEVICE", tmp_path / "bin" / "qemu-img")
    root = tmp_path / "agent" / "state" / "hypervisor"
    root.mkdir(parents=True)
    assert "tried when the first machine starts" in found()["kvm"].found
    write(root / accel.FILE, {"of": "", "name": "tcg", "why": "it never came up"})
    assert (found()["kvm"].state, "it never came up" in found()["kvm"].found) == (NOTE, True)
    write(root / accel.FILE, {"of": "", "name": "kvm", "why": ""})
    assert (found()["kvm"].state, "a guest of ours ran" in found()["kvm"].found) == (OK, True)


def test_a_kvm_that_is_wanted_and_not_there_is_broken(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "DEVICE", tmp_path / "nothing")
    assert found(accel="auto")["kvm"].state == NOTE
    assert found(accel="kvm")["kvm"].state == BROKEN
    assert found(accel="tcg")["kvm"].state == OK


def test_networks_with_root_want_root(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    told = found(networks="rooted")["networks"]
    assert (told.state, told.found) == (BROKEN, "networks: bridges take root")


def test_a_host_with_too_little_room_is_broken(found: Found) -> None:
    told = found(memory="512MiB")["room"]
    assert told.state == BROKEN
    assert "too little" in told.found
