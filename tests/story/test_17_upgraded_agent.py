"""An operator replaces a host's agent while a script runs, watches its machine, and retires it in the end."""

import contextlib
import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from paddock.client import Client
from tests.agent.test_upgrading import bundle
from tests.story.house import House, _reaping, assert_whole, waiting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class Installed(House):
    """Its agent runs out of one file, as an installed one does."""

    @property
    def program(self) -> Path:
        return self.directory / "base" / "bin" / "paddock-agent.pyz"

    def start_agent(self, **environment: str) -> None:
        log = (self.directory / "agent.log").open("ab")
        words = ["run", "--server", self.url.replace("http", "ws", 1) + "/agent", "--state", str(self.agent_state)]
        self.until(lambda: self.get("hosts")["items"], "the host is configured")
        words += ["--cloud", "none", "--code", self.post("enrolments", host="local")["code"]]
        self.agent = subprocess.Popen(
            [sys.executable, str(self.program), *words],
            stdout=log,
            stderr=log,
            env=self.surroundings(environment),
            start_new_session=True,
        )


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Installed]:
    with _reaping():
        built = Installed(tmp_path)
        bundle(built.program, "1.0")
        try:
            built.configure("")
            built.start_server()
            built.start_agent()
            built.until(lambda: built.get("hosts/local")["state"] == "online", "the host is online")
            yield built
        finally:
            built.close()


@pytest.fixture
def client(house: Installed) -> Iterator[Client]:
    secret = house.post("tokens", name="anna", role="operator")["secret"]
    with Client(house.url, token=secret) as client:
        yield client


@contextlib.contextmanager
def shelf(directory: Path) -> Iterator[str]:
    directory.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *words: object) -> None:
            """Nobody listens."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_agent_is_replaced_while_a_script_runs(house: Installed, client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = client.order("local", "script.run", {"run": waiting("s", gate)})
    with shelf(tmp_path / "shelf") as url:
        sha256 = bundle(tmp_path / "shelf" / "new.pyz", "2.0")
        done = client.finish(client.order("local", "agent.upgrade", {"url": f"{url}/new.pyz", "sha256": sha256}))
    assert (done.state, done.result) == (
        "complete",
        {"version": "2.0", "sha256": sha256, "before": "1.0", "changed": True},
    )
    assert hashlib.sha256(house.program.read_bytes()).hexdigest() == sha256
    agent = house.until(lambda: _connected(house), "the new agent is connected")
    assert agent["software"] == "paddock 2.0"
    gate.touch()
    over = client.finish(script)
    assert (over.state, over.exit) == ("complete", 0)
    assert_whole(b"".join(client.output(over)).decode(), "s")
    assert house.get("alerts")["items"] == []


def _connected(house: House) -> dict[str, Any]:
    found = [one for one in house.get("agents")["items"] if one["name"] == "local" and one["connected"]]
    return found[0] if found else {}


def test_a_condition_is_told_until_it_is_over(house: Installed, client: Client) -> None:
    check = {"name": "victim", "what": "process", "of": "no-such-process", "below": 1, "for": 0, "every": 0.1}
    assert client.finish(client.order("local", "system.health_watch", check)).state == "complete"
    (alert,) = house.until(lambda: house.get("alerts")["items"], "it is told")
    assert alert["subject"] == "health victim"
    client.finish(client.order("local", "system.health_unwatch", {"name": "victim"}))
    house.until(lambda: not [one for one in house.get("alerts")["items"] if one["state"] != "over"], "it is over")


def test_a_retired_agent_has_told_its_end_and_is_gone(house: Installed, client: Client) -> None:
    done = client.finish(client.order("local", "system.clean_image", {"items": ["agent"]}))
    assert done.state == "complete"
    assert b"".join(client.output(done)) == b"agent: goes once the server has this\n"
    assert house.agent is not None
    assert house.agent.wait(20) == 0
    assert sorted(path.name for path in house.agent_state.iterdir()) == ["lock"]
    house.until(lambda: not _connected(house), "it has gone")
