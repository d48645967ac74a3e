"""file.put, file.get, file.collect on a machine: nothing leaves its directory, odd names are refused by name."""

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.entry import Outcome
from paddock.agent.skills import files
from paddock.agent.skills.skill import Call, Place, Read, Work
from paddock.core.errors import PaddockError, Refused
from paddock.wire import methods
from paddock.wire.framing import JSON


class Files:
    """The skill on a machine in a directory."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._place = Place(work=work, temporary=work.parent, tasks=work.parent, environment="E", machine="one")
        self._deeds = files.methods(self._place)

    def _call(self, method: str, params: Mapping[str, Any]) -> Call:
        checked = methods.check(method, params)
        return Call(task="t", method=method, params=checked, environment="", fence=0, directory=self.work.parent)

    async def put(self, path: str, data: bytes, **more: Any) -> Outcome:
        deed = self._deeds["file.put"]
        assert isinstance(deed, Work)
        encoded = base64.b64encode(data).decode()
        return await deed.act(self._call("file.put", {"path": path, "data": encoded, **more}))

    async def get(self, path: str, **more: Any) -> Mapping[str, JSON]:
        deed = self._deeds["file.get"]
        assert isinstance(deed, Read)
        return await deed.answer(self._call("file.get", {"path": path, **more}))

    async def collect(self, *globs: str, root: str = "results", **more: Any) -> Outcome:
        deed = self._deeds["file.collect"]
        assert isinstance(deed, Work)
        return await deed.act(self._call("file.collect", {"root": root, "globs": list(globs), **more}))


@pytest.fixture
def skill(tmp_path: Path) -> Files:
    (tmp_path / "work" / "results").mkdir(parents=True)
    return Files(tmp_path / "work")


def why(outcome: Outcome) -> dict[str, str]:
    refused = outcome.result["refused"]
    assert isinstance(refused, list)
    return {one["path"]: one["why"] for one in refused}


async def test_a_file_is_put_whole_with_its_mode(skill: Files) -> None:
    outcome = await skill.put("a/b/c.txt", b"hello", mode=0o600)
    assert (skill.work / "a/b/c.txt").read_bytes() == b"hello"
    assert (skill.work / "a/b/c.txt").stat().st_mode & 0o777 == 0o600
    assert outcome.result == {"size": 5, "sha256": hashlib.sha256(b"hello").hexdigest()}
    assert os.listdir(skill.work / "a/b") == ["c.txt"]


async def test_pieces_are_put_one_after_the_other(skill: Files) -> None:
    await skill.put("big", b"12345")
    await skill.put("big", b"678", offset=3, sha256=hashlib.sha256(b"123678").hexdigest())
    assert (skill.work / "big").read_bytes() == b"123678"
    with pytest.raises(Refused):
        await skill.put("big", b"x", offset=100)


async def test_a_file_with_another_digest_is_not_put(skill: Files) -> None:
    await skill.put("a", b"old")
    with pytest.raises(Refused):
        await skill.put("a", b"new", sha256="0" * 64)
    assert (skill.work / "a").read_bytes() == b"old"
    assert sorted(os.listdir(skill.work)) == ["a", "results"]


@pytest.mark.parametrize("path", ["../out", "/etc/x", "a/../../out", "link/x", "results/../../x"])
async def test_nothing_is_put_outside_of_the_machine(skill: Files, path: str, tmp_path: Path) -> None:
    (skill.work / "link").symlink_to(tmp_path)
    with pytest.raises(PaddockError):
        await skill.put(path, b"x")
    assert sorted(os.listdir(tmp_path)) == ["work"]


async def test_a_link_is_replaced_and_not_written_through(skill: Files, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("safe")
    (skill.work / "a").symlink_to(tmp_path / "victim")
    await skill.put("a", b"mine")
    assert (tmp_path / "victim").read_text() == "safe"
    assert (skill.work / "a").read_bytes() == b"mine"


async def test_a_file_is_read_in_pieces(skill: Files) -> None:
    await skill.put("a", b"12345678")
    found = await skill.get("a", offset=2, length=3)
    assert found == {"data": base64.b64encode(b"345").decode(), "size": 8}


@pytest.mark.parametrize("path", ["nothing", "link", "pipe", "results", "../../etc/passwd"])
async def test_what_is_no_plain_file_is_not_read(skill: Files, path: str) -> None:
    (skill.work / "link").symlink_to("/etc/passwd")
    os.mkfifo(skill.work / "pipe")
    with pytest.raises(PaddockError):
        await skill.get(path)


async def test_files_that_match_are_streams_named_by_their_path(skill: Files) -> None:
    root = skill.work / "results"
    (root / "logs").mkdir()
    (root / "logs" / "a.log").write_bytes(b"12345")
    (root / "result.xml").write_bytes(b"123")
    (root / "other").write_bytes(b"1")
    outcome = await skill.collect("*.xml", "logs/**")
    assert outcome.result["files"] == [{"path": "logs/a.log", "size": 5}, {"path": "result.xml", "size": 3}]
    assert {name: stream.length for name, stream in outcome.streams.items()} == {"logs/a.log": 5, "result.xml": 3}
    assert outcome.result["refused"] == []


async def test_a_job_that_made_no_results_has_none(skill: Files) -> None:
    outcome = await skill.collect("**", root="nowhere")
    assert outcome.result == {"files": [], "refused": []}


async def test_links_and_odd_files_are_refused_by_name(skill: Files) -> None:
    root = skill.work / "results"
    (root / "passwd").symlink_to("/etc/passwd")
    (root / "etc").symlink_to("/etc")
    os.mkfifo(root / "pipe")
    (root / "bad\x1b[31mname").write_text("x")
    (root / "new\nline").write_text("x")
    os.close(os.open(os.fsencode(root) + b"/\xff\xfe", os.O_CREAT))
    (root / "good").write_text("x")
    outcome = await skill.collect("**")
    assert list(outcome.streams) == ["good"]
    found = why(outcome)
    assert found["passwd"] == found["etc"] == "is a symbolic link"
    assert found["pipe"] == "is no plain file"
    assert len(found) == 6
    assert all(path.isprintable() for path in found)


@pytest.mark.parametrize("root", ["..", "/etc", "link"])
async def test_the_root_does_not_leave_the_machine(skill: Files, root: str) -> None:
    (skill.work / "link").symlink_to("/etc")
    with pytest.raises(Refused):
        await skill.collect("**", root=root)


async def test_limits_are_reached_visibly(skill: Files) -> None:
    root = skill.work / "results"
    for name in "abcd":
        (root / name).write_bytes(bytes(100))
    large = await skill.collect("**", file_limit=60)
    assert large.streams["a"].length == 60
    assert why(large)["a"] == "cut at 60 of 100 bytes"
    total = await skill.collect("**", total_limit=250)
    assert list(total.streams) == ["a", "b"]
    assert why(total)["c"] == "more bytes in all than are taken"
    names = await skill.collect("**", names_limit=3)
    assert why(names) == {"d": "more files than are taken"}


@pytest.mark.slow
async def test_names_that_would_not_fit_into_a_message_are_refused(skill: Files) -> None:
    deep = skill.work / "results" / ("d" * 250) / ("e" * 250)
    deep.mkdir(parents=True)
    for number in range(1200):
        (deep / f"{number:05}{'n' * 200}").touch()
    outcome = await skill.collect("**")
    assert 0 < len(outcome.streams) < 1200
    assert outcome.result["refused"][-1]["path"] == "..."  # type: ignore[index,call-overload]
