"""The tool that builds the cloud image, as far as it goes without building one."""

import struct
from pathlib import Path

import pytest

from tools import cloudimage, guest
from tools.maven import Unavailable


def test_another_recipe_is_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cloudimage.recipe()
    monkeypatch.setattr(cloudimage, "PACKAGES", ("busybox-static",))

    assert cloudimage.recipe() != before


def test_its_table_has_a_partition_to_boot_from_and_one_for_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, disk = tmp_path / "mbr", tmp_path / "disk"
    code.write_bytes(b"\xeb" * 440)
    disk.touch()
    monkeypatch.setattr(cloudimage, "MBR", code)

    cloudimage._partition(disk)

    sector = disk.read_bytes()
    rows = [struct.unpack("<B3xB3xII", sector[446 + 16 * row : 462 + 16 * row]) for row in range(4)]
    assert len(sector) == 512
    assert sector.endswith(b"\x55\xaa")
    assert rows[0] == (0x80, 0x0C, 2048, cloudimage.BOOT // 512)
    assert rows[1] == (0, 0x83, 2048 + cloudimage.BOOT // 512, cloudimage.ROOT // 512)
    assert rows[2:] == [(0, 0, 0, 0)] * 2


def test_a_machine_that_cannot_build_it_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "path", lambda: "/nowhere")

    with pytest.raises(Unavailable, match="there is no mmdebstrap here"):
        cloudimage._require()
