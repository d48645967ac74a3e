"""What a change is told: the text to the letter, and the vote."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paddock.core.event import Change
from paddock.core.job import Job
from paddock.core.report import LONGEST, Vote, compose, spell
from paddock.core.run import Run, State, Verdict

T0 = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
CHANGE = Change(forge="review", project="p", branch="master", number=189221, patchset=1, ref="r", revision="a" * 40)


def ended(job: str, verdict: Verdict | None, *, seconds: int = 191, **rest: Any) -> Run:
    return Run(
        **{
            "id": f"{job}-{rest.get('attempt', 1)}",
            "round": "7",
            "job": job,
            "spec": Job(name=job),
            "forge": "review",
            "project": "p",
            "number": 189221,
            "patchset": 1,
            "created": T0,
            "started": T0 + timedelta(hours=2),
            "ended": T0 + timedelta(hours=2, seconds=seconds),
            "state": State.DONE,
            "verdict": verdict,
            **rest,
        }
    )


def report(*runs: Run, vote: Vote = Vote.FULL, contact: str = "") -> Any:
    return compose(
        "7",
        CHANGE,
        runs,
        public_url="https://ci.example.org",
        vote=vote,
        label="Verified",
        contact=contact,
        now=T0,
    )


def test_the_message_of_a_round_to_the_letter() -> None:
    said = report(
        ended("noop", Verdict.SUCCESS, seconds=0),
        ended("two-machines", Verdict.SUCCESS),
        ended("extra", Verdict.FAILURE, seconds=3723, voting=False),
        contact="https://wiki.example.org/My_CI",
    )
    assert said.message == (
        "Build succeeded.\n"
        "\n"
        "- noop https://ci.example.org/runs/noop-1/ : SUCCESS in 0s\n"
        "- two-machines https://ci.example.org/runs/two-machines-1/ : SUCCESS in 3m 11s\n"
        "- extra https://ci.example.org/runs/extra-1/ : FAILURE in 1h 02m 03s (non-voting)\n"
        "\n"
        "Contact: https://wiki.example.org/My_CI\n"
        "https://ci.example.org/rounds/7"
    )


def test_the_last_line_is_the_rounds_link_which_find_looks_for() -> None:
    said = report(ended("noop", Verdict.SUCCESS))
    assert said.link == "https://ci.example.org/rounds/7"
    assert said.message.splitlines()[-1] == said.link


@pytest.mark.parametrize("verdict", list(Verdict))
def test_each_verdict_has_its_word(verdict: Verdict) -> None:
    assert f": {verdict.value.upper()} in 3m 11s" in report(ended("noop", verdict)).message


def test_a_run_that_ended_without_a_verdict_is_an_error() -> None:
    assert ": ERROR in" in report(ended("noop", None)).message


def test_only_the_last_attempt_of_a_job_counts_in_its_first_place() -> None:
    said = report(
        ended("a", Verdict.FAILURE),
        ended("b", Verdict.SUCCESS),
        ended("a", Verdict.SUCCESS, attempt=2),
    )
    lines = [line for line in said.message.splitlines() if line.startswith("- ")]
    assert [line.split("/")[4] for line in lines] == ["a-2", "b-1"]
    assert said.labels == {"Verified": 1}


@pytest.mark.parametrize(
    ("verdicts", "headline"),
    [
        ([Verdict.SUCCESS], "Build succeeded."),
        ([Verdict.SUCCESS, Verdict.FAILURE], "Build failed."),
        ([Verdict.SUCCESS, Verdict.TIMED_OUT], "Build failed."),
        ([Verdict.ERROR, Verdict.FAILURE], "Build failed."),
        ([Verdict.SUCCESS, Verdict.ERROR], "Build did not finish: the trouble was ours, not the change's."),
        ([Verdict.LEASE_LOST], "Build did not finish: the trouble was ours, not the change's."),
    ],
)
def test_the_headline_says_whose_trouble_it_was(verdicts: list[Verdict], headline: str) -> None:
    said = report(*(ended(f"job{number}", verdict) for number, verdict in enumerate(verdicts)))
    assert said.message.splitlines()[0] == headline


@pytest.mark.parametrize(
    ("vote", "verdicts", "labels"),
    [
        (Vote.NONE, [Verdict.SUCCESS], {}),
        (Vote.NONE, [Verdict.FAILURE], {}),
        (Vote.PLUS_ONE_ONLY, [Verdict.SUCCESS], {"Verified": 1}),
        (Vote.PLUS_ONE_ONLY, [Verdict.FAILURE], {}),
        (Vote.PLUS_ONE_ONLY, [Verdict.SUCCESS, Verdict.ERROR], {}),
        (Vote.FULL, [Verdict.SUCCESS], {"Verified": 1}),
        (Vote.FULL, [Verdict.FAILURE], {"Verified": -1}),
        (Vote.FULL, [Verdict.TIMED_OUT], {"Verified": -1}),
        (Vote.FULL, [Verdict.ERROR], {}),
        (Vote.FULL, [Verdict.LEASE_LOST], {}),
        (Vote.FULL, [Verdict.CANCELLED], {}),
        (Vote.FULL, [Verdict.SUCCESS, Verdict.ERROR], {}),
        (Vote.FULL, [Verdict.ERROR, Verdict.FAILURE], {"Verified": -1}),
    ],
)
def test_the_vote_follows_the_policy(vote: Vote, verdicts: list[Verdict], labels: dict[str, int]) -> None:
    runs = [ended(f"job{number}", verdict) for number, verdict in enumerate(verdicts)]
    assert report(*runs, vote=vote).labels == labels


def test_jobs_that_do_not_vote_never_count() -> None:
    runs = [ended("a", Verdict.SUCCESS), ended("b", Verdict.FAILURE, voting=False)]
    assert report(*runs).labels == {"Verified": 1}
    assert report(ended("b", Verdict.SUCCESS, voting=False)).labels == {}


def test_a_round_of_very_many_jobs_still_fits_in_a_message() -> None:
    said = report(*(ended(f"job-{number:04}", Verdict.SUCCESS) for number in range(1000)))
    assert len(said.message) < LONGEST + 1000
    assert "more, on the page below" in said.message
    assert said.message.splitlines()[-1] == said.link


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0.9, "0s"),
        (59, "59s"),
        (60, "1m 00s"),
        (191, "3m 11s"),
        (3600, "1h 00m 00s"),
        (90061, "25h 01m 01s"),
    ],
)
def test_durations_are_spelt_as_zuul_does(seconds: float, text: str) -> None:
    assert spell(timedelta(seconds=seconds)) == text


def test_a_round_that_was_cancelled_says_so_and_why() -> None:
    said = report(
        ended("noop", Verdict.SUCCESS),
        ended("two-machines", Verdict.CANCELLED, reason="cancelled by anna: wrong\nbranch"),
    )
    lines = said.message.splitlines()
    assert lines[0] == "Build was cancelled."
    assert lines[4:6] == ["", "two-machines: cancelled by anna: wrong branch"]
    assert lines[-1] == "https://ci.example.org/rounds/7"
    assert said.labels == {}


def test_what_did_not_succeed_says_why_below_the_result_lines() -> None:
    said = report(ended("pair", Verdict.FAILURE, reason="main 1 (fails) on one exited 3"))
    assert said.message.splitlines()[2:5] == [
        "- pair https://ci.example.org/runs/pair-1/ : FAILURE in 3m 11s",
        "",
        "pair: main 1 (fails) on one exited 3",
    ]


def test_reasons_never_push_a_message_beyond_what_a_forge_takes() -> None:
    said = report(*(ended(f"job-{number}", Verdict.FAILURE, reason="x" * 1000) for number in range(200)))
    assert len(said.message) < LONGEST + 500
    assert said.message.endswith("https://ci.example.org/rounds/7")
