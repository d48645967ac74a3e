"""file.put, file.get, file.collect on a machine: nothing leaves its directory, odd names are refused by name."""

import base64
import hashlib
import os
import pwd
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.entry import Outcome
from paddock.agent.skills import files, puts
from paddock.agent.skills.skill import Call, Place, Read, Work
from paddock.core.errors import PaddockError, Refused
from paddock.wire import methods
from paddock.wire.fields import BadParams
from paddock.wire.framing import JSON


class Files:
    """The skill on a machine in a directory."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.state = work.parent / "state"
        self._place = Place(
            work=work, temporary=work.parent, tasks=work.parent, state=self.state, environment="E", machine="one"
        )
        self._deeds = files.methods(self._place)

    def _call(self, method: str, params: Mapping[str, Any]) -> Call:
        checked = methods.check(method, params)
        return Call(task="t", method=method, params=checked, environment="", fence=0, directory=self.work.parent)

    async def put(self, path: str, data: bytes, **more: Any) -> Outcome:
        deed = self._deeds["file.put"]
        assert isinstance(deed, Work)
        encoded = base64.b64encode(data).decode()
        return await deed.act(self._call("file.put", {"path": path, "data": encoded, **more}))

    async def piece(self, path: str, whole: bytes, offset: int, data: bytes, **more: Any) -> Outcome:
        digest = hashlib.sha256(whole).hexdigest()
        return await self.put(path, data, offset=offset, **{"total": len(whole), "sha256": digest, **more})

    async def send(self, path: str, **more: Any) -> Outcome:
        deed = self._deeds["file.send"]
        assert isinstance(deed, Work)
        return await deed.act(self._call("file.send", {"path": path, **more}))

    def parts(self) -> list[Path]:
        return list((self.state / "file").iterdir()) if (self.state / "file").exists() else []

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
    digest = hashlib.sha256(b"hello").hexdigest()
    assert outcome.result == {"size": 5, "sha256": digest, "have": 5, "complete": True}
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
    assert found["data"] == base64.b64encode(b"345").decode()
    assert (found["size"], found["sha256"]) == (8, hashlib.sha256(b"345").hexdigest())
    assert (found["mode"], found["uid"]) == (0o644, os.geteuid())
    assert found["version"] == (await skill.get("a"))["version"]
    await skill.put("a", b"abcdefgh")
    assert found["version"] != (await skill.get("a"))["version"]


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


# ---- in pieces -------------------------------------------------------------------------------------------------------

WHOLE = bytes(range(256)) * 40


async def test_a_file_in_pieces_is_seen_only_when_it_is_whole(skill: Files) -> None:
    await skill.put("big", b"old")
    assert (await skill.piece("big", WHOLE, 0, b"")).result == {"have": 0, "complete": False}
    assert (await skill.piece("big", WHOLE, 0, WHOLE[:6000])).result == {"have": 6000, "complete": False}
    assert (skill.work / "big").read_bytes() == b"old"
    assert sorted(os.listdir(skill.work)) == ["big", "results"]
    done = await skill.piece("big", WHOLE, 6000, WHOLE[6000:], mode=0o640)
    assert done.result["complete"] is True
    assert done.result["sha256"] == hashlib.sha256(WHOLE).hexdigest()
    assert (skill.work / "big").read_bytes() == WHOLE
    assert (skill.work / "big").stat().st_mode & 0o7777 == 0o640
    assert skill.parts() == []


async def test_pieces_go_on_after_a_restart_where_they_were(skill: Files) -> None:
    await skill.piece("big", WHOLE, 0, WHOLE[:100])
    born_again = Files(skill.work)
    assert (await born_again.piece("big", WHOLE, 0, b"")).result["have"] == 100
    done = await born_again.piece("big", WHOLE, 100, WHOLE[100:])
    assert done.result["complete"] is True
    assert (skill.work / "big").read_bytes() == WHOLE


async def test_a_piece_after_a_gap_is_not_taken_and_one_again_does_no_harm(skill: Files) -> None:
    await skill.piece("big", WHOLE, 0, WHOLE[:100])
    assert (await skill.piece("big", WHOLE, 500, WHOLE[500:])).result == {"have": 100, "complete": False}
    assert (await skill.piece("big", WHOLE, 50, WHOLE[50:80])).result == {"have": 100, "complete": False}
    await skill.piece("big", WHOLE, 50, WHOLE[50:])
    assert (skill.work / "big").read_bytes() == WHOLE


async def test_the_last_piece_again_finds_the_file_as_it_should_be(skill: Files) -> None:
    await skill.piece("big", WHOLE, 0, WHOLE)
    before = (skill.work / "big").stat()
    again = await skill.piece("big", WHOLE, 0, b"")
    assert again.result["complete"] is True
    assert (skill.work / "big").stat() == before
    assert skill.parts() == []


async def test_pieces_with_another_digest_leave_nothing(skill: Files) -> None:
    await skill.put("big", b"old")
    with pytest.raises(Refused, match="its pieces are thrown away"):
        await skill.piece("big", WHOLE, 0, WHOLE[::-1])
    assert (skill.work / "big").read_bytes() == b"old"
    assert skill.parts() == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"sha256": ""}, "needs the sha256"),
        ({"owner": "no-such-user"}, "user no-such-user: unknown"),
        ({"group": "no-such-group"}, "group no-such-group: unknown"),
        ({"owner": str((1 << 32) - 1)}, "is no number"),
        ({"offset": 10**9}, "after total"),
        ({"total": 1 << 60}, "has room for"),
    ],
)
async def test_a_piece_is_refused_before_anything_is_touched(skill: Files, more: dict[str, Any], why: str) -> None:
    params: dict[str, Any] = {"total": len(WHOLE), "sha256": hashlib.sha256(WHOLE).hexdigest(), **more}
    params = {name: value for name, value in params.items() if value != ""}
    with pytest.raises(Refused, match=why):
        await skill.put("deep/down/big", b"x", **params)
    assert [part.stat().st_size for part in skill.parts()] in ([], [0])
    assert not (skill.work / "deep").exists()


@pytest.mark.parametrize(
    ("path", "more", "why"),
    [
        ("deep/down/file", {"sha256": "0" * 64}, "would be"),
        ("deep/down/file", {"offset": 5}, "does not exist"),
        ("there", {"offset": 5}, "shorter than offset 5"),
        ("deep/down/" + 128 * "é", {}, "more than 255 bytes"),
    ],
)
async def test_a_whole_is_refused_before_anything_is_touched(
    skill: Files, path: str, more: dict[str, Any], why: str
) -> None:
    (skill.work / "there").write_bytes(b"old")
    with pytest.raises(PaddockError, match=why):
        await skill.put(path, b"x", **more)
    assert sorted(found.name for found in skill.work.rglob("*")) == ["results", "there"]


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_name_may_be_as_long_as_the_file_system_takes(skill: Files, *, in_pieces: bool) -> None:
    name = 127 * "é"
    for data in (b"one", b"two"):
        await (skill.piece(name, data, 0, data) if in_pieces else skill.put(name, data))
        assert (skill.work / name).read_bytes() == data
    assert sorted(found.name for found in skill.work.iterdir()) == ["results", name]


async def test_where_no_file_reaches_nothing_is_read(skill: Files) -> None:
    await skill.put("there", b"x")
    assert (await skill.get("there", offset=1 << 53))["data"] == ""
    with pytest.raises(BadParams, match=r"params\.offset"):
        await skill.get("there", offset=(1 << 63) - 1)


async def test_parts_that_nobody_finished_are_removed(skill: Files) -> None:
    place = Place(work=skill.work, temporary=skill.work, tasks=skill.work, state=skill.state)
    await skill.piece("young", WHOLE, 0, b"x")
    await skill.piece("old", WHOLE, 0, b"x")
    old = max(skill.parts(), key=lambda part: part.stat().st_mtime_ns)
    os.utime(old, (0, 0))
    assert puts.expire(place, now=time.time()) == 1
    assert not old.exists()
    assert len(skill.parts()) == 1


async def test_a_link_in_place_of_a_part_is_not_written_through(skill: Files, tmp_path: Path) -> None:
    await skill.piece("big", WHOLE, 0, b"x")
    (part,) = skill.parts()
    part.unlink()
    part.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):  # noqa: PT011 - ELOOP, as the kernel words it
        await skill.piece("big", WHOLE, 0, WHOLE)
    assert not (tmp_path / "victim").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_owner_and_group_are_those_that_were_asked(skill: Files) -> None:
    await skill.put("a", b"x", owner="65534", group="65534", mode=0o4755)
    found = (skill.work / "a").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (65534, 65534, 0o4755)
    await skill.piece("b", WHOLE, 0, WHOLE, owner="nobody", mode=0o600)
    assert (skill.work / "b").stat().st_uid == pwd.getpwnam("nobody").pw_uid


async def test_who_is_not_root_gives_no_files_away(skill: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Refused, match="only root"):
        await skill.put("a", b"x", owner="0")
    assert not (skill.work / "a").exists()


async def test_a_put_that_was_killed_leaves_nothing_for_the_next_one(skill: Files) -> None:
    (skill.work / puts._name_of(skill.work / "a")).write_text("half of it")
    await skill.put("a", b"whole")
    assert sorted(os.listdir(skill.work)) == ["a", "results"]


# ---- sent whole ------------------------------------------------------------------------------------------------------


async def test_a_whole_file_is_a_stream_with_its_digest(skill: Files) -> None:
    await skill.put("a", WHOLE)
    outcome = await skill.send("a")
    assert outcome.result["sha256"] == hashlib.sha256(WHOLE).hexdigest()
    assert {name: stream.length for name, stream in outcome.streams.items()} == {"file": len(WHOLE)}
    assert Path(outcome.streams["file"].path) == skill.work / "a"
    with pytest.raises(Refused, match="size_limit"):
        await skill.send("a", size_limit=10)


@pytest.mark.slow
async def test_a_sparse_file_of_gigabytes_takes_little_memory(skill: Files) -> None:
    with (skill.work / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    tracemalloc.start()
    outcome = await skill.send("sparse")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome.result["size"] == 1 << 30
    assert peak < 8 << 20
