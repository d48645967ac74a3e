"""The variables that a step finds in its environment."""

from dataclasses import replace
from datetime import UTC, datetime

from paddock.core.environment import Environment, Machine
from paddock.core.event import Change
from paddock.core.job import Job, Phase, Step
from paddock.core.round import Round
from paddock.core.run import Run, Verdict
from paddock.core.variables import MEANINGS, reference, variables

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
CHANGE = Change(
    forge="review",
    project="openstack/nova",
    branch="master",
    number=912345,
    patchset=3,
    ref="refs/changes/45/912345/3",
    revision="a" * 40,
    url="https://review.example.org/912345",
)
ROUND = Round(
    id="7",
    event="1",
    forge="review",
    project="openstack/nova",
    number=912345,
    patchset=3,
    change=CHANGE,
    created=NOW,
)
RUN = Run(
    id="118",
    round="7",
    job="dsvm",
    spec=Job(name="dsvm", env={"COLOUR": "blue", "SIZE": "big"}),
    forge="review",
    project="openstack/nova",
    number=912345,
    patchset=3,
    created=NOW,
    attempt=2,
)
ONE = Machine(name="one", agent="a1", address="127.0.0.2")
COMPUTE = Machine(name="compute-1", agent="a2", address="127.0.0.3")
ENVIRONMENT = Environment(id="two-node-1", pool="two-node", host="local", since=NOW, machines=(ONE, COMPUTE))


def given(*, run=RUN, round=ROUND, phase=Phase.MAIN, step=None, results=""):
    return variables(
        run=run,
        round=round,
        environment=ENVIRONMENT,
        machine=ONE,
        phase=phase,
        step=step,
        public_url="https://ci.example.org",
        results=results,
    )


def test_a_step_knows_change_run_and_machines():
    assert given() == {
        "COLOUR": "blue",
        "SIZE": "big",
        "PADDOCK_FORGE": "review",
        "PADDOCK_PROJECT": "openstack/nova",
        "PADDOCK_BRANCH": "master",
        "PADDOCK_CHANGE": "912345",
        "PADDOCK_PATCHSET": "3",
        "PADDOCK_REF": "refs/changes/45/912345/3",
        "PADDOCK_REVISION": "a" * 40,
        "PADDOCK_CHANGE_URL": "https://review.example.org/912345",
        "PADDOCK_JOB": "dsvm",
        "PADDOCK_RUN": "118",
        "PADDOCK_ROUND": "7",
        "PADDOCK_ATTEMPT": "2",
        "PADDOCK_RUN_URL": "https://ci.example.org/runs/118/",
        "PADDOCK_PHASE": "main",
        "PADDOCK_ENVIRONMENT": "two-node-1",
        "PADDOCK_MACHINE": "one",
        "PADDOCK_MACHINES": "one compute-1",
        "PADDOCK_ADDRESS": "127.0.0.2",
        "PADDOCK_ADDRESS_ONE": "127.0.0.2",
        "PADDOCK_ADDRESS_COMPUTE_1": "127.0.0.3",
    }


def test_a_steps_own_values_win_over_the_jobs_and_paddocks_over_both():
    step = Step(name="x", run="true", env={"COLOUR": "red", "PADDOCK_RUN": "1"})
    found = given(step=step)
    assert (found["COLOUR"], found["SIZE"], found["PADDOCK_RUN"]) == ("red", "big", "118")


def test_the_verdict_so_far_is_told_after_main_only():
    assert "PADDOCK_VERDICT" not in given()
    assert given(phase=Phase.AFTER)["PADDOCK_VERDICT"] == "success"
    failed = replace(RUN, verdict=Verdict.TIMED_OUT)
    assert given(run=failed, phase=Phase.AFTER)["PADDOCK_VERDICT"] == "timed_out"


def test_a_directory_is_told_where_it_is_known():
    assert given(results="/srv/results")["PADDOCK_RESULTS"] == "/srv/results"


def test_a_round_without_a_change_has_empty_values_for_it():
    found = given(round=replace(ROUND, change=None))
    assert (found["PADDOCK_CHANGE"], found["PADDOCK_REF"], found["PADDOCK_PROJECT"]) == ("", "", "openstack/nova")


def test_no_value_holds_a_nul():
    odd = replace(CHANGE, branch="a\0b")
    assert given(round=replace(ROUND, change=odd))["PADDOCK_BRANCH"] == "a\ufffdb"


def test_each_variable_that_is_given_is_explained():
    explained = set(MEANINGS)
    found = set(given(phase=Phase.AFTER, results="/r")) - {"COLOUR", "SIZE"}
    addresses = {name for name in found if name.startswith("PADDOCK_ADDRESS_")}
    assert found - addresses <= explained
    assert explained - found == {"PADDOCK_ADDRESS_<NAME>", "PADDOCK_WORKSPACE", "PADDOCK_SOURCES"}
    assert all(f"`{name}`" in reference() for name in explained)
