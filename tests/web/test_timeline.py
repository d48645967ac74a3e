"""Bars, axes and costs."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from paddock.core.report import _line as report_line
from paddock.web.spelling import badge, brief, linked, size
from paddock.web.timeline import Axis, cost_of, segments, took, waited
from tests.web.conftest import ask
from tests.web.scene import Scene

START = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)


def test_an_axis_has_few_round_ticks() -> None:
    axis = Axis(start=START + timedelta(minutes=3), end=START + timedelta(minutes=63))
    assert [tick.label for tick in axis.ticks()] == ["09:10", "09:20", "09:30", "09:40", "09:50", "10:00"]


def test_what_is_outside_the_axis_is_not_drawn_and_what_reaches_out_is_cut() -> None:
    axis = Axis(start=START, end=START + timedelta(minutes=10))
    assert axis.segment(START - timedelta(minutes=9), START - timedelta(minutes=1), "run", "") is None
    piece = axis.segment(START - timedelta(minutes=5), START + timedelta(minutes=5), "run", "")
    assert piece
    assert (piece.x, piece.width) == (0, 50)


async def test_the_parts_of_a_run_add_up(scene: Scene) -> None:
    run = await scene.store.read(lambda tables: tables.runs.find("110"))
    assert run
    cost = cost_of(run, now=scene.clock.now())
    assert cost.wait + cost.prepare + cost.run + cost.collect == cost.total == timedelta(minutes=42)


async def test_a_run_takes_as_long_as_its_report_says_and_its_waiting_is_told_apart(scene: Scene) -> None:
    run = await scene.store.read(lambda tables: tables.runs.find("110"))
    assert run
    now = scene.clock.now()
    assert (took(run, now=now), waited(run, now=now)) == (timedelta(minutes=41, seconds=24), timedelta(seconds=12))
    report = report_line(run, "https://ci.example.org")
    assert report.endswith("FAILURE in 41m 24s")
    async with ask(scene) as client:
        for page in ("/", "/runs", "/changes/review/912340", "/rounds/30"):
            text = (await client.get(page)).text
            assert '41m 24s <small class="waited">waited 12s</small>' in " ".join(text.split()), page
            assert "42m 00s" not in text, page


async def test_a_run_that_has_not_started_took_nothing_yet(scene: Scene) -> None:
    run = await scene.store.read(lambda tables: tables.runs.find("121"))
    assert run
    now = scene.clock.now()
    assert took(run, now=now) is None
    assert took(replace(run, ended=now), now=now) == timedelta()


async def test_a_running_run_shows_what_its_limit_leaves(scene: Scene) -> None:
    run = await scene.store.read(lambda tables: tables.runs.find("118"))
    assert run
    now = scene.clock.now()
    kinds = [piece.kind for piece in segments(run, Axis(start=run.created, end=now + timedelta(hours=2)), now=now)]
    assert kinds == ["wait", "prepare", "prepare", "prepare", "run", "left"]


def test_spelling() -> None:
    assert [brief(timedelta(seconds=s)) for s in (0.04, 9.94, 59.6, 3599.4, 3600, 200_000)] == [
        "0.0s",
        "9.9s",
        "59s",
        "59m 59s",
        "1h 00m",
        "2d 7h",
    ]
    assert [size(n) for n in (0, 812, 4096, 200 * 1024 * 1024)] == ["0 B", "812 B", "4.0 KiB", "200 MiB"]
    assert badge("timed_out") == '<span class="state bad"><i aria-hidden="true">◷</i>timed out</span>'
    assert linked('see https://x.example/"> <b>') == (
        'see <a href="https://x.example/&#34;&gt;" rel="noreferrer nofollow">https://x.example/&#34;&gt;</a> &lt;b&gt;'
    )
