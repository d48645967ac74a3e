"""The main job on a real Gerrit: a comment on a change becomes a round of runs on its sources, and one vote on it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.story.house import House, house
from tools.gerrit import Gerrit, Pushed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROJECT = "openstack-dev/ci-sandbox"
CONFIG = """
- server: {{listen: "127.0.0.1:0", state: {state}}}
- gerrit: {gerrit}
- host: {{name: local, skills: [local]}}
- environment: {{name: single, machines: [{{name: one}}], host: local}}
- job:
    name: greets
    environment: single
    trusted: true
    sources: true
    steps: [{{run: 'cd "$PADDOCK_SOURCES"; git log -1 --format=%H; test "$(cat greeting)" = hello'}}]
- project: {{name: {project}, jobs: [noop, greets]}}
"""


@pytest.fixture
def paddock(tmp_path: Path, gerrit: Gerrit) -> Iterator[House]:
    with house(tmp_path) as built:
        entry = {
            **gerrit.settings,
            "recheck": ["^my-ci recheck$"],
            "report": {"vote": "full"},
            "sources": gerrit.sources,
        }
        built.config.write_text(CONFIG.format(state=built.state, gerrit=json.dumps(entry), project=PROJECT))
        yield built


def push(gerrit: Gerrit, greeting: str = "hello", *, project: str = PROJECT) -> Pushed:
    gerrit.create_project(project)
    return gerrit.push(project, files={"greeting": f"{greeting}\n"}, subject="Greet")


def hears(paddock: House, number: int) -> bool:
    """Whether an event of this change was heard: the stream is open."""
    return any(event["number"] == number for event in paddock.get("events")["items"])


def begin(paddock: House, gerrit: Gerrit, **faults: str) -> None:
    """Server and agent run, and the stream is open: a change of a project without jobs was heard."""
    paddock.tend(**faults)
    probe = push(gerrit, project="elsewhere")

    def is_heard() -> bool:
        gerrit.comment(probe, "is anybody there?")
        return paddock.tended() and hears(paddock, probe.number)

    paddock.until(is_heard, "the stream is heard")


def see_to_it(paddock: House, gerrit: Gerrit, change: Pushed) -> None:
    """The change is heard, or was missed by a server that was just dying, and is asked for by a comment: once.

    A stream is in order: who hears of a later change has heard of this one, or never will.
    """
    later = push(gerrit, project="elsewhere")

    def is_past() -> bool:
        gerrit.comment(later, "is anybody there?")
        return paddock.tended() and hears(paddock, later.number)

    paddock.until(is_past, "the stream is heard again")

    def was_heard() -> str:
        """Yes or no, of a server that lives."""
        paddock.tend()
        return "yes" if hears(paddock, change.number) else "no"

    if paddock.until(was_heard, "the server says what it has heard") == "no":
        gerrit.comment(change, "Patch Set 1:\n\nmy-ci recheck")


def test_a_comment_becomes_one_report_and_one_vote_on_the_change(paddock: House, gerrit: Gerrit) -> None:
    begin(paddock, gerrit)
    change = push(gerrit)
    paddock.until(lambda: gerrit.reports(change), "the patch set's own report stands on the change")
    gerrit.comment(change, "Patch Set 1:\n\nmy-ci recheck")
    paddock.until(lambda: len(gerrit.reports(change)) == 2, "the recheck's report stands on the change")

    mine = [run for run in paddock.runs() if run["number"] == change.number and run["job"] == "greets"]
    log = paddock.text(f"/api/v1/runs/{mine[0]['id']}/log/main-1-one")
    assert log == f"{change.revision}\n"
    assert [run["verdict"] for run in mine] == ["success", "success"]
    report = gerrit.reports(change)[-1]
    assert report.author == "my-ci"
    assert "Build succeeded." in report.text
    assert " : SUCCESS in " in report.text
    assert gerrit.votes(change) == {"my-ci": 1}


def test_a_change_that_breaks_is_voted_down(paddock: House, gerrit: Gerrit) -> None:
    begin(paddock, gerrit)
    change = push(gerrit, "goodbye")

    paddock.until(lambda: gerrit.reports(change), "the report stands on the change")

    assert gerrit.votes(change) == {"my-ci": -1}


SERVER_POINTS = (
    *("gerrit.heard", "receiving.heard", "receiving.stored", "gerrit.stored", "planning.planned", "leasing.served"),
    *("building.ordered", "running.moved", "commanding.sending", "commanding.sent", "commanding.answered"),
    *("commanding.told", "commanding.recorded", "commanding.stored", "archive.appending", "archive.appended"),
    *("collecting.read", "collecting.ended", "cleaning.ordered", "reporting.intended", "reporting.sending"),
    *("gerrit.sending", "gerrit.sent", "reporting.sent", "reporting.confirmed", "store.committing", "store.committed"),
)
"""Where the server may die between a comment and its report; the other processes never speak with a Gerrit."""


@pytest.mark.parametrize("point", SERVER_POINTS)
def test_a_server_killed_on_the_way_reports_exactly_once(paddock: House, gerrit: Gerrit, point: str) -> None:
    died = paddock.directory / "died"
    begin(paddock, gerrit, PADDOCK_FAULT=point, PADDOCK_FAULT_ONCE=str(died))
    change = push(gerrit)
    see_to_it(paddock, gerrit, change)
    paddock.until(lambda: paddock.tended() and gerrit.reports(change), "the report stands on the change")
    paddock.until(lambda: paddock.tended() and _round_is_done(paddock, change), "the round is done")

    assert died.exists(), f"{point} was not passed"
    assert len(gerrit.reports(change)) == 1
    assert gerrit.votes(change) == {"my-ci": 1}


def _round_is_done(paddock: House, change: Pushed) -> bool:
    runs = [run for run in paddock.get("runs")["items"] if run["number"] == change.number]
    return bool(runs) and bool(paddock.get(f"rounds/{runs[0]['round']}")["state"] == "done")
