"""What a machine needs to become a host: the agent in one file, and the script that installs it."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from paddock.core.errors import Missing
from paddock.hands.pins import Pins
from paddock.web.kit import ARCHIVE, Kit, one_liner, script
from tests.web.scene import OPERATOR, Scene

PINS = Pins(certificate="ab" * 32, key="sha256//YWJj")
DIGEST = hashlib.sha256(b"the agent").hexdigest()


async def test_the_archive_is_offered_with_its_digest(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"/agent/{ARCHIVE}")
    assert (answer.status_code, answer.content) == (200, b"the agent")
    assert answer.headers["x-checksum-sha256"] == DIGEST
    assert (await client.get(f"/agent/{ARCHIVE}.sha256")).text == f"{DIGEST}  {ARCHIVE}\n"
    again = await client.get(f"/agent/{ARCHIVE}", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["paddock-agent-x86_64", "paddock-agent-mips.sha256"])
async def test_a_standalone_agent_that_nobody_put_there_is_missing_with_what_to_do(
    client: httpx.AsyncClient, name: str
) -> None:
    answer = await client.get(f"/agent/{name}")
    assert answer.status_code == 404
    told = answer.json()["error"]
    assert told["message"] == f"{name.removesuffix('.sha256')}: is not here"
    assert "paddock agent bundle --standalone --output" in told["hint"]


@pytest.mark.parametrize("name", ["operator.token", "..%2foperator.token", "paddock-agent-..", "paddock-agent.pyz.pyz"])
async def test_nothing_else_is_offered(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/agent/{name}")).status_code == 404


async def test_what_an_operator_put_there_goes_before_what_is_made(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return b"made"

    kit = Kit(tmp_path / "agent", make)
    assert [(one.name, one.content) for one in await kit.all()] == [(ARCHIVE, b"made")]
    await kit.find(ARCHIVE)
    assert made == [1]
    (tmp_path / "agent").mkdir()
    for name in (ARCHIVE, "paddock-agent-aarch64", "other", "paddock-agent-a.b"):
        (tmp_path / "agent" / name).write_bytes(name.encode())
    assert [one.content for one in await kit.all()] == [b"paddock-agent-aarch64", ARCHIVE.encode()]
    (tmp_path / "agent" / ARCHIVE).write_bytes(b"a newer one")
    assert (await kit.find(ARCHIVE)).sha256 == hashlib.sha256(b"a newer one").hexdigest()
    with pytest.raises(Missing):
        await kit.find("paddock-agent-x86_64")


async def test_the_script_is_for_everybody_and_names_this_server(client: httpx.AsyncClient, scene: Scene) -> None:
    answer = await client.get("/enrol")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert f"{ARCHIVE} {DIGEST}" in answer.text
    assert "\nserver=https://ci.example.org\nagents=wss://ci.example.org/agent\n" in answer.text
    assert "@" not in answer.text.replace('"$@"', "")


async def test_a_code_comes_with_the_line_that_uses_it(asking, scene: Scene) -> None:
    async with asking(OPERATOR) as operator:
        made = (await operator.post("/api/v1/enrolments", json={"host": "local", "ttl": 60})).json()
    assert made["command"] == f"curl -fsS https://ci.example.org/enrol | sh -s -- {made['code']}"


async def test_a_host_of_virtual_machines_is_told_the_skill_that_it_would_not_have(asking) -> None:
    async with asking(OPERATOR) as operator:
        made = (await operator.post("/api/v1/enrolments", json={"host": "vm-1", "ttl": 60})).json()
    assert made["skills"] == ["hypervisor"]
    assert made["command"].endswith(f"/enrol | sh -s -- {made['code']} --skills hypervisor")


def test_a_certificate_that_nobody_signed_is_pinned_in_the_line_and_in_the_script() -> None:
    line = one_liner("https://ci.example.org", PINS, "c0de")
    assert line == "curl -fsS -k --pinnedpubkey 'sha256//YWJj' https://ci.example.org/enrol | sh -s -- c0de"
    text = script("https://ci.example.org", PINS, [f"{ARCHIVE} {DIGEST}"])
    assert f"\ncertificate={'ab' * 32}\nkey=sha256//YWJj\ninsecure=\n" in text


def test_a_server_in_clear_says_so_to_the_agent() -> None:
    assert "\ninsecure=yes\n" in script("http://ci.example.org", None, [])
    assert "\ninsecure=\n" in script("http://127.0.0.1:8080", None, [])


@pytest.mark.parametrize("tool", [("shellcheck", "-s", "sh"), ("dash", "-n")])
@pytest.mark.parametrize("pins", [PINS, None])
def test_the_script_is_clean(tool: tuple[str, ...], pins: Pins | None, tmp_path: Path) -> None:
    if shutil.which(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    file = tmp_path / "enrol.sh"
    file.write_text(script("https://ci.example.org", pins, [f"{ARCHIVE} {DIGEST}"]))
    done = subprocess.run([*tool, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("length", range(100, 6000, 700))
def test_half_a_script_does_nothing(length: int) -> None:
    """The line pipes it into a shell, which begins before the end has come."""
    text = script("https://ci.example.org", None, [f"{ARCHIVE} {DIGEST}"])
    assert text.rstrip().endswith('main "$@"')
    half = text[: min(length, len(text) - 10)]
    done = subprocess.run(["sh", "-s", "--", "c0de"], input=half, capture_output=True, text=True, check=False)
    assert "fetching" not in done.stderr
    assert done.stdout == ""
