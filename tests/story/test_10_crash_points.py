"""A kill at every crash point that the code names: nothing is lost, doubled or left behind."""

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from paddock.core.environment import State
from tests.story.house import RECHECK, ROOT, House, house

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Death = tuple[str, str]
"""A crash point, and the variable that arms it: for the server, host's agent and keepers, or for machines' agents."""

CONFIG = """
- environment: {{name: pair, machines: [{{name: one}}, {{name: two}}], host: local, max: 1}}
- job:
    name: pair
    environment: pair
    trusted: true
    steps:
      - name: victim
        interpreter: {python} {victim}
        run: main
    after:
      - name: victim
        interpreter: {python} {victim}
        run: after
    results: ["*.xml"]
    artifacts: ["logs/**"]
- project: {{name: openstack-dev/ci-sandbox, jobs: [noop, pair]}}
"""

VICTIM = """
import os, pathlib, sys
here = pathlib.Path(sys.argv[1]).read_text().strip()
results = pathlib.Path(os.environ["PADDOCK_RESULTS"])
fd = os.open({count!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(fd, (here + " " + os.environ["PADDOCK_MACHINE"] + " " + os.environ["PADDOCK_TASK"] + "\\n").encode())
os.fsync(fd)
for number in range(2000):
    print(here, number)
(results / "logs").mkdir(parents=True, exist_ok=True)
(results / "logs" / (here + ".txt")).write_text(here * 1000)
(results / "result.xml").write_text('<testsuite><testcase name="a"/></testsuite>')
"""

ELSEWHERE = {
    **dict.fromkeys(
        (
            *("hypervisor.template_healing", "hypervisor.template_emptying", "hypervisor.template_filling"),
            *("hypervisor.template_filled", "hypervisor.template_healed"),
        ),
        "../agent/hypervisor/test_templates.py::test_a_kill_while_a_template_is_healed_leaves_it_whole_or_to_be_healed",
    ),
    **dict.fromkeys(
        ("hypervisor.volume_made", "hypervisor.volume_named"),
        "../agent/hypervisor/test_disks_contract.py::test_a_kill_at_each_step_leaves_a_whole_volume_or_none",
    ),
    **dict.fromkeys(
        (
            *("hypervisor.image_downloading", "hypervisor.image_downloaded", "hypervisor.image_taken"),
            *("hypervisor.image_sealing", "hypervisor.image_recorded", "hypervisor.image_sealed"),
            *("hypervisor.image_cloned", "hypervisor.image_booting", "hypervisor.image_booted"),
            *("hypervisor.image_changed", "hypervisor.image_off"),
        ),
        "../agent/hypervisor/test_image_crashes.py::"
        "test_a_kill_while_an_image_is_built_is_made_up_for_by_the_next_start",
    ),
    **dict.fromkeys(
        (
            *("hypervisor.image_opening", "hypervisor.image_opened"),
            *("hypervisor.image_closing", "hypervisor.image_closed"),
        ),
        "../agent/hypervisor/test_image_crashes.py::test_a_kill_while_a_build_has_a_way_outside_leaves_no_network",
    ),
    **dict.fromkeys(
        ("hypervisor.image_pushed_aside", "hypervisor.template_pushed_aside"),
        "../agent/hypervisor/test_image_crashes.py::test_a_kill_while_something_is_collected_leaves_no_half_of_it",
    ),
    "gerrit.heard": "test_14_forge_over_ssh.py::test_a_kill_while_a_gerrit_is_heard_or_told_reports_once",
    "gerrit.stored": "test_14_forge_over_ssh.py::test_a_kill_while_a_gerrit_is_heard_or_told_reports_once",
    "gerrit.sending": "test_14_forge_over_ssh.py::test_a_kill_while_a_gerrit_is_heard_or_told_reports_once",
    "gerrit.sent": "test_14_forge_over_ssh.py::test_a_kill_while_a_gerrit_is_heard_or_told_reports_once",
    "keeping.removed": "test_11_retention.py::test_a_kill_while_forgetting_leaves_the_rest_to_the_next_start",
    "agent.putting": "test_10_crash_points.py::test_a_file_that_is_replaced_is_the_old_or_the_new_one_after_a_kill",
    "agent.put": "test_10_crash_points.py::test_a_file_that_is_replaced_is_the_old_or_the_new_one_after_a_kill",
    "archive.writing": "test_10_crash_points.py::test_a_file_that_is_replaced_is_the_old_or_the_new_one_after_a_kill",
    "archive.written": "test_10_crash_points.py::test_a_file_that_is_replaced_is_the_old_or_the_new_one_after_a_kill",
    **dict.fromkeys(
        ("alerts.writing", "alerts.written", "alerts.telling"),
        "../agent/test_watching.py::test_a_killed_agent_tells_its_alert_all_the_same",
    ),
    **dict.fromkeys(
        ("cleaning.item", "cleaning.item_gone"),
        "../agent/test_cleaning.py::test_a_kill_in_between_is_made_up_for_by_beginning_again",
    ),
    **dict.fromkeys(
        (
            *("cleaning.asking", "cleaning.asked", "retiring.beginning", "retiring.begun"),
            *("retiring.identity_gone", "retiring.state_gone", "retiring.done"),
        ),
        "../agent/test_cleaning.py::test_a_kill_at_any_step_is_told_once_and_ends_without_an_identity",
    ),
    **dict.fromkeys(
        ("reboot.calling", "reboot.noted", "reboot.called"),
        "../agent/test_rebooting.py::test_it_is_never_called_twice_for_one_command",
    ),
    **dict.fromkeys(
        (
            *("upgrade.fetching", "upgrade.fetched", "upgrade.trying", "upgrade.tried", "upgrade.noting"),
            *("upgrade.noted", "upgrade.switched", "upgrade.settling", "upgrade.settled"),
        ),
        "../agent/test_upgrading.py::test_a_kill_at_any_step_ends_in_one_whole_program_and_one_report",
    ),
    **dict.fromkeys(
        ("upgrade.giving_back", "upgrade.given_up", "upgrade.given_back"),
        "../agent/test_upgrading.py::test_a_kill_while_the_old_program_comes_back_leaves_the_old_program",
    ),
    **dict.fromkeys(
        (
            *("drafts.replacing", "disk.formatting", "disk.formatted", "disk.mounted", "disk.unmounted"),
            *("disk.encrypting", "disk.encrypted"),
        ),
        "../agent/test_disks.py::test_a_kill_at_any_step_is_made_up_for_by_the_same_command",
    ),
    **dict.fromkeys(
        ("hypervisor.net_recording", "hypervisor.net_recorded"),
        "../agent/hypervisor/test_rootless.py::test_a_kill_while_networks_are_made_leaves_what_the_next_one_completes",
    ),
    **dict.fromkeys(
        ("hypervisor.net_forgetting", "hypervisor.net_forgotten"),
        "../agent/hypervisor/test_rootless.py::test_a_kill_while_networks_go_leaves_what_the_next_one_removes",
    ),
    **dict.fromkeys(
        ("cable.signing", "cable.signed"),
        "../agent/hypervisor/test_rootless.py::test_a_kill_while_programs_sign_ends_with_one_of_each",
    ),
    **dict.fromkeys(
        (
            *("hypervisor.namespace_making", "hypervisor.namespace_made"),
            *("hypervisor.taps_making", "hypervisor.taps_made"),
        ),
        "../agent/hypervisor/rooted_cases.py::test_a_kill_while_a_namespace_is_made_leaves_what_the_next_one_completes",
    ),
    **dict.fromkeys(
        ("hypervisor.namespace_removing", "hypervisor.namespace_removed"),
        "../agent/hypervisor/rooted_cases.py::test_a_kill_while_a_namespace_goes_leaves_what_the_next_one_removes",
    ),
    **dict.fromkeys(
        (
            *("waking.begun", "waking.seeded", "waking.heard", "waking.answered", "settling.begun", "settling.named"),
            *("settling.keyed", "settling.listed", "settling.stamped", "settling.flushed", "settling.recorded"),
            "settling.done",
        ),
        "../agent/test_parking.py::test_a_death_in_the_middle_of_a_wake_is_made_up_for_by_the_same_wake",
    ),
    **dict.fromkeys(
        (
            *("parking.marking", "parking.marked", "parking.nobody", "parking.ended", "parking.emptied"),
            *("parking.cleaned", "parking.forgotten", "parking.answering"),
        ),
        "../agent/test_parking.py::test_a_death_in_the_middle_of_a_park_ends_parked",
    ),
    **dict.fromkeys(
        (
            *("hypervisor.machine_recording", "hypervisor.machine_recorded", "hypervisor.template_freezing"),
            *("hypervisor.template_naming", "hypervisor.template_named", "hypervisor.forking", "hypervisor.forked"),
            *("hypervisor.woken", "hypervisor.machine_awake", "hypervisor.machine_going", "hypervisor.machine_gone"),
            *("hypervisor.booting", "hypervisor.planting", "hypervisor.planted", "hypervisor.booted"),
        ),
        "test_18_virtual_machines.py::test_a_kill_of_the_hosts_agent_leaves_nothing_and_lends_nothing_twice",
    ),
    **dict.fromkeys(
        ("hypervisor.saving", "hypervisor.saved"),
        "test_18_virtual_machines.py::test_a_kill_while_disks_are_kept_keeps_them_once",
    ),
    "parking.going_off": (
        "../agent/test_parking.py::test_a_death_on_the_way_to_the_end_of_the_machine_ends_it_all_the_same"
    ),
    "origin.moved": "../agent/test_copy.py::test_a_copy_that_dies_while_it_begins_anew_goes_on_at_the_next_start",
    **dict.fromkeys(
        (
            *("hypervisor.qemu_starting", "hypervisor.qemu_started", "hypervisor.qemu_noted"),
            "hypervisor.qemu_up",
        ),
        "../agent/hypervisor/test_driver_crashes.py::test_a_start_that_was_cut_short_is_made_whole_by_the_next_one",
    ),
    **dict.fromkeys(
        ("hypervisor.qemu_ended", "hypervisor.qemu_off"),
        "../agent/hypervisor/test_driver_crashes.py::test_an_end_that_was_cut_short_is_an_end",
    ),
    **dict.fromkeys(
        ("hypervisor.sealing", "hypervisor.sealed", "hypervisor.templated"),
        "../agent/hypervisor/test_driver_crashes.py::test_a_freeze_that_was_cut_short_leaves_a_whole_template_or_none",
    ),
    **dict.fromkeys(
        ("hypervisor.helper_starting", "hypervisor.helper_started"),
        "../agent/hypervisor/test_driver_crashes.py::test_an_errand_that_was_cut_short_is_found_and_run_again",
    ),
    **dict.fromkeys(
        ("token.saved", "token.told", "token.accepted"),
        "../agent/test_connection.py::test_an_agent_that_dies_while_it_changes_its_token_is_never_locked_out",
    ),
}
"""Points that the job of this story does not pass, and the test that passes each."""

MACHINES = {
    *("agent.forking", "agent.forked", "agent.starting", "agent.started", "agent.opening", "agent.opened"),
    "agent.output",
}
"""Points that only the agents of machines pass here: a host's agent holds no program."""

BOTH = {
    *("agent.pruning", "agent.pruned", "agent.accepting", "agent.accepted", "agent.working", "agent.worked"),
    *("agent.finishing", "agent.finished", "agent.telling", "agent.told"),
    *("agent.acknowledging", "agent.acknowledged"),
}
"""Points that the host's agent and those of machines pass."""

ENDS_IN_ERROR = {"keeper.gate_opening", "keeper.gate_opened", "keeper.ended", "keeper.recording"}
"""A keeper that dies while its task may have run: nobody knows how it ended, so it is never run again."""


LATER = (
    *("store.committing:20", "store.committed:40", "commanding.sent:3", "commanding.recorded:5"),
    *("archive.appended:3", "leasing.served:3", "running.moved:6"),
)
"""Points of the server that are passed all the time, and one more of these times, in the middle of the run."""

STATES = sorted(state.value for state in State)
"""Those of environments that are gone too."""


def points() -> list[str]:
    """Every literal that the code passes to `faults.at`."""
    found = set()
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="faults"), attr="at"), args=[name]):
                    assert isinstance(name, ast.Constant), f"{file}: a crash point is named by a literal"
                    found.add(str(name.value))
    return sorted(found)


def here() -> list[tuple[str, str]]:
    """Each point of this story with who is to die at it."""
    deaths = []
    for point in points():
        if point in ELSEWHERE:
            continue
        if point not in MACHINES:
            deaths.append((point, "PADDOCK_FAULT"))
        if point in MACHINES | BOTH:
            deaths.append((point, "PADDOCK_MACHINE_FAULT"))
    return [*deaths, *((point, "PADDOCK_FAULT") for point in LATER)]


def test_every_point_that_is_named_here_is_one_of_the_code() -> None:
    named = {*ELSEWHERE, *MACHINES, *BOTH, *ENDS_IN_ERROR, *(point.partition(":")[0] for point in LATER)}

    assert named <= set(points())
    assert len(here()) > 60


def _targets(assigned: ast.Assign) -> set[str]:
    return {target.id for target in assigned.targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_what_is_passed_elsewhere_is_passed_by_a_test_that_exists(test: str) -> None:
    file, _, name = test.partition("::")
    source = (Path(__file__).parent / file).read_text()
    module = ast.parse(source)
    (found,) = (node for node in ast.walk(module) if getattr(node, "name", "") == name)
    assert isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef)
    # With its decorators, and the lists that they name: that is where the points stand that it is told with.
    first = min([found.lineno, *(decorator.lineno for decorator in found.decorator_list)])
    named = {node.id for one in found.decorator_list for node in ast.walk(one) if isinstance(node, ast.Name)}
    lists = [ast.unparse(one) for one in module.body if isinstance(one, ast.Assign) and named & _targets(one)]
    told = "\n".join([*source.splitlines()[first - 1 : found.end_lineno], *lists]).replace("'", '"')

    for point, where in ELSEWHERE.items():
        assert where != test or f'"{point}"' in told


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Death, Future[None]]]:
    """Every story that was asked for, two at a time: one waits for a restart while the other works."""
    asked: list[Death] = [
        (str(item.callspec.params["point"]), str(item.callspec.params["who"]))
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_a_kill_loses_and_doubles_nothing
    ]
    # A process each: what a house leaves behind is found among the descendants of its teller.
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("fork")) as tellers:
        yield {death: tellers.submit(tell, *death, tmp_path_factory.mktemp("house")) for death in asked}


@pytest.mark.parametrize(("point", "who"), here(), ids=lambda word: word.replace("PADDOCK_", "").lower())
def test_a_kill_loses_and_doubles_nothing(point: str, who: str, told: dict[Death, Future[None]]) -> None:
    told[point, who].result()


def tell(point: str, who: str, directory: Path) -> None:
    """The story of one death, and what must be true after it."""
    count, victim, died = directory / "count", directory / "victim.py", directory / "died"
    victim.write_text(VICTIM.format(count=str(count)))
    with house(directory) as paddock:
        paddock.configure(CONFIG.format(python=sys.executable, victim=victim))
        paddock.tell(RECHECK)

        paddock.tend(**{who: point, "PADDOCK_FAULT_ONCE": str(died)})
        paddock.until(lambda: paddock.tended() and paddock.reports(), "the report is posted", limit=90)
        paddock.until_environments("ready", limit=60)
        paddock.until(lambda: paddock.tended() and is_over(paddock), "everything is told and acknowledged")
        paddock.until(lambda: paddock.tended() and died.exists(), f"{point} is passed", limit=5)
        paddock.until(lambda: paddock.tended() and paddock.listens(), "the server is back")

        (report,) = paddock.reports()
        assert report["labels"] == {}
        noop, pair = paddock.runs()
        assert noop["verdict"] == "success"
        assert pair["verdict"] == ("error" if point in ENDS_IN_ERROR else "success"), pair["reason"]
        assert_executed_once(paddock, pair, count.read_text().splitlines() if count.exists() else [])
        assert_lent_once(paddock, pair)
        assert not paddock.tasks()
        assert not left_behind(paddock)


PUT = """
import asyncio, base64, sys
from pathlib import Path
from paddock.agent.skills import files
from paddock.agent.skills.skill import Call, Place
work = Path(sys.argv[1])
place = Place(work=work, temporary=work, tasks=work)
params = {"path": "kept.txt", "data": base64.b64encode(sys.argv[2].encode()).decode(), "offset": 0}
call = Call(task="t", method="file.put", params=params, environment="", fence=0, directory=work)
asyncio.run(files.methods(place)["file.put"].act(call))
"""

WRITE = """
import asyncio, sys
from pathlib import Path
from paddock.adapters.archives.directory import DirectoryArchive
asyncio.run(DirectoryArchive(Path(sys.argv[1])).write("kept.txt", sys.argv[2].encode()))
"""


@pytest.mark.parametrize(
    ("program", "point", "survivor"),
    [
        (PUT, "agent.putting", "old"),
        (PUT, "agent.put", "new"),
        (WRITE, "archive.writing", "old"),
        (WRITE, "archive.written", "new"),
    ],
    ids=["agent.putting", "agent.put", "archive.writing", "archive.written"],
)
def test_a_file_that_is_replaced_is_the_old_or_the_new_one_after_a_kill(
    program: str, point: str, survivor: str, tmp_path: Path
) -> None:
    def replace(content: str, **fault: str) -> int:
        argv = [sys.executable, "-c", program, str(tmp_path), content]
        return subprocess.run(
            argv, env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **fault}, check=False
        ).returncode

    assert replace("old") == 0
    assert replace("new", PADDOCK_FAULT=point) == -signal.SIGKILL

    assert (tmp_path / "kept.txt").read_text() == survivor
    assert replace("newer") == 0
    assert (tmp_path / "kept.txt").read_text() == "newer"


def assert_executed_once(paddock: House, run: dict[str, Any], counted: list[str]) -> None:
    """What the victim itself counted; and where the run went well, every byte that it said."""
    assert len(counted) == len(set(counted)), "a command was executed twice"
    done = [line.rsplit(" ", 1)[0] for line in counted]
    assert len(done) == len(set(done)), "a step was executed twice"
    if run["verdict"] != "success":
        return
    assert sorted(done) == ["after one", "after two", "main one", "main two"]
    for phase, machine in (line.split() for line in done):
        log = paddock.text(f"/api/v1/runs/{run['id']}/log/{phase}-1-{machine}")
        assert log == "".join(f"{phase} {number}\n" for number in range(2000))
    assert {artifact["path"]: artifact["size"] for artifact in run["artifacts"]} == {
        f"{machine}/logs/{phase}.txt": 1000 * len(phase) for machine in ("one", "two") for phase in ("main", "after")
    }
    assert len(run["cases"]) == 2


def assert_lent_once(paddock: House, run: dict[str, Any]) -> None:
    """Fences only rise, no environment has two owners at once, and it is clean before it is ready again."""
    leases = paddock.get("leases")["items"]
    assert [lease["state"] for lease in leases if lease["run"] == run["id"]] == ["released"]
    for environment in paddock.get("environments", state=STATES)["items"]:
        history = paddock.get(f"environments/{environment['id']}")["history"]
        assert all(older["fence"] <= newer["fence"] for older, newer in pairwise(history))
        assert all(older["after"] == newer["before"] for older, newer in pairwise(history))
        lent = [one["fence"] for one in history if one["after"] == "leased"]
        assert len(lent) == len(set(lent))
    living = [one for one in paddock.get("environments")["items"] if one["state"] != "gone"]
    assert [one["pool"] for one in living] == ["pair"], "an environment was lost or made twice"


def is_over(paddock: House) -> bool:
    """No agent has anything left to tell: every task's directory is gone."""
    return not any(paddock.agent_state.glob("tasks/*")) and not any(
        paddock.agent_state.glob("machines/*/*/agent/tasks/*")
    )


def left_behind(paddock: House) -> list[str]:
    """Files of jobs, drafts, and machines without an environment."""
    living = {one["id"] for one in paddock.get("environments")["items"] if one["state"] != "gone"}
    lost = [place for place in paddock.agent_state.glob("machines/*") if place.name not in living]
    work = [file for kind in ("work", "tmp") for file in paddock.agent_state.glob(f"machines/*/*/{kind}/*")]
    drafts = [*paddock.state.rglob("*.part"), *paddock.agent_state.rglob("*.new")]
    return [str(file) for file in (*lost, *work, *drafts)]
