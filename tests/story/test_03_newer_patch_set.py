"""A new patch set supersedes the round of the old one: its trees are ended, and nothing is reported for it."""

import json
from typing import Any

import pytest

from tests.story.house import RECHECK, House

pytestmark = pytest.mark.slow

CONFIG = """
- environment: {name: single, machines: [{name: one}], host: local, max: 2}
- job:
    name: waits-once
    environment: single
    trusted: true
    steps: [{run: 'echo patch set $PADDOCK_PATCHSET; test "$PADDOCK_PATCHSET" = 2 || sleep 600'}]
- project: {name: openstack-dev/ci-sandbox, jobs: [waits-once]}
"""


def patch_set(number: int) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(json.dumps(RECHECK))
    event["type"] = "patchset-created"
    event["uploader"] = event.pop("author")
    del event["comment"]
    event["patchSet"] |= {"number": str(number), "ref": f"refs/changes/21/189221/{number}"}
    return event


def test_a_new_patch_set_supersedes_the_old_round(paddock: House) -> None:
    paddock.configure(CONFIG)
    paddock.tell(patch_set(1))
    paddock.start_server()
    paddock.start_agent()
    paddock.until(lambda: paddock.runs()[0]["state"] == "running" and paddock.tasks(), "the first run sleeps")

    paddock.kill(paddock.server)
    paddock.tell(patch_set(2))
    paddock.start_server()
    reports = paddock.until_reported()
    paddock.until(lambda: all(run["state"] == "done" for run in paddock.runs()), "both runs are done")

    first, second = paddock.runs()
    assert (first["verdict"], second["verdict"]) == ("superseded", "success")
    assert [report["patchset"] for report in reports] == [2]
    paddock.until_environments("ready")
    assert not paddock.tasks()
