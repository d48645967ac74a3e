"""Whether a command is carried out, answered or refused."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from paddock.agent.admission import Act, Answer, Asked, Facts, Refuse, on_command
from paddock.agent.entry import Entry, Moment
from paddock.wire.messages import Code

ASKED = Asked(id="C", task="C", digest="d1", seq=41, epoch=9, environment="E", fence=7)
KNOWN = Entry(
    id="C",
    task="C",
    method="script.run",
    digest="d1",
    seq=41,
    epoch=9,
    environment="E",
    fence=7,
    accepted=Moment(at=datetime(2026, 1, 1, tzinfo=UTC), uptime=timedelta(seconds=5), boot_id="b"),
)


def code(decision: object) -> Code:
    assert isinstance(decision, Refuse)
    return decision.code


def test_a_new_command_is_carried_out() -> None:
    assert on_command(None, ASKED, Facts(epoch=9, fence=7)) == Act(ends_lower=False)


def test_a_higher_fence_ends_what_runs_under_lower_ones() -> None:
    assert on_command(None, ASKED, Facts(epoch=9, fence=6)) == Act(ends_lower=True)


def test_a_known_command_is_answered() -> None:
    assert on_command(KNOWN, ASKED, Facts(epoch=9, fence=7)) == Answer(entry=KNOWN)


def test_a_known_command_is_answered_whatever_happened_since() -> None:
    after = Facts(epoch=12, fence=99, pruned_below=1000, busy="full", task_owner="C")
    assert on_command(KNOWN, replace(ASKED, seq=50, epoch=1), after) == Answer(entry=KNOWN)


def test_a_known_id_with_other_params_is_refused() -> None:
    assert code(on_command(KNOWN, replace(ASKED, digest="d2"), Facts())) is Code.REFUSED


def test_a_pruned_command_is_expired_and_never_run() -> None:
    assert code(on_command(None, ASKED, Facts(pruned_below=41))) is Code.EXPIRED
    assert on_command(None, ASKED, Facts(pruned_below=40)) == Act(ends_lower=True)


def test_a_lower_epoch_is_stale_and_a_higher_one_is_not() -> None:
    assert code(on_command(None, ASKED, Facts(epoch=10, fence=7))) is Code.STALE
    assert isinstance(on_command(None, ASKED, Facts(epoch=8, fence=7)), Act)


def test_a_lower_fence_is_stale() -> None:
    assert code(on_command(None, ASKED, Facts(fence=8))) is Code.STALE


def test_a_command_without_environment_has_no_fence() -> None:
    assert on_command(None, replace(ASKED, environment="", fence=0), Facts(fence=8)) == Act(ends_lower=False)


def test_a_plain_server_sends_neither_seq_nor_epoch() -> None:
    assert isinstance(on_command(None, replace(ASKED, seq=None, epoch=None), Facts(pruned_below=99, epoch=9)), Act)


def test_a_task_id_belongs_to_one_command() -> None:
    assert code(on_command(None, ASKED, Facts(task_owner="B"))) is Code.REFUSED


def test_a_busy_agent_says_so_and_may_be_asked_again() -> None:
    assert code(on_command(None, ASKED, Facts(busy="ledger: disk is full"))) is Code.BUSY


def test_a_moment_is_compared_by_the_clock_that_never_stops_within_a_boot() -> None:
    early = Moment(at=datetime(2026, 1, 2, tzinfo=UTC), uptime=timedelta(seconds=5), boot_id="b")
    late = Moment(at=datetime(2026, 1, 1, tzinfo=UTC), uptime=timedelta(seconds=8), boot_id="b")
    assert late.since(early) == timedelta(seconds=3)


def test_a_moment_of_another_boot_is_compared_by_the_calendar_and_never_negative() -> None:
    early = Moment(at=datetime(2026, 1, 2, tzinfo=UTC), uptime=timedelta(seconds=500), boot_id="a")
    late = Moment(at=datetime(2026, 1, 2, 0, 1, tzinfo=UTC), uptime=timedelta(seconds=8), boot_id="b")
    assert late.since(early) == timedelta(minutes=1)
    assert early.since(late) == timedelta()
