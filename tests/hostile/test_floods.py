"""Ten thousand events at once, junk among them: each is stored once and explained, in bounded memory."""

import asyncio
import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.forges.fake_gerrit import USER, FakeGerrit, serving
from tests.hostile.peers import Memory, is_well, off
from tests.story.house import LINES, RECHECK, House

pytestmark = pytest.mark.slow

MANY = 10_000
JUNK = [
    "",
    "not JSON at all",
    "{",
    "[1, 2, 3]",
    '{"type": null}',
    '{"type": "comment-added"}',
    '{"type": "comment-added", "change": [], "patchSet": 7, "comment": {}}',
    '{"type": "no-such-type", "x": "' + "y" * 20_000 + '"}',
    '{"type": "patchset-created", "change": {"number": 1e999}}',
    '{"a": ' * 2000 + "1" + "}" * 2000,
    '{"type": "\\u0000\\ud800"}',
    '{"type": "comment-added", "type": "x"}',
    "\u202e\u2066 NaN",
]
PROJECT = """
- project: {name: openstack-dev/ci-sandbox, branches: [master], jobs: [noop]}
"""


def burst() -> list[str]:
    """Lines of a stream: mostly other projects' events, some junk, and one that asks for a run, as the last."""
    lines = []
    for number in range(MANY - 1):
        if number % 20 == 0:
            lines.append(JUNK[number // 20 % len(JUNK)])
            continue
        event: dict[str, Any] = copy.deepcopy(LINES[number % 22])
        event.setdefault("change", {})["number"] = str(1000 + number)
        lines.append(json.dumps(event))
    return [*lines, json.dumps(RECHECK)]


def configure(paddock: House, gerrit: FakeGerrit) -> None:
    """A server that hears the fake Gerrit instead of a recorded stream."""
    ssh = f'host: 127.0.0.1, port: {gerrit.port}, user: {USER}, key: {gerrit.key}, host-key: "{gerrit.host_key}"'
    paddock.config.write_text(
        f"""
- server: {{listen: "127.0.0.1:0", state: {paddock.state}}}
- host: {{name: local, skills: [local]}}
- gerrit: {{name: review, ssh: {{{ssh}}}, recheck: ['^my-ci recheck$'], bots: [jenkins, zuul]}}
"""
        + PROJECT
    )


def count(paddock: House) -> dict[str, int]:
    """How many events there are of each state, from the store's own pages."""
    states: dict[str, int] = {}
    below: str | None = None
    while True:
        page = paddock.get("events", limit=500, **({"below": below} if below else {}))
        for one in page["items"]:
            states[one["state"]] = states.get(one["state"], 0) + 1
            assert one["state"] == "heard" or one["outcome"], one
        below = page["next"]
        if not below:
            return states


def wait_for_the_last(paddock: House) -> None:
    """Until nothing is left that was heard and not decided, and the one report is posted."""
    paddock.until_reported(limit=90)
    paddock.until(lambda: not paddock.get("events", state="heard", limit=1)["items"], "all are decided", limit=60)


def test_a_recorded_stream_of_ten_thousand_is_stored_once_and_explained(alone: House) -> None:
    alone.configure(PROJECT)
    alone.stream.write_text("".join(line + "\n" for line in burst()))
    alone.launch_server()
    began = time.monotonic()
    alone.until(alone.listens, "the server listens")
    assert alone.server is not None
    memory = Memory(alone.server.pid)
    memory.begin()

    wait_for_the_last(alone)

    took = time.monotonic() - began
    states = count(alone)
    print(f"{sum(states.values())} events in {took:.1f} s, {states}, memory grew {memory.grew:.0f} MiB")
    assert sum(states.values()) in (MANY, MANY - burst().count("")), states
    assert len(alone.reports()) == 1
    assert memory.grew < 120
    assert is_well(alone)


async def test_a_gerrit_that_says_ten_thousand_lines_at_once_is_heard_to_the_end(alone: House, tmp_path: Path) -> None:
    lines = burst()
    async with serving(tmp_path) as gerrit:
        gerrit.changes.add(189221)
        configure(alone, gerrit)
        await off(alone.start_server)
        await asyncio.wait_for(gerrit.listened(), 20)
        assert alone.server is not None
        memory = Memory(alone.server.pid)
        memory.begin()
        began = time.monotonic()
        await gerrit.say(*lines)
        said = time.monotonic() - began

        await off(alone.until, lambda: gerrit.reviews, "the review is posted", limit=90)
        left = lambda: not alone.get("events", state="heard", limit=1)["items"]  # noqa: E731
        await off(alone.until, left, "all are decided", limit=60)

        took = time.monotonic() - began
        states = await off(count, alone)
        print(f"said in {said:.1f} s, {sum(states.values())} events in {took:.1f} s, {states}, {memory.grew:.0f} MiB")
        assert sum(states.values()) in (MANY, MANY - lines.count("")), states
        assert len(gerrit.reviews) == 1
        assert memory.grew < 120
        assert is_well(alone)


async def test_a_line_without_end_fills_no_memory(alone: House, tmp_path: Path) -> None:
    async with serving(tmp_path) as gerrit:
        gerrit.changes.add(189221)
        configure(alone, gerrit)
        await off(alone.start_server)
        await asyncio.wait_for(gerrit.listened(), 20)
        assert alone.server is not None
        memory = Memory(alone.server.pid)
        memory.begin()
        await gerrit.say("x" * (32 << 20), json.dumps(RECHECK))
        await off(alone.until, lambda: gerrit.reviews, "the review is posted", limit=60)
        assert memory.grew < 40
        assert sum((await off(count, alone)).values()) == 2
