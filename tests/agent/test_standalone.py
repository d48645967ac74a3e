"""The agent with its own Python in one file: it lives on a machine where there is no other."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock import __version__
from paddock.agent import frozen
from paddock.agent.__main__ import run
from paddock.agent.bundle import freezing
from paddock.agent.upgrade.program import running
from tests.agent.conftest import Host
from tests.agent.desk import CODE, Desk

pytest.importorskip("PyInstaller", reason="PyInstaller is not installed")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: that takes half a minute."""
    file = tmp_path_factory.mktemp("standalone") / "paddock-agent"
    assert run(["bundle", "--standalone", "--with", "paddock-docker", "--output", str(file)]) == 0
    return file


class Alone(Host):
    """A host's agent out of the one file; nothing in its environment leads to another Python."""

    program: Path

    def start(self, *more: str, **env: str) -> None:
        words = ["run", "--server", self.desk.url, "--state", str(self.state), "--code", CODE, "--cloud", "none"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.program), *words, *more],
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "HOME": str(self.state.parent), **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


@pytest.fixture
def alone(desk: Desk, program: Path, tmp_path: Path) -> Iterator[Alone]:
    made = Alone(desk, tmp_path / "state")
    made.program = program
    yield made
    made.clear()


pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_it_answers_version_and_unpacks_itself_once(program: Path, tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for _ in range(2):
        said = subprocess.check_output([str(program), "--version"], env=env, cwd="/", text=True)
        assert said == f"paddock-agent {__version__}\n"
    [unpacked] = (tmp_path / ".cache/paddock-agent").iterdir()
    assert unpacked.stat().st_mode & 0o077 == 0


def test_it_runs_from_no_directory_that_others_may_write(program: Path, tmp_path: Path) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    env = {"PATH": "/usr/bin:/bin", "PADDOCK_AGENT_CACHE": str(place)}
    done = subprocess.run([str(program), "--version"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no directory of its own to unpack into" in done.stderr
    assert list(place.iterdir()) == []


async def test_it_runs_tasks_and_adopts_them_after_kill(desk: Desk, alone: Alone, tmp_path: Path) -> None:
    done = tmp_path / "done"
    alone.start("--skills", "script,docker")
    seat = await desk.here()
    assert seat.hello.skills == ("script", "docker")
    await desk.ask(desk.command("c-1", "script.run", run=f"env; while ! test -e {done}; do sleep 0.05; done"))
    await desk.until(lambda: b"PATH=" in desk.streams["c-1", "out"])
    alone.kill()
    await desk.until(lambda: "host" not in desk.seats)
    alone.start("--skills", "script")
    await desk.here()
    assert desk.finals == {}
    done.touch()
    final = await desk.final("c-1")
    assert final.result is not None
    assert final.result["exit"] == 0
    printed = bytes(desk.streams["c-1", "out"])
    assert b"LD_LIBRARY_PATH" not in printed
    assert b"_PYI" not in printed
    assert b"PADDOCK_AGENT_PROGRAM" not in printed


async def test_its_machines_have_agents_out_of_the_same_file(desk: Desk, alone: Alone) -> None:
    alone.start()
    await desk.here()
    await desk.ask(desk.command("b-1", "machine.build", environment="e-1", fence=1, machine="one"))
    await desk.here("e-1/one")
    await desk.ask(desk.command("c-1", "script.run", run="echo in one", environment="e-1", fence=1), agent="e-1/one")
    assert await desk.whole("c-1") == b"in one\n"
    await desk.ask(desk.command("d-1", "machine.destroy", environment="e-1", fence=1, machine="one"))
    await desk.final("d-1")


async def test_it_installs_itself_where_it_is_configured(desk: Desk, program: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    words = ["configure", "-p", str(base), "--url", desk.url, "--code-file", "-", "--cloud", "none", "--no-service"]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for expected in (f"wrote {base}/bin/paddock-agent", "nothing changed"):
        done = await asyncio.to_thread(
            subprocess.run, [str(program), *words], env=env, input=CODE, capture_output=True, text=True, check=True
        )
        assert expected in done.stdout
    assert f"ExecStart={base}/bin/paddock-agent run --config" in unit(base)
    installed = str(base / "bin/paddock-agent")
    child = await asyncio.create_subprocess_exec(installed, "run", env=env, stderr=asyncio.subprocess.DEVNULL)
    await desk.here()
    stopped = await asyncio.to_thread(
        subprocess.run, [installed, "stop"], env=env, capture_output=True, text=True, check=True
    )
    assert f"process {child.pid} is gone" in stopped.stdout, "what systemd started is the agent itself"


def unit(base: Path) -> str:
    return (base / "etc/paddock-agent.service").read_text()


@pytest.mark.parametrize("tool", [("shellcheck", "-s", "sh"), ("dash", "-n")])
def test_the_script_before_it_is_clean(tool: tuple[str, ...], tmp_path: Path) -> None:
    if shutil.which(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    (tmp_path / "head.sh").write_bytes(freezing._head("0123456789abcdef"))
    done = subprocess.run([*tool, str(tmp_path / "head.sh")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_environment_is_the_machines_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/c/bundle-1/paddock-agent")
    found = {"LD_LIBRARY_PATH": "/c/bundle-1/_internal", "_PYI_X": "1", "PADDOCK_AGENT_PROGRAM": "/b/p", "A": "b"}
    assert frozen.settle(found) == "/b/p"
    assert {name: found[name] for name in found if name != "SSL_CERT_FILE"} == {"A": "b"}
    found = {"LD_LIBRARY_PATH": "/c/bundle-1/_internal", "LD_LIBRARY_PATH_ORIG": "/mine"}
    frozen.settle(found)
    assert found["LD_LIBRARY_PATH"] == "/mine"
    found = {"LD_LIBRARY_PATH": "/mine"}
    frozen.settle(found)
    assert found["LD_LIBRARY_PATH"] == "/mine"


def test_it_is_the_file_that_was_started_and_not_what_that_unpacked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.frozen", True, raising=False)
    monkeypatch.setattr("sys.executable", "/c/bundle-1/paddock-agent")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "paddock-agent"), "run"])
    found = running()
    assert found is not None
    assert found.words() == (str(tmp_path / "paddock-agent"),)


def test_without_pyinstaller_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(freezing, "find_spec", lambda name: None)
    assert run(["bundle", "--standalone", "-o", str(tmp_path / "x")]) == 4
    err = capsys.readouterr().err
    assert "PyInstaller: is not installed here" in err
    assert "-m pip install pyinstaller" in err
    assert os.listdir(tmp_path) == []
