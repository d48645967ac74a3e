"""Which jobs an event starts, and why each of the others does not run."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from paddock.core.configuration import Configuration, Forge, ForgeKind, Project, ProjectJob
from paddock.core.environment import Pool
from paddock.core.event import Change, Event, Kind, Why
from paddock.core.job import NOOP, Job
from paddock.core.round import Round, State
from paddock.core.trigger import EVERY_JOB, LINE_MAX, LINES_MAX, decide, matches, recheck_of

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
CHANGE = Change(
    forge="review",
    project="openstack/nova",
    branch="master",
    number=912345,
    patchset=3,
    ref="refs/changes/45/912345/3",
    revision="a" * 40,
)
FORGE = Forge(
    name="review",
    kind=ForgeKind.GERRIT,
    account="my-ci",
    account_where="paddock.yaml:4:9",
    bots=("jenkins", "zuul"),
    bots_where="paddock.yaml:5:11",
    recheck=("^recheck$", "^my-ci recheck$"),
    recheck_where=("paddock.yaml:6:14", "paddock.yaml:6:27"),
    where="paddock.yaml:3:5",
)
DSVM = Job(name="dsvm", environment="two-node", trusted=True, where="paddock.yaml:20:5")
POOL = Pool(name="two-node", host="local", machines=("one", "two"), where="paddock.yaml:12:5")
NOVA = Project(
    name="openstack/nova",
    jobs=(ProjectJob(job="noop", where="paddock.yaml:31:12"), ProjectJob(job="dsvm", where="paddock.yaml:31:18")),
    branches=("master",),
    where="paddock.yaml:30:5",
    branches_where="paddock.yaml:30:40",
)
CONFIGURATION = Configuration(
    forges={"review": FORGE}, pools={"two-node": POOL}, jobs={"noop": NOOP, "dsvm": DSVM}, projects=(NOVA,)
)


def created(change: Change | None = CHANGE, *, author: str = "anna") -> Event:
    return Event(
        id="7",
        forge="review",
        session="s",
        position=0,
        heard=NOW,
        kind=Kind.PATCHSET_CREATED,
        type="patchset-created",
        raw="{}",
        author=author,
        change=change,
    )


def commented(text: str, *, change: Change = CHANGE, author: str = "anna") -> Event:
    return replace(
        created(change, author=author),
        kind=Kind.COMMENT_ADDED,
        type="comment-added",
        comment=f"Patch Set {change.patchset}:\n\n{text}",
    )


def round_of(patchset: int, *, id: str = "4", state: State = State.RUNNING, number: int = 912345) -> Round:
    return Round(
        id=id,
        event="1",
        forge="review",
        project="openstack/nova",
        number=number,
        patchset=patchset,
        change=None,
        created=NOW,
        state=state,
    )


def with_projects(*projects: Project) -> Configuration:
    return replace(CONFIGURATION, projects=projects)


def test_a_new_patch_set_starts_the_jobs_of_its_project_in_their_order():
    plan = decide(created(), CONFIGURATION, [])
    assert plan.jobs == NOVA.jobs
    assert plan.outcome == "noop, dsvm"
    assert plan.whys == (
        Why(job="noop", runs=True, reason="project openstack/nova, patchset-created", where="paddock.yaml:31:12"),
        Why(job="dsvm", runs=True, reason="project openstack/nova, patchset-created", where="paddock.yaml:31:18"),
    )


def test_a_comment_that_matches_starts_them_and_says_by_which_expression():
    plan = decide(commented("my-ci recheck"), CONFIGURATION, [])
    assert [job.job for job in plan.jobs] == ["noop", "dsvm"]
    assert plan.whys[0].reason == "project openstack/nova, comment matches ^my-ci recheck$"


def test_a_comment_that_asks_for_nothing_names_the_line_of_the_expressions():
    plan = decide(commented("looks good"), CONFIGURATION, [])
    assert plan.jobs == ()
    assert plan.outcome == "no match: comment: wants ^recheck$ or ^my-ci recheck$"
    assert {(why.job, why.runs, why.where) for why in plan.whys} == {
        ("noop", False, "paddock.yaml:6:14"),
        ("dsvm", False, "paddock.yaml:6:14"),
    }


def test_our_own_account_never_triggers_even_with_the_right_words():
    plan = decide(commented("recheck", author="my-ci"), CONFIGURATION, [])
    assert (plan.outcome, plan.jobs) == ("our own account my-ci", ())
    assert plan.whys == (Why(job=EVERY_JOB, runs=False, reason="our own account my-ci", where="paddock.yaml:4:9"),)


def test_a_bot_is_judged_before_the_project():
    stranger = replace(CHANGE, project="openstack/unknown")
    plan = decide(commented("recheck", change=stranger, author="jenkins"), CONFIGURATION, [])
    assert (plan.outcome, plan.whys[0].where) == ("bot jenkins", "paddock.yaml:5:11")


def test_a_project_that_nobody_configured_starts_nothing():
    plan = decide(created(replace(CHANGE, project="openstack/nova-specs")), CONFIGURATION, [])
    assert (plan.outcome, plan.jobs) == ("no project openstack/nova-specs", ())


def test_an_unknown_forge_starts_nothing():
    assert decide(replace(created(), forge="elsewhere"), CONFIGURATION, []).outcome == "no forge elsewhere"


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("openstack/nova", "openstack/nova", True),
        ("openstack/nova", "openstack/nova-specs", False),
        ("openstack.nova", "openstack/nova", False),
        ("^openstack/.*", "openstack/nova", True),
        ("^openstack/n", "openstack/nova", False),
        ("^openstack/nova$", "openstack/nova\n", False),
    ],
)
def test_a_name_is_exact_or_an_expression_for_the_whole(pattern, name, expected):
    assert matches(pattern, name) is expected


def test_another_branch_is_named_beside_the_wanted_ones():
    plan = decide(created(replace(CHANGE, branch="stable/juno")), CONFIGURATION, [])
    assert plan.outcome == "no match: branch: wants master, is stable/juno"
    assert plan.whys[0].where == "paddock.yaml:30:40"


def test_two_entries_of_one_project_add_up():
    stable = replace(NOVA, jobs=(ProjectJob(job="migrate", where="paddock.yaml:44:7"),), branches=("^stable/.*",))
    plan = decide(created(), with_projects(NOVA, stable), [])
    assert [job.job for job in plan.jobs] == ["noop", "dsvm"]
    assert plan.whys[2] == Why(
        job="migrate", runs=False, reason="branch: wants stable/.*, is master", where="paddock.yaml:30:40"
    )


def test_a_job_of_two_entries_runs_once_and_yes_wins_over_no():
    stable = replace(NOVA, branches=("^stable/.*",))
    anything = replace(NOVA, name="^openstack/.*", branches=(), jobs=(ProjectJob(job="noop", voting=False),))
    plan = decide(created(), with_projects(stable, NOVA, anything), [])
    assert plan.jobs == NOVA.jobs
    assert [(why.job, why.runs) for why in plan.whys] == [("noop", True), ("dsvm", True)]


def test_a_project_of_another_forge_says_so():
    plan = decide(created(), with_projects(replace(NOVA, forge="github")), [])
    assert plan.outcome == "no match: forge: wants github, is review"


@pytest.mark.parametrize(
    ("event", "on", "runs"),
    [
        (created(), ("recheck",), False),
        (created(), ("patchset-created",), True),
        (commented("recheck"), ("patchset-created",), False),
        (commented("recheck"), ("recheck",), True),
    ],
)
def test_a_project_says_which_events_start_it(event, on, runs):
    plan = decide(event, with_projects(replace(NOVA, on=on)), [])
    assert bool(plan.jobs) is runs
    assert runs or plan.outcome.startswith(f"no match: event: wants {on[0]}, is ")


def test_a_job_without_trust_stays_away_from_a_bare_host():
    configuration = replace(CONFIGURATION, jobs={"noop": NOOP, "dsvm": replace(DSVM, trusted=False)})
    plan = decide(created(), configuration, [])
    assert [job.job for job in plan.jobs] == ["noop"]
    assert plan.whys[1] == Why(
        job="dsvm",
        runs=False,
        reason="not trusted: environment two-node has no isolation",
        where="paddock.yaml:20:5",
    )


def test_a_job_without_trust_runs_where_isolation_is():
    jobs = {"noop": NOOP, "dsvm": replace(DSVM, trusted=False)}
    configuration = replace(CONFIGURATION, jobs=jobs, pools={"two-node": replace(POOL, isolated=True)})
    assert len(decide(created(), configuration, []).jobs) == 2


def test_a_person_who_asks_needs_no_comment_but_gets_no_trust_either():
    by_hand = replace(created(author="my-ci"), kind=Kind.MANUAL, type="manual")
    configuration = with_projects(replace(NOVA, on=()))
    assert decide(by_hand, configuration, []).whys[0].reason == "project openstack/nova, by hand"
    untrusted = replace(configuration, jobs={"noop": NOOP, "dsvm": replace(DSVM, trusted=False)})
    assert [job.job for job in decide(by_hand, untrusted, []).jobs] == ["noop"]


def test_a_newer_patch_set_supersedes_the_rounds_of_lower_ones():
    live = [round_of(1, id="2"), round_of(2, id="4"), round_of(2, id="5", number=1)]
    assert decide(created(), CONFIGURATION, live).supersedes == ("2", "4")


def test_a_round_that_reports_or_is_over_is_not_superseded():
    live = [round_of(2, id="4", state=State.REPORTING), round_of(1, id="2", state=State.DONE)]
    plan = decide(created(), CONFIGURATION, live)
    assert (plan.supersedes, len(plan.jobs)) == ((), 2)


def test_a_new_patch_set_supersedes_even_where_it_starts_nothing():
    plan = decide(created(author="zuul"), CONFIGURATION, [round_of(2)])
    assert (plan.outcome, plan.jobs, plan.supersedes) == ("bot zuul", (), ("4",))


def test_a_comment_that_starts_nothing_supersedes_nothing():
    assert decide(commented("nice"), CONFIGURATION, [round_of(2)]).supersedes == ()


def test_a_recheck_beside_a_live_round_of_its_patch_set_is_ignored():
    plan = decide(commented("recheck"), CONFIGURATION, [round_of(3)])
    assert (plan.outcome, plan.jobs, plan.supersedes) == ("round 4 is running", (), ())


def test_a_recheck_while_the_report_is_sent_starts_another_round():
    plan = decide(commented("recheck"), CONFIGURATION, [round_of(3, state=State.REPORTING)])
    assert (len(plan.jobs), plan.supersedes) == (2, ())


def test_a_recheck_after_the_round_starts_another():
    assert len(decide(commented("recheck"), CONFIGURATION, [round_of(3, state=State.DONE)]).jobs) == 2


def test_an_older_patch_set_than_a_live_rounds_is_ignored():
    plan = decide(commented("recheck"), CONFIGURATION, [round_of(4)])
    assert (plan.outcome, plan.jobs) == ("patch set 3 is older than 4 of round 4", ())


@pytest.mark.parametrize(
    ("kind", "type", "outcome", "expected"),
    [
        (Kind.GAP, "gap", "gap: not heard", "gap: not heard"),
        (Kind.OTHER, "change-merged", "", "type change-merged starts nothing"),
        (Kind.OTHER, "", "not JSON: x", "not JSON: x"),
        (Kind.OTHER, "", "", "type unknown starts nothing"),
    ],
)
def test_what_is_not_acted_on_says_what_it_is(kind, type, outcome, expected):
    event = replace(created(None), kind=kind, type=type, outcome=outcome)
    assert decide(event, CONFIGURATION, []).outcome == expected


@pytest.mark.parametrize(
    "comment",
    [
        "Patch Set 3:\n\nrecheck",
        "Patch Set 3: Verified+1\n\nrecheck",
        "Patch Set 3: Code-Review+1 -Verified\n\n(2 comments)\n\nrecheck",
        "Patch Set 3:\n\n(1 comment)\n\nplease\nrecheck\nthanks",
        "Patch Set 12:\r\n\r\nrecheck\r\n",
        "Patch Set 3:\n\nrecheck   ",
        "Uploaded patch set 4.\n\nrecheck",
        "recheck",
    ],
)
def test_a_recheck_stands_on_a_line_of_its_own_below_the_header(comment):
    assert recheck_of(comment, ["^recheck$"]) == "^recheck$"


@pytest.mark.parametrize(
    "comment",
    [
        "Patch Set 3:\n\n> recheck",
        "Patch Set 3:\n\nno recheck",
        "Patch Set 3:\n\nRecheck",
        "Patch Set 3:\n\n(1 comment)",
        "Patch Set 3: recheck",
        "",
    ],
)
def test_a_quote_a_header_or_another_word_is_no_recheck(comment):
    assert recheck_of(comment, ["^recheck$"]) == ""


def test_neither_header_nor_count_is_searched_whatever_the_expression():
    assert recheck_of("Patch Set 3: Verified+1\n\n(2 comments)", ["."]) == ""


def test_what_is_searched_of_a_strangers_comment_is_bounded():
    assert recheck_of("x" * LINE_MAX + "recheck", ["recheck"]) == ""
    assert recheck_of("x\n" * LINES_MAX + "recheck", ["recheck"]) == ""
    assert recheck_of("x\n" * (LINES_MAX - 1) + "recheck", ["recheck"]) == "recheck"
