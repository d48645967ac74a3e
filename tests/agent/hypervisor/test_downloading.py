"""Downloads and what is in them: whole and right, or nothing; gone on with where they were cut off."""

import asyncio
import gzip
import hashlib
import lzma
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from paddock.agent.skills.hypervisor.images import downloading, unpacking
from paddock.agent.skills.hypervisor.images.downloading import Half
from paddock.agent.skills.hypervisor.stopping import Stop, stoppable
from paddock.core.errors import Broken, PaddockError, Refused
from tests.agent.hypervisor.builders import Files, serving

pytestmark = pytest.mark.slow

KIB, MIB = 1 << 10, 1 << 20
BODY = os.urandom(3 * MIB)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    monkeypatch.setattr(downloading, "_PAUSES", (0.0, 0.0))
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving(content={"image": BODY}) as served:
        yield served


def fetch(files: Files, tmp_path: Path, *, path: str = "image", sha256: str = DIGEST) -> tuple[str, Half]:
    told: list[int] = []
    found = downloading.download(
        f"{files.url}/{path}",
        sha256=sha256,
        directory=tmp_path / "halves",
        told=lambda done, total: told.append(done),
        stop=Stop(),
    )
    assert told
    return found


def test_a_file_is_had_with_its_digest(files: Files, tmp_path: Path) -> None:
    digest, half = fetch(files, tmp_path, sha256="")

    assert digest == DIGEST
    assert half.data.read_bytes() == BODY


def test_what_is_cut_off_is_gone_on_with(files: Files, tmp_path: Path) -> None:
    files.cut = [MIB, MIB]

    assert fetch(files, tmp_path)[0] == DIGEST
    assert files.asked == ["", f"bytes={MIB}-", f"bytes={2 * MIB}-"]


def test_what_comes_in_chunks_is_gone_on_with_to_the_end_of_its_part(files: Files, tmp_path: Path) -> None:
    files.is_chunked, files.cut = True, [MIB, MIB]

    assert fetch(files, tmp_path)[0] == DIGEST
    assert files.asked == ["", f"bytes={MIB}-", f"bytes={2 * MIB}-"]


def test_a_part_that_has_more_than_it_says_is_refused_and_not_gone_on_with(files: Files, tmp_path: Path) -> None:
    files.is_chunked, files.cut, files.surplus = True, [MIB], b"more"
    with pytest.raises(Refused, match=f"has more than {3 * MIB} bytes"):
        fetch(files, tmp_path)

    files.surplus = b""
    assert fetch(files, tmp_path)[0] == DIGEST
    assert files.asked == ["", f"bytes={MIB}-", ""]


def test_a_half_is_gone_on_with_by_the_next_process(files: Files, tmp_path: Path) -> None:
    files.cut = [2 * MIB, 0, 0, 0]
    with pytest.raises(Broken, match=f"ended after {2 * MIB} of {3 * MIB} bytes"):
        fetch(files, tmp_path)

    assert fetch(files, tmp_path)[0] == DIGEST
    assert files.asked[-1] == f"bytes={2 * MIB}-"


def test_a_half_of_what_has_changed_since_is_begun_anew(files: Files, tmp_path: Path) -> None:
    files.cut = [2 * MIB, 0, 0, 0]
    with pytest.raises(Broken):
        fetch(files, tmp_path)
    files.content["image"], files.etag = b"another" * MIB, '"2"'

    digest, half = fetch(files, tmp_path, sha256="")

    assert digest == hashlib.sha256(b"another" * MIB).hexdigest()
    assert half.data.stat().st_size == 7 * MIB


def test_a_half_without_an_etag_or_a_date_is_begun_anew(files: Files, tmp_path: Path) -> None:
    files.etag = ""
    files.cut = [MIB]

    assert fetch(files, tmp_path)[0] == DIGEST
    assert files.asked == ["", ""]


def test_what_was_whole_before_the_agent_died_is_not_fetched_again(files: Files, tmp_path: Path) -> None:
    fetch(files, tmp_path)
    told: list[int] = []

    digest, _ = downloading.download(
        f"{files.url}/image",
        sha256=DIGEST,
        directory=tmp_path / "halves",
        told=lambda done, total: told.append(done),
        stop=Stop(),
    )

    assert (digest, told, files.asked[-1]) == (DIGEST, [], f"bytes={3 * MIB}-")


def test_a_wrong_checksum_leaves_nothing(files: Files, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=f"its sha256 is {DIGEST}, not {'0' * 64}"):
        fetch(files, tmp_path, sha256="0" * 64)

    assert os.listdir(tmp_path / "halves") == []


def test_a_half_that_was_damaged_on_the_disk_is_found_out(files: Files, tmp_path: Path) -> None:
    files.cut = [2 * MIB, 0, 0, 0]
    with pytest.raises(Broken):
        fetch(files, tmp_path)
    (half,) = (tmp_path / "halves").glob("*.part")
    with half.open("r+b") as file:
        file.write(b"damaged")

    with pytest.raises(Refused, match="its sha256 is"):
        fetch(files, tmp_path)


def test_an_end_that_nobody_can_tell_from_a_cut_is_refused(files: Files, tmp_path: Path) -> None:
    files.has_length = False

    with pytest.raises(Refused, match="does not say how long it is") as refused:
        fetch(files, tmp_path, sha256="")

    assert refused.value.hint == "give its sha256"
    assert fetch(files, tmp_path)[0] == DIGEST


def test_a_server_that_is_ill_for_a_moment_is_asked_again(files: Files, tmp_path: Path) -> None:
    files.codes = [503, 500]

    assert fetch(files, tmp_path)[0] == DIGEST


def test_a_server_that_does_not_have_it_is_not_asked_again(files: Files, tmp_path: Path) -> None:
    files.codes = [404]

    with pytest.raises(Broken, match="its server says 404"):
        fetch(files, tmp_path)
    assert files.counted["image"] == 1


def test_nobody_there_is_said_so(files: Files, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        files.url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(Broken, match="Connection refused"):
            fetch(files, tmp_path)


def test_a_redirection_is_followed_but_not_out_of_http(files: Files, tmp_path: Path) -> None:
    files.redirect = {"here": "/image", "there": "ftp://127.0.0.1/image", "file": "file:///etc/passwd"}

    assert fetch(files, tmp_path, path="here")[0] == DIGEST
    for path in ("there", "file"):
        with pytest.raises(PaddockError):
            fetch(files, tmp_path, path=path)


def test_a_proxy_is_asked_where_the_environment_names_one(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", files.url)
    files.content["http://images.example/image"] = BODY
    proxied = Files(url="http://images.example")

    assert fetch(proxied, tmp_path)[0] == DIGEST
    assert files.counted["http://images.example/image"] == 1


@pytest.mark.parametrize(
    "url",
    ["ftp://h/i", "file:///etc/passwd", "http://user:secret@h/i", "http:///i", "h/i", "http://[h/i", "https://h:x/"],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    assert downloading.objection(url)


async def test_a_download_that_is_cancelled_ends_at_once_and_keeps_its_half(files: Files, tmp_path: Path) -> None:
    files.hang, some = threading.Event(), threading.Event()
    job = asyncio.create_task(
        stoppable(
            lambda stop: downloading.download(
                f"{files.url}/image",
                sha256=DIGEST,
                directory=tmp_path,
                told=lambda done, total: some.set(),
                stop=stop,
            )
        )
    )
    assert await asyncio.to_thread(some.wait, 10)
    job.cancel()
    async with asyncio.timeout(5):
        with suppress(asyncio.CancelledError):
            await job
    files.hang.set()
    files.hang = None

    assert job.cancelled()
    found = downloading.download(
        f"{files.url}/image", sha256=DIGEST, directory=tmp_path, told=lambda done, total: None, stop=Stop()
    )
    assert found[0] == DIGEST
    assert files.asked[-1].startswith("bytes=")


def test_halves_are_few_and_not_old(tmp_path: Path) -> None:
    now = 1e9
    for number in range(downloading.KEPT + 2):
        half = Half.of(f"http://h/{number}", tmp_path)
        half.data.touch()
        half.about.write_text("{}")
        os.utime(half.data, (now - number, now - number))
    old = Half.of("http://h/0", tmp_path)
    os.utime(old.data, (now - 8 * 86400, now - 8 * 86400))
    Half.of("http://h/lone", tmp_path).about.write_text("{}")

    downloading.sweep(tmp_path, now)

    assert len(list(tmp_path.glob("*.part"))) == downloading.KEPT
    assert len(list(tmp_path.glob("*.json"))) == downloading.KEPT
    assert not old.data.exists()


# ---- unpacked --------------------------------------------------------------------------------------------------------

DISK = os.urandom(MIB) + bytes(20 * MIB) + os.urandom(300 * KIB) + bytes(3 * MIB + 77)


def zstd(data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("there is no zstd here; ./dev host-setup installs it")
    return subprocess.run(["zstd", "-cq"], input=data, stdout=subprocess.PIPE, check=True).stdout


PACKED = {"gz": cache(gzip.compress), "xz": cache(lambda data: lzma.compress(data, preset=0)), "zst": cache(zstd)}


def unpack(path: Path, most: int = 1 << 40) -> Path:
    target = path.with_name("unpacked")
    target.unlink(missing_ok=True)
    unpacking.unpack("image i", path, unpacking.kind_of(path), target, most=most, stop=Stop())
    return target


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_disk_is_unpacked_with_its_holes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "packed"
    path.write_bytes(PACKED[kind](DISK))

    assert unpacking.kind_of(path) == kind
    assert unpack(path).read_bytes() == DISK
    assert unpack(path).stat().st_blocks * 512 < 3 * MIB


@pytest.mark.parametrize("kind", PACKED)
def test_several_packed_parts_are_one_disk(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "packed"
    path.write_bytes(PACKED[kind](DISK[:MIB]) + PACKED[kind](DISK[MIB:]))

    assert unpack(path).read_bytes() == DISK


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("at", [0.1, 0.9, 0.999])
def test_a_packed_disk_that_is_cut_off_is_broken(tmp_path: Path, kind: str, at: float) -> None:
    path, packed = tmp_path / "packed", PACKED[kind](DISK)
    path.write_bytes(packed[: int(len(packed) * at)])

    with pytest.raises(Broken, match="image i: is "):
        unpack(path)


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_disk_that_is_damaged_is_broken(tmp_path: Path, kind: str) -> None:
    path, packed = tmp_path / "packed", bytearray(PACKED[kind](DISK))
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(packed)

    with pytest.raises(Broken, match="image i: is no whole"):
        unpack(path)


@pytest.mark.parametrize("kind", PACKED)
def test_a_bomb_is_refused_when_it_is_too_large(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "packed"
    path.write_bytes(PACKED[kind](bytes(64 * MIB)))

    with pytest.raises(Refused, match=f"unpacked it has more than {8 * MIB} bytes"):
        unpack(path, most=8 * MIB)


def test_a_zstd_image_is_refused_before_it_is_fetched_where_nothing_unpacks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("paddock.agent.skills.tools._PATH", "/nowhere")

    with pytest.raises(Refused, match="zstd: is not installed") as refused:
        unpacking.check("https://h/debian.raw.zst?version=12")
    assert "gz or xz" in refused.value.hint
    unpacking.check("https://h/debian.raw.xz")
