"""An operator commands a host's agent: once by an id, followed while it runs, past kills and absences."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.client import Client, calls
from paddock.core.errors import NotOffered, PaddockError, Refused
from tests.story.house import ROOT, House

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def house(paddock: House) -> House:
    """A server and the agent of its host, connected."""
    paddock.configure("")
    paddock.start_server()
    paddock.start_agent()
    paddock.until(lambda: paddock.get("hosts/local")["state"] == "online", "the host is online")
    return paddock


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    # The token that `serve` writes is another one after each start.
    secret = house.post("tokens", name="anna", role="operator")["secret"]
    with Client(house.url, token=secret) as client:
        yield client


def victim(file: Path, rest: str = "") -> dict[str, Any]:
    """A script that counts itself in a file, durably, before it does anything else."""
    return {"run": f"echo ran >> {file}; sync {file}; {rest}"}


def runs(file: Path) -> int:
    """How often it ran."""
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_the_same_id_runs_once_whoever_repeats_it(house: House, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "victim"
    answers = []

    def ask() -> None:
        answers.append(client.order("local", "script.run", victim(file, "echo hello; exit 3"), id="once", wait=None))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(one.id, one.state, one.exit) for one in answers} == {("once", "complete", 3)}
    assert runs(file) == 1
    assert b"".join(client.output(answers[0])) == b"hello\n"
    with pytest.raises(Refused, match="this id was given to another command"):
        client.order("local", "script.run", victim(file), id="once")


def test_output_is_read_while_it_is_printed_and_a_cancel_ends_the_whole_tree(
    house: House, client: Client, tmp_path: Path
) -> None:
    script = 'echo began; sh -c "sleep 1000 & wait" & wait'
    command = client.order("local", "script.run", victim(tmp_path / "victim", script))
    pieces = client.output(command)
    assert next(pieces) == b"began\n"
    assert len(house.tasks()) >= 2
    house.post(f"agents/local/commands/{command.id}/cancel", grace=1)
    over = client.finish(command)
    assert (over.state, over.code) == ("failed", "cancelled")
    assert list(pieces) == []
    house.until(lambda: not house.tasks(), "nothing of it is left")


def test_a_method_that_nobody_has_is_refused_by_name_before_anything_is_queued(house: House, client: Client) -> None:
    with pytest.raises(NotOffered, match=r"agent local: it has no method script\.rum") as caught:
        client.order("local", "script.rum", {"run": "true"})
    assert "script.run" in caught.value.hint.split()
    assert house.get("agents/local/commands")["items"] == []


def test_an_agent_that_is_away_gets_it_when_it_is_back_unless_it_came_too_late(
    house: House, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "victim"
    house.kill(house.agent)
    house.until(lambda: not house.get("agents/local")["connected"], "the agent is away")
    waiting = client.order("local", "script.run", victim(file), id="later")
    dropped = client.order("local", "script.run", victim(file), id="never")
    house.post("agents/local/commands/never/cancel")
    assert waiting.state == "queued"
    house.start_agent()
    assert client.finish(waiting).state == "complete"
    assert (client.finish(dropped).code, runs(file)) == ("cancelled", 1)


def test_a_command_outlives_the_server_and_its_agent(house: House, client: Client, tmp_path: Path) -> None:
    file, gate = tmp_path / "victim", tmp_path / "gate"
    params = victim(file, f"n=0; while ! test -e {gate}; do echo $n; n=$((n+1)); sleep 0.02; done; echo over $n")
    command = client.order("local", "script.run", params, id="long")
    house.until(lambda: runs(file) == 1, "it runs")
    house.kill(house.server)
    house.kill(house.agent)
    house.start_server()
    house.start_agent()
    assert client.order("local", "script.run", params, id="long").id == command.id
    gate.touch()
    over = client.finish(command)
    assert (over.state, over.exit, runs(file)) == ("complete", 0, 1)
    *counted, last = b"".join(client.output(command)).decode().splitlines()
    assert counted == [str(number) for number in range(len(counted))]
    assert last == f"over {len(counted)}"
    assert over.outputs == {"out": len("".join(f"{line}\n" for line in [*counted, last]))}


def test_the_terminal_follows_it_and_ends_as_it_did(house: House, tmp_path: Path) -> None:
    words = ["agent", "call", "--follow", "local", "script.run", f"run=@{tmp_path / 'script'}", "env.WHO=anna"]
    (tmp_path / "script").write_text("echo $WHO >&2\nexit 7\n")
    done = subprocess.run(
        [sys.executable, "-m", "paddock", *words, "--server", house.url, "--state", str(house.state)],
        capture_output=True,
        timeout=60,
        check=False,
        env=house.surroundings({"PYTHONPATH": str(ROOT / "src")}),
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, b"anna\n", b"")


def test_of_many_commands_each_is_done_though_the_server_is_killed(
    house: House, client: Client, tmp_path: Path
) -> None:
    count = 300
    for number in range(count):
        path = str(tmp_path / f"file-{number}")
        params = {"path": path, "data": "eA=="}
        if number == count // 2:
            house.kill(house.server)
            house.start_server()
        for _ in range(20):
            try:
                client.order("local", "file.put", params, id=f"put-{number}")
                break
            except PaddockError:
                continue
    house.until(
        lambda: (
            not house.get("agents/local/commands", state="queued")["items"]
            and not house.get("agents/local/commands", state="sent")["items"]
        ),
        "all are done",
    )
    pages = client.every(lambda below: calls.commands("local", below=below, limit=500))
    states = [one.state for page in pages for one in page.items]
    assert states == ["complete"] * count
    assert len(list(tmp_path.glob("file-*"))) == count
