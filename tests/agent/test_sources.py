"""sources.checkout with a real git and a repository on disk."""

import os
import subprocess
from pathlib import Path

import pytest

from paddock.agent.skills import sources
from paddock.agent.skills.skill import Call, Place
from paddock.core.errors import Refused
from paddock.wire.messages import Code
from tests.agent.conftest import Host
from tests.agent.desk import Desk

GIT = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
NAME = ("-c", "user.name=x", "-c", "user.email=x@example.org")


def git(directory: Path, *words: str) -> str:
    done = subprocess.run(["git", *NAME, *words], cwd=directory, env=GIT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = tmp_path / "repository"
    made.mkdir()
    git(made, "init", "-q", "-b", "master")
    (made / "file").write_text("one\n")
    git(made, "add", ".")
    git(made, "commit", "-q", "-m", "one")
    git(made, "update-ref", "refs/changes/21/189221/1", "HEAD")
    return made


@pytest.mark.slow
async def test_a_change_is_checked_out_and_its_revision_said(desk: Desk, host: Host, repository: Path) -> None:
    host.start()
    revision = git(repository, "rev-parse", "HEAD")
    params = {"url": str(repository), "ref": "refs/changes/21/189221/1", "revision": revision, "path": "src"}
    for name in ("c1", "again"):
        await desk.ask(desk.command(name, "sources.checkout", **params))
        status = await desk.final(name)
        assert (status.state, status.result) == ("complete", {"revision": revision})
        assert (host.state / "work" / "src" / "file").read_text() == "one\n"
        assert b"HEAD is now at" in await desk.whole(name)
        (host.state / "work" / "src" / "file").write_text("spoiled")
        (host.state / "work" / "src" / "new").write_text("spoiled")
        hook = host.state / "work" / "src" / ".git" / "hooks" / "post-checkout"
        hook.write_text(f"#!/bin/sh\ntouch {host.state}/pwned\n")
        hook.chmod(0o755)
    assert not (host.state / "pwned").exists()


@pytest.mark.slow
async def test_another_revision_than_asked_for_is_a_failure(desk: Desk, host: Host, repository: Path) -> None:
    host.start()
    params = {"url": str(repository), "ref": "refs/changes/21/189221/1", "revision": "0" * 40, "path": "src"}
    await desk.ask(desk.command("c1", "sources.checkout", **params))
    status = await desk.final("c1")
    assert status.code is Code.FAILED
    assert "not 0000" in (status.msg or "")
    await desk.ask(desk.command("c2", "sources.checkout", **{**params, "ref": "refs/changes/99/1/1"}))
    assert (await desk.final("c2")).code is Code.FAILED
    assert b"couldn't find remote ref" in await desk.whole("c2")


@pytest.mark.parametrize("ref", ["--upload-pack=touch x", "+refs/heads/a", "a:refs/heads/b", "a b", "a..b", "^a"])
def test_what_is_no_ref_is_refused(tmp_path: Path, ref: str) -> None:
    with pytest.raises(Refused):
        sources.prepare(_place(tmp_path), _call(tmp_path, url="https://example.org/x", ref=ref))


@pytest.mark.parametrize("url", ["--upload-pack=touch x", "ext::sh -c touch% x", "fd::17"])
def test_what_is_no_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(Refused):
        sources.prepare(_place(tmp_path), _call(tmp_path, url=url, ref="master"))


def _place(work: Path) -> Place:
    return Place(work=work, temporary=work, tasks=work)


def _call(work: Path, **params: str) -> Call:
    return Call(
        task="t",
        method="sources.checkout",
        params={"path": "src", **params},
        environment="",
        fence=0,
        directory=work,
    )
