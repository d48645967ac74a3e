"""./dev on a machine that lacks something: it says what, and leaves nothing behind."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

VERBS = {"demo", "check", "test", "run", "bench", "docs", "lock", "host-setup", "help"}
NEEDED = ("sh", "cat", "cksum", "dirname", "mkdir", "readlink", "rm", "rmdir", "sed", "sleep", "head", "tr", "id")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A checkout without an environment, beside a directory `bin` that holds a shell's tools and no Python."""
    (tmp_path / "bin").mkdir()
    for tool in NEEDED:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or "/nowhere")
    (tmp_path / "requirements").mkdir()
    (tmp_path / "extensions" / "docker").mkdir(parents=True)
    for name in ("dev", "pyproject.toml", "requirements/dev.txt", "extensions/docker/pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def _python(machine: Path, name: str, *, version: tuple[int, int], has_venv: bool) -> None:
    """A stand-in that answers the two questions that ./dev asks of a Python."""
    answers = f"*version_info*) exit {int(version < (3, 11))} ;; *ensurepip*) exit {int(not has_venv)} ;;"
    place = machine / "bin" / name
    place.write_text(f'#!/bin/sh\ncase "$*" in {answers} esac\necho "called: $*" >&2\nexit 7\n')
    place.chmod(0o755)


def _dev(machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(machine / "bin"), "HOME": os.devnull}
    return subprocess.run(
        [str(machine / "dev"), *arguments], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def test_help_names_every_verb_with_an_example(machine: Path) -> None:
    told = _dev(machine, "help").stdout
    assert {line.split()[0] for line in told.splitlines() if line.startswith("  ")} == VERBS
    assert {line.split("./dev ")[1].split()[0] for line in told.splitlines() if line.startswith("  ")} == VERBS


def test_a_verb_that_is_not_there_is_named(machine: Path) -> None:
    done = _dev(machine, "dance")
    assert done.returncode == 1
    assert "no such verb: dance" in done.stderr


def test_without_python_it_says_which_one_is_wanted(machine: Path) -> None:
    _python(machine, "python3", version=(3, 9), has_venv=True)
    done = _dev(machine, "run", "true")
    assert done.returncode == 1
    assert "no Python 3.11 or newer was found" in done.stderr


def test_without_venv_it_names_the_package(machine: Path) -> None:
    _python(machine, "python3", version=(3, 11), has_venv=False)
    done = _dev(machine, "run", "true")
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert not (machine / ".venv").exists()
    assert not (machine / ".venv.lock").exists()


def test_the_first_python_that_is_new_enough_and_whole_is_taken(machine: Path) -> None:
    _python(machine, "python3", version=(3, 9), has_venv=True)
    _python(machine, "python3.13", version=(3, 13), has_venv=False)
    _python(machine, "python3.12", version=(3, 12), has_venv=True)
    done = _dev(machine, "run", "true")
    assert f"making .venv with {machine}/bin/python3.12" in done.stderr
    assert "called: -m venv" in done.stderr


def test_what_was_left_half_made_is_made_anew(machine: Path) -> None:
    _python(machine, "python3", version=(3, 11), has_venv=True)
    _dev(machine, "run", "true")
    assert (machine / ".venv" / ".unfinished").exists()
    (machine / ".venv" / "debris").touch()
    done = _dev(machine, "run", "true")
    assert "half-made, making it anew" in done.stderr
    assert not (machine / ".venv" / "debris").exists()


def test_the_lock_of_a_dead_call_is_taken_over(machine: Path) -> None:
    _python(machine, "python3", version=(3, 11), has_venv=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    (machine / ".venv.lock").mkdir()
    (machine / ".venv.lock" / "pid").write_text(f"{ended.pid}\n")
    done = _dev(machine, "run", "true")
    assert "making .venv" in done.stderr
    assert not (machine / ".venv.lock").exists()


@pytest.mark.slow
def test_the_lock_of_a_living_call_is_waited_for(machine: Path) -> None:
    _python(machine, "python3", version=(3, 11), has_venv=True)
    (machine / ".venv.lock").mkdir()
    (machine / ".venv.lock" / "pid").write_text(f"{os.getpid()}\n")
    waiting = subprocess.Popen([machine / "dev", "run", "true"], env={"PATH": str(machine / "bin")})
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1)
    waiting.terminate()
    assert waiting.wait(10) == 143
    assert not (machine / ".venv").exists()
    assert (machine / ".venv.lock" / "pid").read_text() == f"{os.getpid()}\n"
