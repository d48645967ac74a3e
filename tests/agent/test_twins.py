"""Real agents and the real server: a token is changed, and a copied state directory is found out."""

import asyncio
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.agent import identity
from tests.story.house import House, house

pytestmark = pytest.mark.slow

LONG_AGO = 1_500_000_000


@pytest.fixture
def paddock(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as built:
        built.configure("")
        built.start_server()
        built.start_agent()
        built.until(lambda: host(built)["state"] == "online", "the host is online")
        yield built


def host(paddock: House) -> dict[str, object]:
    found: dict[str, object] = paddock.get("hosts")["items"][0]
    return found


def tokens(state: Path) -> tuple[str, str]:
    known = identity.load(state)
    assert known is not None
    return known.token, known.new_token


def test_a_token_is_changed_without_a_moment_in_which_none_is_good(paddock: House) -> None:
    state = paddock.agent_state
    first, _ = tokens(state)
    paddock.kill(paddock.agent)
    os.utime(state / identity.FILE, (LONG_AGO, LONG_AGO))
    paddock.start_agent(PADDOCK_FAULT="token.told")
    paddock.until(lambda: paddock.agent.poll() is not None, "it is dead as soon as the server knows of a new token")
    old, new = tokens(state)
    assert old == first
    # Both are good: the old one says hello again, and only then the new one.
    for shown in (old, new):
        paddock.kill(paddock.agent)
        fields = json.loads((state / identity.FILE).read_text())
        (state / identity.FILE).write_text(json.dumps({**fields, "token": shown, "new_token": ""}))
        before = paddock.log("agent").count("session began")
        paddock.start_agent()
        paddock.until(functools.partial(_has_begun, paddock, before), "it says hello")
    # The new one has said hello: the old one is nobody's now.
    paddock.kill(paddock.agent)
    (state / identity.FILE).write_text(json.dumps({**fields, "token": old, "new_token": ""}))
    paddock.start_agent()
    paddock.until(lambda: "not welcome" in paddock.log("agent"), "the old token is refused")
    assert old not in paddock.log("agent")
    assert new not in paddock.log("server")


def test_two_agents_with_one_identity_are_shut_out_and_say_so_slowly(paddock: House, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(paddock.agent_state, copy, ignore=shutil.ignore_patterns("lock", "process", "ledger*", "line"))
    log = tmp_path / "copy.log"
    server = paddock.url.replace("http", "ws", 1) + "/agent"
    with log.open("ab") as file:
        words = [sys.executable, "-m", "paddock.agent", "run", "--server", server, "--state", str(copy)]
        words += ["--cloud", "none"]
        twin = subprocess.Popen(words, stdout=file, stderr=file, env=paddock.surroundings({}), start_new_session=True)
    try:
        paddock.until(lambda: "both are shut out" in log.read_text(), "the twin is told")
        paddock.until(lambda: "shut out: " in paddock.log("agent"), "the first one is told")
        began = time.monotonic()
        attempts = _attempts(log), _attempts(paddock.directory / "agent.log")
        asyncio.run(asyncio.sleep(6))
        span = time.monotonic() - began
        for before, path in zip(attempts, (log, paddock.directory / "agent.log"), strict=True):
            assert _attempts(path) - before <= span / 1.5, "asked again and again"
        assert host(paddock)["state"] != "online"
    finally:
        paddock.kill(twin)
    paddock.post("hosts/local/resume")
    paddock.until(lambda: host(paddock)["state"] == "online", "the one that is left is taken again", limit=60)


def _has_begun(paddock: House, before: int) -> bool:
    return paddock.log("agent").count("session began") > before


def _attempts(log: Path) -> int:
    return log.read_text().count("again_in")
