"""One file that holds the whole agent: what is in it, and that it lives where nothing else is installed."""

import asyncio
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock import __version__
from paddock.agent import unpacking
from paddock.agent.__main__ import run
from paddock.agent.bundle import bundling
from paddock.core.errors import Missing
from tests.agent.conftest import Host
from tests.agent.desk import CODE, Desk

BARE = [sys.executable, "-I", "-S"]
"""A Python that sees its standard library and nothing that is installed."""


@pytest.fixture(scope="module")
def archive() -> bytes:
    return bundling.archive()


@pytest.fixture
def bundle(archive: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "paddock-agent.pyz"
    file.write_bytes(archive)
    return file


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("PADDOCK_AGENT_CACHE", str(directory))
    return directory


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def names(archive: bytes) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return set(opened.namelist())


# What is in it


def test_it_is_small_pure_and_complete(archive: bytes) -> None:
    found = names(archive)
    assert len(archive) <= 1_500_000
    assert {"__main__.py", "paddock/agent/__main__.py", "paddock/hands/warm.py", "yaml/__init__.py"} <= found
    assert {"websockets/asyncio/client.py", "python_socks/__init__.py"} <= found
    assert not [name for name in found if name.endswith((".so", ".c", ".pyc", ".pyd"))]
    assert not [name for name in found if name.startswith(("paddock/server", "paddock/engine", "paddock/web", "/"))]
    for package in ("websockets", "python_socks", "pyyaml", "paddock"):
        assert any(name.startswith(f"{package}-") and "licenses/LICENSE" in name for name in found), package


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(archive: bytes, tmp_path: Path) -> None:
    """Made by another process, with another hash seed, at another time, under another umask."""
    made = tmp_path / "again.pyz"
    words = [sys.executable, "-m", "paddock.agent", "bundle", "--json", "--output", str(made)]
    env = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Pacific/Auckland"}
    done = subprocess.run(words, env=env, umask=0o077, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert made.read_bytes() == archive
    assert told == {"file": str(made), "size": len(archive), "sha256": hashlib.sha256(archive).hexdigest()}


def test_an_extension_goes_along_with_its_entry_point(archive: bytes) -> None:
    more = names(bundling.archive(["paddock-docker"])) - names(archive)
    assert "paddock_docker/__init__.py" in more
    assert any(name.endswith("dist-info/entry_points.txt") for name in more)


def test_an_extension_that_is_not_installed_is_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(Missing):
        bundling.archive(["no-such-dist"])
    assert run(["bundle", "--with", "no-such-dist", "--output", str(tmp_path / "x")]) == 4
    assert "no-such-dist: is not installed here" in capsys.readouterr().err
    assert run(["bundle", "--output", str(tmp_path / "no" / "x")]) == 1


# Where nothing else is installed


@pytest.mark.slow
def test_it_answers_version_in_an_empty_directory(bundle: Path, cache: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    said = subprocess.check_output([*BARE, str(bundle), "--version"], cwd=empty, text=True)
    assert said == f"paddock-agent {__version__}\n"
    assert list(empty.iterdir()) == []
    [unpacked] = cache.iterdir()
    assert unpacked.stat().st_mode & 0o077 == 0
    assert not (unpacked / "paddock/server.py").exists()


@pytest.mark.slow
def test_it_runs_packed_where_it_cannot_unpack(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_AGENT_CACHE", "/proc/nowhere")
    assert subprocess.check_output([*BARE, str(bundle), "--version"], text=True) == f"paddock-agent {__version__}\n"


@pytest.mark.slow
def test_only_a_directory_that_is_ours_alone_is_run_from(bundle: Path, tmp_path: Path) -> None:
    """Whoever could write there could have us run anything."""
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o777)
    open_to_all.chmod(0o777)
    assert unpacking.unpacked(str(bundle), [str(open_to_all)], "d1") == ""
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert unpacking.unpacked(str(bundle), [str(link)], "d1") == ""
    ours = tmp_path / "ours"
    planted = ours / "bundle-d1"
    planted.mkdir(parents=True)
    (planted / "paddock.py").write_text("raise SystemExit('not ours')")
    planted.chmod(0o777)
    ours.chmod(0o700)
    assert unpacking.unpacked(str(bundle), [str(ours)], "d1") == ""


@pytest.mark.slow
def test_old_bundles_are_forgotten_but_for_the_last(bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    for number, digest in enumerate(("d1", "d2", "d3")):
        found = unpacking.unpacked(str(bundle), [str(place)], digest)
        assert found == str(place / f"bundle-{digest}")
        os.utime(found, (number, number))
    (place / ".bundle-half.1").mkdir()
    unpacking.unpacked(str(bundle), [str(place)], "d4")
    assert sorted(one.name for one in place.iterdir()) == ["bundle-d3", "bundle-d4"]
    before = (place / "bundle-d4").stat().st_mtime_ns
    assert unpacking.unpacked(str(bundle), [str(place)], "d4") == str(place / "bundle-d4")
    assert (place / "bundle-d4").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_python_without_ssl_is_told_what_is_missing(bundle: Path, cache: Path) -> None:
    program = (
        "import runpy, sys, importlib.util as u\nreal = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == '_ssl' else real(name, *rest)\n"
        f"runpy.run_path({str(bundle)!r}, run_name='__main__')"
    )
    done = subprocess.run([*BARE, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "was built without ssl" in done.stderr
    assert "python3-minimal" in done.stderr


def test_its_first_file_is_understood_by_old_pythons() -> None:
    import ast

    ast.parse(Path(unpacking.__file__).read_text(), feature_version=(3, 6))


class Bundled(Host):
    """A host's agent out of the bundle, run by a bare Python in an empty directory."""

    def start(self, *more: str, **env: str) -> None:
        bundle, empty = self.state.parent / "paddock-agent.pyz", self.state.parent / "empty"
        empty.mkdir(exist_ok=True)
        words = ["run", "--server", self.desk.url, "--state", str(self.state), "--code", CODE, "--cloud", "none", *more]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*BARE, str(bundle), *words],
                cwd=empty,
                env={**os.environ, **self.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


@pytest.fixture(params=["unpacked", "packed"])
def alone(
    desk: Desk, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Bundled]:
    cache = str(tmp_path / "cache") if request.param == "unpacked" else "/proc/nowhere"
    monkeypatch.setenv("PADDOCK_AGENT_CACHE", cache)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    made = Bundled(desk, tmp_path / "state")
    yield made
    made.clear()


@pytest.mark.slow
async def test_it_runs_tasks_and_adopts_them_after_kill(desk: Desk, alone: Bundled, tmp_path: Path) -> None:
    done = tmp_path / "done"
    alone.start()
    await desk.here()
    assert desk.hellos[0].software == f"paddock {__version__}"
    await desk.ask(desk.command("c-1", "script.run", run=f"echo begun; while ! test -e {done}; do sleep 0.05; done"))
    await desk.until(lambda: bytes(desk.streams["c-1", "out"]) == b"begun\n")
    alone.kill()
    await desk.until(lambda: "host" not in desk.seats)
    alone.start()
    await desk.here()
    assert desk.finals == {}
    done.touch()
    final = await desk.final("c-1")
    assert final.result is not None
    assert final.result["exit"] == 0
    assert bytes(desk.streams["c-1", "out"]) == b"begun\n"


@pytest.mark.slow
async def test_its_machines_have_agents_out_of_the_bundle(desk: Desk, alone: Bundled) -> None:
    alone.start()
    await desk.here()
    answer = await desk.ask(desk.command("b-1", "machine.build", environment="e-1", fence=1, machine="one", limit=60))
    assert hasattr(answer, "result"), answer
    await desk.here("e-1/one")
    await desk.ask(desk.command("c-1", "script.run", run="echo in one", environment="e-1", fence=1), agent="e-1/one")
    assert await desk.whole("c-1") == b"in one\n"
    await desk.ask(desk.command("d-1", "machine.destroy", environment="e-1", fence=1, machine="one", limit=60))
    await desk.final("d-1")


@pytest.mark.slow
async def test_a_skill_that_was_bundled_is_found(desk: Desk, alone: Bundled, tmp_path: Path) -> None:
    (tmp_path / "paddock-agent.pyz").write_bytes(bundling.archive(["paddock-docker"]))
    alone.start("--skills", "script,docker")
    seat = await desk.here()
    assert "docker" in seat.hello.skills


@pytest.mark.slow
async def test_it_installs_itself_where_it_is_configured(desk: Desk, bundle: Path, cache: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    words = ["configure", "-p", str(base), "--url", desk.url, "--code-file", "-", "--cloud", "none", "--no-service"]
    for expected in (f"wrote {base}/bin/paddock-agent.pyz", "nothing changed"):
        done = await asyncio.to_thread(
            subprocess.run, [*BARE, str(bundle), *words], input=CODE, capture_output=True, text=True, check=True
        )
        assert expected in done.stdout
    assert same(base / "bin/paddock-agent.pyz", bundle)
    unit = (base / "etc/paddock-agent.service").read_text()
    assert f"ExecStart={sys.executable} -I {base}/bin/paddock-agent.pyz run --config {base}/etc/agent.conf" in unit
    # It finds its configuration by where it lies.
    installed = [*BARE, str(base / "bin/paddock-agent.pyz")]
    child = await asyncio.create_subprocess_exec(*installed, "run", stderr=asyncio.subprocess.PIPE)
    await desk.here()
    stopped = await asyncio.to_thread(subprocess.run, [*installed, "stop"], capture_output=True, text=True, check=True)
    assert f"process {child.pid} is gone" in stopped.stdout
    assert await child.wait() == 0


@pytest.mark.slow
def test_a_bundle_makes_no_bundle(bundle: Path, cache: Path, tmp_path: Path) -> None:
    done = subprocess.run([*BARE, str(bundle), "bundle", "-o", str(tmp_path / "x")], capture_output=True, check=False)
    assert done.returncode == 3
    assert b"this is a bundle itself" in done.stderr
    shutil.rmtree(cache)
