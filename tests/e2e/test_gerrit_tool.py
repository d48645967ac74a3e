"""The real Gerrit that the large tests stand on: fetched as pinned, started, spoken to, ended."""

import json
import os
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tools import gerrit as tool
from tools.gerrit import Gerrit

PROJECT = "openstack-dev/ci-sandbox"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Maven that does what the test writes into it, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    maven = tmp_path / "mvn"
    maven.touch(mode=0o755)
    return maven


def test_a_jar_with_another_digest_is_refused_and_not_kept(registry: Path, tmp_path: Path) -> None:
    registry.write_text(f"#!/bin/sh\necho forged >gerrit-plugin-api-{tool.VERSION}.jar\n")
    coordinates = f"com.google.gerrit:gerrit-plugin-api:{tool.VERSION}"
    with pytest.raises(tool.Failed, match="is pinned"):
        tool._jar(coordinates, tool.JARS[coordinates])
    assert not list((tmp_path / "cache").rglob("*.jar"))


def test_a_registry_that_does_not_answer_makes_it_unavailable_in_its_own_words(registry: Path) -> None:
    registry.write_text("#!/bin/sh\necho '[ERROR] Could not find artifact'\nexit 1\n")
    coordinates = f"com.google.gerrit:gerrit-plugin-api:{tool.VERSION}"
    with pytest.raises(tool.Unavailable, match="Could not find artifact"):
        tool._jar(coordinates, tool.JARS[coordinates])


def test_a_war_that_is_not_there_makes_it_unavailable(tmp_path: Path) -> None:
    with pytest.raises(tool.Unavailable, match=r"(not a file|java)"):
        tool.fetch(tmp_path / "gerrit.war")


@pytest.mark.e2e
@pytest.mark.timeout(900)
class TestRunning:
    async def test_a_service_account_hears_a_push_and_a_comment_over_ssh(self, gerrit: Gerrit) -> None:
        robot = gerrit.accounts[tool.ROBOT]
        host_key = asyncssh.import_public_key(gerrit.host_key)
        async with (
            asyncssh.connect(
                gerrit.host,
                gerrit.ssh_port,
                username=robot.name,
                client_keys=[str(robot.key)],
                known_hosts=([host_key], [], []),
                config=None,
            ) as connection,
            connection.create_process("gerrit stream-events") as stream,
        ):
            gerrit.create_project(PROJECT)
            change = gerrit.push(PROJECT, files={"greeting": "hello\n"}, subject="Greet")
            gerrit.comment(change, "my-ci recheck")
            heard: list[dict[str, Any]] = []
            while not heard or heard[-1]["type"] != "comment-added":
                heard.append(json.loads(await stream.stdout.readline()))
        created = next(event for event in heard if event["type"] == "patchset-created")
        assert created["change"]["number"] == change.number
        assert created["patchSet"]["revision"] == change.revision
        assert heard[-1]["comment"].endswith("my-ci recheck")
        assert heard[-1]["author"]["username"] == tool.PERSON

    def test_an_amended_change_keeps_its_number_and_gets_the_next_patch_set(self, gerrit: Gerrit) -> None:
        gerrit.create_project(PROJECT)
        first = gerrit.push(PROJECT, files={"one": "1\n"}, subject="One")
        second = gerrit.push(PROJECT, files={"one": "2\n"}, subject="One", amends=first)
        assert (second.number, second.patchset) == (first.number, first.patchset + 1)
        assert second.ref == f"refs/changes/{first.number % 100:02}/{first.number}/2"

    def test_messages_name_their_author_and_votes_start_empty(self, gerrit: Gerrit) -> None:
        gerrit.create_project(PROJECT)
        change = gerrit.push(PROJECT, files={"two": "2\n"}, subject="Two")
        gerrit.comment(change, "looks odd")
        last = gerrit.messages(change)[-1]
        assert (last.author, last.tag, last.patchset) == (tool.PERSON, "", 1)
        assert last.text.endswith("looks odd")
        assert gerrit.votes(change) == {}
        assert gerrit.reports(change) == []

    def test_it_starts_again_on_the_same_ports_and_leaves_no_process(self) -> None:
        try:
            with tool.running() as other:
                before = (other.url, other.ssh_port, other.pid)
                other.kill()
                other.start()
                assert (other.url, other.ssh_port) == before[:2]
                pid = other.pid
        except tool.Unavailable as exc:
            pytest.skip(str(exc))
        assert pid is not None
        assert not Path(f"/proc/{pid}").exists()
        assert not other.site.exists()
