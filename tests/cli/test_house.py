"""The nouns against a real server with a real host's agent: what people do in a day."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.cli.stage import Stage, stage
from paddock.client import Client, calls
from paddock.hands.trees import identify
from tests.cli.conftest import Said

pytestmark = pytest.mark.slow


class House:
    """A server and an agent that have played the demo's stream."""

    def __init__(self, made: Stage, client: Client) -> None:
        self.stage = made
        self.client = client

    def start(self, *words: str, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PADDOCK_")}
        environment = {
            **kept,
            "PADDOCK_STATE": str(self.stage.state),
            "XDG_STATE_HOME": str(self.stage.directory / "x"),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "paddock", *words],
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str) -> Said:
        child = self.start(*words)
        out, err = child.communicate(timeout=60)
        return Said(child.returncode, out, err)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with stage() as made, made.start_server(made.lay_out(), listen="127.0.0.1:0") as client:
        made.start_agent(client, "local")
        until = time.monotonic() + 30
        while not any(report.state == "sent" for report in client.send(calls.reports()).items):
            assert time.monotonic() < until, "the demo's round has no report"
            made.check()
            time.sleep(0.05)
        yield House(made, client)


def test_events_tell_what_became_of_them(house: House) -> None:
    said = house("event", "list", "--limit", "23", "--json")
    assert len(said.objects) == 23
    planned = [event for event in said.objects if event["state"] == "planned"]
    assert [event["number"] for event in planned] == [189221]
    shown = house("event", "show", planned[0]["id"])
    assert "my-ci recheck" in shown.out
    assert "two-machines runs" in shown.out
    assert json.loads(house("event", "show", "--raw", planned[0]["id"]).out)["type"] == "comment-added"


def test_a_run_is_named_by_change_and_job(house: House) -> None:
    said = house("run", "show", "189221/two-machines")
    assert (said.code, said.err) == (0, "")
    assert "verdict      success" in said.out
    assert "greeting: two reaches one" in said.out
    assert "two/logs/greeting.txt" in said.out


def test_a_log_is_read_and_followed_to_its_end(house: House) -> None:
    whole = house("run", "log", "189221/two-machines")
    assert "two| one says: change 189221, patch set 1, greeted by one" in whole.out
    assert house("run", "log", "-f", "189221/two-machines").out == whole.out
    only = house("run", "log", "--machine", "two", "189221/two-machines")
    assert only.out == "one says: change 189221, patch set 1, greeted by one\n"
    assert [line["machine"] for line in house("run", "log", "--json", "--machine", "two", "2").objects] == ["two"]
    assert house("run", "log", "--machine", "three", "2").code == 4


def test_a_done_run_is_retried_in_a_round_of_its_own_and_followed_live(house: House) -> None:
    again = house("run", "retry", "189221/two-machines", "--json").objects[0]
    followed = house("run", "log", "-f", again["id"])
    assert "two| one says: change 189221" in followed.out
    done = house("run", "show", again["id"], "--json").objects[0]
    assert (done["state"], done["verdict"]) == ("done", "success")
    assert house("run", "cancel", again["id"]).code == 3


def test_an_environment_is_borrowed_shown_renewed_and_given_back(house: House) -> None:
    got = house("lease", "acquire", "--env", "two-machines", "--ttl", "5m", "--json").objects[0]
    assert got["state"] == "granted"
    start = got["id"][:6]
    assert f"lease {got['id']}" in house("lease", "show", start).out
    assert house("lease", "renew", start, "--ttl", "10m", "--json").objects[0]["ttl"] == 600.0
    assert [row["id"] for row in house("lease", "list", "--json").objects] == [got["id"]]
    waiting = house.start("lease", "acquire", "--env", "two-machines", "--wait", "20s", "--json")
    until = time.monotonic() + 10
    while len(house.client.send(calls.leases(state="queued")).items) != 1:
        assert time.monotonic() < until
        time.sleep(0.02)
    (queued,) = house.client.send(calls.leases(state="queued")).items
    why = house("lease", "why", queued.id)
    assert "waits for" in why.out
    assert "ahead       nobody" in why.out
    assert house("lease", "release", start).out == f"lease {got['id']}: released\n"
    out, err = waiting.communicate(timeout=30)
    assert json.loads(out)["state"] == "granted"
    assert f"lease {queued.id} waits: next in the queue" in err
    assert house("lease", "release", queued.id).code == 0
    assert house("lease", "release", queued.id).code == 0, "twice is the same as once"
    assert queued.id in house("lease", "list", "--all").out


def test_a_command_runs_on_what_it_borrowed(house: House) -> None:
    said = house("lease", "run", "--env", "two-machines", "--", "sh", "-c", "cat $PADDOCK_ENVIRONMENT_FILE; exit 3")
    assert said.code == 3
    assert [machine["name"] for machine in json.loads(said.out)["machines"]] == ["one", "two"]
    assert house("lease", "list", "--json").objects == []


def test_a_leased_environment_is_held_for_who_looks_and_then_given_back(house: House) -> None:
    got = house("lease", "acquire", "--env", "two-machines", "--json").objects[0]
    assert house("env", "hold", "two-machines", "--ttl", "2h").code == 0
    assert house("lease", "release", got["id"]).code == 0
    shown = house("env", "list")
    assert "held" in shown.out
    assert house("env", "release", got["environment"]).code == 0
    row = house("env", "show", "two-machines", "--json").objects[0]
    assert row["state"] in ("dirty", "cleaning", "ready")
    assert [step["after"] for step in row["history"]].count("held") == 1


def test_an_environment_is_set_aside_and_cleaned(house: House) -> None:
    until = time.monotonic() + 20
    while (row := house("env", "show", "two-machines", "--json").objects[0])["state"] != "ready":
        assert time.monotonic() < until
    aside = house("env", "quarantine", "two-machines", "--reason", "its disk is slow")
    assert aside.code == 0, aside.err
    assert "quarantined, its disk is slow" in aside.out
    assert house("env", "clean", row["id"][:-1]).code == 0, "a beginning is enough"
    while house("env", "show", row["id"], "--json").objects[0]["state"] not in ("ready", "gone"):
        assert time.monotonic() < until


def test_a_step_that_leads_nowhere_names_the_environment_and_a_free_one_is_cleaned_at_once(house: House) -> None:
    lent = house("lease", "acquire", "--env", "two-machines", "--json").objects[0]
    assert house("lease", "release", lent["id"]).code == 0
    until = time.monotonic() + 20
    while (row := house("env", "show", lent["environment"], "--json").objects[0])["state"] != "ready":
        assert time.monotonic() < until
    held = house("env", "hold", row["id"])
    assert held.code == 3
    assert f"paddock: environment {row['id']}: it is ready, and hold applies to leased, held or saved" in held.err
    cleaned = house("env", "clean", row["id"])
    assert (cleaned.code, cleaned.out) == (0, f"environment {row['id']}: cleaning: it is lent again afterwards\n")
    assert house("env", "quarantine", row["id"]).code == 0
    replaced = house("env", "clean", row["id"])
    assert replaced.out.startswith(f"environment {row['id']}: cleaning: it is destroyed, and its pool builds a new one")


def test_a_host_is_drained_and_resumed(house: House) -> None:
    assert "host local: draining" in house("host", "drain", "local").out
    assert "drained by operator" in house("host", "list").out
    assert "host local: online" in house("host", "resume", "local").out
    assert house("host", "drain", "nope").code == 4
    assert "online" in house("host", "show", "local").out


def test_a_host_is_added_by_a_code_and_one_line(house: House) -> None:
    told = house("host", "add", "local", "--json").objects[0]
    assert re.fullmatch(rf"curl -fsS http://127.0.0.1:\d+/enrol \| sh -s -- {told['code']}", told["command"])
    assert told["by_hand"].endswith(f"--code {told['code']}")
    assert "/agent --state " in told["by_hand"]
    said = house("host", "add", "local").out
    assert "/enrol | sh -s -- " in said
    assert "paddock agent run --server ws://127.0.0.1:" in said
    assert "It speaks in clear, which reaches this machine alone" in said


def test_a_token_is_made_used_and_revoked(house: House, tmp_path: Path) -> None:
    made = house("token", "create", "anna", "--role", "person")
    file = tmp_path / "token"
    file.write_text(made.out)
    assert house("token", "list", "--json").objects[-1]["name"] == "anna" or "anna" in house("token", "list").out
    asked = house("token", "list", "--token-file", str(file))
    assert asked.code == 3, "a person is no operator"
    assert house("token", "revoke", "anna").code == 0
    assert house("lease", "acquire", "--env", "two-machines", "--token-file", str(file)).code == 3


def test_doctor_finds_the_house_in_order(house: House) -> None:
    said = house("doctor", "--json")
    found = {row["check"]: row["state"] for row in said.objects}
    assert {found[name] for name in ("python", "server", "token", "state", "disk", "host local")} == {"ok"}
    assert said.code == 0


def test_drain_ends_when_nothing_runs_and_refuses_new_leases(house: House) -> None:
    assert house("drain", "--json").objects == [{"running": 0, "waiting": 0}]
    refused = house("lease", "acquire", "--env", "two-machines")
    assert refused.code == 3
    assert "drained" in refused.err


def test_the_stage_is_empty_when_it_is_over() -> None:
    with stage() as made, made.start_server(made.lay_out(), listen="127.0.0.1:0") as client:
        made.start_agent(client, "local")
        until = time.monotonic() + 30
        while not any(row.machines for row in client.send(calls.environments()).items):
            assert time.monotonic() < until
            time.sleep(0.05)
        found = made._everybody()
        groups = made._groups()
        assert len(found) >= 4, "server, agent, two machines"
    assert [one for one in found if identify(one.pid) == one] == []
    assert not made.directory.exists()
    assert [group for group in groups if group.path.exists()] == []
