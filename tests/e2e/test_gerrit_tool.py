"""The real Gerrit that the large tests stand on: fetched as pinned, started, spoken to, ended."""

import json
import subprocess
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tools import gerrit as tool
from tools.gerrit import Gerrit

PROJECT = "openstack-dev/ci-sandbox"


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

    def test_anybody_on_the_machine_fetches_a_patch_set(self, gerrit: Gerrit, tmp_path: Path) -> None:
        gerrit.create_project(PROJECT)
        change = gerrit.push(PROJECT, files={"three": "3\n"}, subject="Three")
        url = gerrit.sources.format(project=PROJECT)
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        subprocess.run(["git", "-C", str(tmp_path), "fetch", "-q", url, change.ref], check=True, timeout=60)
        shown = subprocess.run(
            ["git", "-C", str(tmp_path), "rev-parse", "FETCH_HEAD"], check=True, capture_output=True, text=True
        )
        assert shown.stdout.strip() == change.revision
