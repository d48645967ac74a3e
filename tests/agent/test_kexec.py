"""Another kernel: what the program is told, and what is refused before anything is loaded."""

from pathlib import Path

import pytest

from paddock.agent.skills.system import kexec
from paddock.core.errors import Broken, Refused
from paddock.wire.fields import BadParams


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with a `kexec` that writes down its words."""
    directory = tmp_path / "bin"
    directory.mkdir()
    program = directory / "kexec"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/words\n')
    program.chmod(0o755)
    return directory


def test_the_command_line_that_runs_is_kept_unless_another_is_told() -> None:
    assert kexec.loading({"kernel": "/k"}) == ["kexec", "-l", "/k", "--reuse-cmdline"]
    told = {"kernel": "/k", "initrd": "/i", "cmdline": "root=/dev/vda quiet"}
    assert kexec.loading(told) == ["kexec", "-l", "/k", "--initrd=/i", "--command-line=root=/dev/vda quiet"]


@pytest.mark.parametrize("told", [{}, {"kernel": 5}, {"kernel": "/k", "initrd": []}])
def test_params_that_cannot_be_are_named(told: dict[str, object]) -> None:
    with pytest.raises(BadParams, match=r"params\.kexec\."):
        kexec.loading(told)  # type: ignore[arg-type]


def test_it_is_loaded_and_then_jumped_into(tmp_path: Path, programs: Path) -> None:
    (tmp_path / "kernel").touch()
    kexec.load({"kernel": f"{tmp_path}/kernel"}, programs=str(programs))
    kexec.jump("newer", root=tmp_path, programs=str(programs))
    assert (tmp_path / "words").read_text().splitlines() == [f"-l {tmp_path}/kernel --reuse-cmdline", "-e"]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, programs: Path) -> None:
    with pytest.raises(Refused, match="/nowhere/kernel: no such file"):
        kexec.load({"kernel": "/nowhere/kernel"}, programs=str(programs))
    (tmp_path / "kernel").touch()
    with pytest.raises(Refused, match="/nowhere/initrd: no such file"):
        kexec.load({"kernel": f"{tmp_path}/kernel", "initrd": "/nowhere/initrd"}, programs=str(programs))
    assert not (tmp_path / "words").exists()


def test_a_machine_without_the_program_is_told_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "kernel").touch()
    with pytest.raises(Refused) as refused:
        kexec.load({"kernel": f"{tmp_path}/kernel"}, programs=str(tmp_path))
    assert refused.value.hint == "install the package kexec-tools"


def test_a_kernel_that_is_not_taken_is_told_with_the_programs_words(tmp_path: Path, programs: Path) -> None:
    (tmp_path / "kernel").touch()
    (programs / "kexec").write_text("#!/bin/sh\necho 'Cannot determine the file type' >&2; exit 255\n")
    with pytest.raises(Broken, match="exited 255: Cannot determine the file type"):
        kexec.load({"kernel": f"{tmp_path}/kernel"}, programs=str(programs))
