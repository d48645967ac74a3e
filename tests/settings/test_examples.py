"""The examples are in order, and the recorded stream comes out as it should."""

import json
import os
import signal
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from paddock.settings import explain, load

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEMO = EXAMPLES / "demo" / "paddock.yaml"
STREAM = (EXAMPLES / "gerrit-events.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.parent.name)
def test_an_example_is_in_order(path):
    assert load(path).configuration.projects


def test_of_the_recorded_stream_one_event_starts_jobs_and_each_other_says_why_not():
    configuration = load(DEMO).configuration
    explained = [explain(line, configuration) for line in STREAM]
    assert [index for index, one in enumerate(explained) if one.runs] == [22]
    assert explained[22].outcome == "noop, two-machines"
    assert Counter(one.outcome for one in explained[:22]) == {
        "bot jenkins": 15,
        "no project openstack/rally": 4,
        "no project stackforge/rally": 3,
    }


def test_the_event_of_the_recheck_is_the_streams_last():
    event = (EXAMPLES / "event.json").read_text(encoding="utf-8")
    assert json.loads(event) == json.loads(STREAM[-1])
    assert explain(event, load(DEMO).configuration).runs


def test_the_demo_plays_the_recorded_stream():
    assert Path(load(DEMO).configuration.forges["review"].file).resolve() == EXAMPLES / "gerrit-events.jsonl"


def _environment(tmp_path, machine):
    results = tmp_path / machine / "results"
    results.mkdir(parents=True)
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PADDOCK_MACHINE": machine,
        "PADDOCK_MACHINES": "one two",
        "PADDOCK_CHANGE": "189221",
        "PADDOCK_PATCHSET": "1",
        "PADDOCK_ADDRESS": "127.0.0.1",
        "PADDOCK_ADDRESS_ONE": "127.0.0.1",
        "PADDOCK_RESULTS": str(results),
        "PADDOCK_VERDICT": "success",
    }


def _start(step, port, tmp_path, machine):
    script = tmp_path / f"{machine}-{step.name}"
    script.write_text(step.run.replace("8123", str(port)))
    environment = _environment(tmp_path, machine)
    return subprocess.Popen(
        [*step.interpreter.split(), str(script)],
        cwd=tmp_path / machine,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_the_demos_machines_talk_to_each_other_and_leave_results(tmp_path):
    job = load(DEMO).configuration.jobs["two-machines"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve, fetch = job.steps
    server = _start(serve, port, tmp_path, "one")
    try:
        fetcher = _start(fetch, port, tmp_path, "two")
        said, _ = fetcher.communicate(timeout=30)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate(timeout=10)
    assert (fetcher.returncode, said) == (0, "one says: change 189221, patch set 1, greeted by one\n")
    suite = ElementTree.parse(tmp_path / "two" / "results" / "result.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "0")
    greeting = (tmp_path / "two" / "results" / "logs" / "greeting.txt").read_text()
    assert greeting == "change 189221, patch set 1, greeted by one\n"


@pytest.mark.slow
def test_the_demos_fetch_fails_where_nobody_answers(tmp_path):
    fetch = load(DEMO).configuration.jobs["two-machines"].steps[1]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    impatient = type(fetch)(name=fetch.name, run=fetch.run.replace("range(100)", "range(2)"), interpreter="python3")
    fetcher = _start(impatient, port, tmp_path, "two")
    fetcher.communicate(timeout=30)
    assert fetcher.returncode == 1
    suite = ElementTree.parse(tmp_path / "two" / "results" / "result.xml").getroot()
    assert suite.get("failures") == "2"


def test_the_demos_last_step_writes_the_verdict(tmp_path):
    (step,) = load(DEMO).configuration.jobs["two-machines"].after
    last = _start(step, 0, tmp_path, "one")
    assert last.wait(timeout=10) == 0
    assert (tmp_path / "one" / "results" / "logs" / "verdict.txt").read_text() == "one of one two: success\n"
