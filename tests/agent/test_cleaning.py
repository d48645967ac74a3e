"""A machine made ready to be imaged: what goes, what stays, what is only listed; and the agent that goes last."""

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

import pytest

from paddock.agent import retiring
from paddock.agent.entry import Outcome
from paddock.agent.settings import Settings, prepare
from paddock.agent.skills.skill import Call
from paddock.agent.skills.system import cleaning
from paddock.agent.skills.system.traces import ITEMS, Scene
from paddock.hands import faults
from paddock.wire.fields import BadParams
from paddock.wire.hello import TaskState
from paddock.wire.messages import Code, Failure
from tests.agent.conftest import SOURCE, Host
from tests.agent.desk import Desk

GOES = {
    "ssh_host_keys": ["etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub", "etc/ssh/ssh_host_rsa_key"],
    "authorized_keys": ["root/.ssh/authorized_keys", "home/ann/.ssh/authorized_keys"],
    "machine_id": ["var/lib/dbus/machine-id", "var/lib/systemd/credential.secret"],
    "histories": ["root/.bash_history", "home/ann/.python_history"],
    "cloud_init": [
        "var/lib/cloud/instances/i-1/user-data.txt",
        "var/lib/cloud/sem/done",
        "etc/netplan/50-cloud-init.yaml",
    ],
    "leases": ["var/lib/dhcp/dhclient.eth0.leases", "var/lib/NetworkManager/internal-1-eth0.lease"],
    "random_seed": ["var/lib/systemd/random-seed", "boot/efi/loader/random-seed"],
    "network_names": ["etc/udev/rules.d/70-persistent-net.rules"],
    "temporary": ["tmp/a/b", "tmp/.X1-lock", "var/tmp/c", "tmp/systemd-private-1-ntp/tmp/d"],
    "logs": ["var/log/syslog.1", "var/log/dpkg.log.2.gz", "var/log/journal/0/system.journal", "var/log/a-20260101"],
}
EMPTIES = {"machine_id": ["etc/machine-id"], "logs": ["var/log/syslog", "var/log/apt/history.log"]}
STAYS = [
    *("etc/ssh/sshd_config", "etc/passwd", "etc/hostname", "root/.bashrc", "home/ann/work/.bash_history"),
    *(
        "var/lib/cloud/seed/nocloud/user-data",
        "var/lib/dhcp/README",
        "opt/paddock/state/identity",
        "etc/netplan/01.yaml",
    ),
]
PASSWD = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\nno:x:9:9::/nonexistent:/bin/false\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for path in (one for found in (*GOES.values(), *EMPTIES.values(), STAYS) for one in found):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("something\n")
    (root / "etc/passwd").write_text(PASSWD)
    return root


def clean(
    root: Path, *items: str, is_dry: bool = False, users: tuple[str, ...] = (), spared: tuple[Path, ...] = ()
) -> Outcome:
    call = Call(
        task="c", method="system.clean_image", params={}, environment="", fence=0, directory=root.parent / "task"
    )
    return cleaning.clean(call, Scene(root=root, users=users, spared=spared), cleaning.chosen(items), is_dry=is_dry)


def said(root: Path) -> list[str]:
    text = (root.parent / "task" / "output").read_text()
    return text.replace(f"{root}/", "").splitlines()


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_everything_goes_but_keys_that_let_people_in(root: Path) -> None:
    before = files(root)
    outcome = clean(root)
    after = files(root)
    for item, paths in GOES.items():
        for path in paths:
            assert (path in after) is (item == "authorized_keys"), path
    for path in (*EMPTIES["machine_id"], *EMPTIES["logs"]):
        assert after[path] == "", path
    assert {path: before[path] for path in STAYS} == {path: after[path] for path in STAYS}
    items: Any = outcome.result["items"]
    assert "authorized_keys" not in items
    assert items["machine_id"] == {"removed": 2, "emptied": 1}
    assert outcome.result["refused"] == []
    assert "agent: goes once the server has this" in said(root)


@pytest.mark.parametrize("item", ITEMS)
def test_each_item_can_be_chosen_alone(root: Path, item: str) -> None:
    before = files(root)
    clean(root, item)
    after = files(root)
    changed = {path for path in before if after.get(path) != before[path]}
    assert changed == {*GOES[item], *EMPTIES.get(item, [])}


def test_a_dry_run_lists_just_what_would_go(root: Path) -> None:
    before = files(root)
    outcome = clean(root, is_dry=True)
    assert files(root) == before
    listed = {line.split(" would ")[1] for line in said(root) if not line.startswith("agent")}
    clean(root)
    done = {line.split(": ")[1] for line in said(root) if not line.startswith("agent") and " would " not in line}
    assert listed == done
    assert outcome.result["dry_run"] is True
    assert outcome.streams["out"].length > 100


def test_again_finds_nothing(root: Path) -> None:
    clean(root)
    items: Any = clean(root).result["items"]
    assert all(counts == {"removed": 0, "emptied": 0} for counts in items.values())


def test_only_these_users_lose_what_they_have(root: Path) -> None:
    clean(root, "histories", "authorized_keys", users=("ann",))
    after = files(root)
    assert "home/ann/.ssh/authorized_keys" not in after
    assert {"root/.ssh/authorized_keys", "root/.bash_history"} <= set(after)


def test_the_logs_of_an_installed_agent_are_emptied_too(root: Path) -> None:
    base = root / "opt/paddock"
    for name in ("log/agent.log", "log/agent.log.1", "etc/agent.conf"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("something")
    found = cleaning.own_logs(base / "state")
    assert found == (base / "log",)
    call = Call(
        task="c", method="system.clean_image", params={}, environment="", fence=0, directory=root.parent / "task"
    )
    cleaning.clean(call, Scene(root=root, logs=found), ("logs",), is_dry=False)
    assert (base / "log/agent.log").read_text() == ""
    assert not (base / "log/agent.log.1").exists()
    assert (base / "etc/agent.conf").read_text() == "something"
    assert cleaning.own_logs(root / "elsewhere/state") == ()


def test_no_link_is_followed(root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "precious").write_text("stay")
    (root / "tmp/link").symlink_to(outside)
    (root / "var/log/link.log").symlink_to(outside / "precious")
    (root / "var/log/directory").symlink_to(outside)
    (root / "var/lib/dbus/machine-id").unlink()
    (root / "var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
    clean(root)
    assert (outside / "precious").read_text() == "stay"
    assert not (root / "tmp/link").is_symlink()
    assert (root / "var/lib/dbus/machine-id").is_symlink()


def test_what_is_spared_stays_and_its_neighbours_go(root: Path) -> None:
    state = root / "var/tmp/agent/state"
    state.mkdir(parents=True)
    (state / "ledger").write_text("x")
    (state.parent / "other").write_text("x")
    clean(root, "temporary", spared=(state,))
    assert (state / "ledger").exists()
    assert not (state.parent / "other").exists()


def test_what_cannot_go_is_told_and_the_rest_goes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paddock.agent.skills.system import traces

    undo = traces.undo

    def refuse(trace: traces.Trace) -> None:
        if trace.path.name == "b":
            raise OSError(1, "Operation not permitted", str(trace.path))
        undo(trace)

    (root / "tmp/b").write_text("x")
    monkeypatch.setattr(traces, "undo", refuse)
    outcome = clean(root, "temporary")
    assert outcome.result["refused"] == [{"path": str(root / "tmp/b"), "why": "Operation not permitted"}]
    assert not (root / "tmp/a").exists()


def test_an_item_that_there_is_not_is_refused() -> None:
    with pytest.raises(BadParams, match=r"params\.items\[1\]: 'keys' is none of"):
        cleaning.chosen(["logs", "keys"])


@pytest.mark.parametrize("point", ["cleaning.item", "cleaning.item_gone"])
def test_a_kill_in_between_is_made_up_for_by_beginning_again(root: Path, point: str) -> None:
    faults.arm({"PADDOCK_FAULT": f"{point}:3", "PADDOCK_FAULT_ACT": "raise"})
    try:
        with pytest.raises(faults.Fault):
            clean(root)
    finally:
        faults.arm({})
    outcome = clean(root)
    assert {path for found in GOES.values() for path in found} & set(files(root)) == set(GOES["authorized_keys"])
    # What was said before the kill stays said: the server may have it already.
    assert outcome.streams["out"].length == (root.parent / "task" / "output").stat().st_size
    assert len(said(root)) == len(set(said(root)))


# ---- the agent itself

POINTS = ("retiring.identity_gone", "retiring.state_gone", "retiring.done")
LIVING_POINTS = ("cleaning.asking", "cleaning.asked", "retiring.beginning", "retiring.begun")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    chosen = Settings(state=tmp_path / "state", work=tmp_path / "work")
    prepare(chosen)
    for name in (
        "identity",
        "ledger",
        "ledger-wal",
        "log/00000001",
        "tasks/t/output",
        "system/checks",
        "lock",
        "process",
    ):
        (chosen.state / name).parent.mkdir(parents=True, exist_ok=True)
        (chosen.state / name).write_text("secret")
    (chosen.work / "left").write_text("secret")
    return chosen


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_while_the_identity_goes_is_made_up_for_at_the_next_birth(settings: Settings, point: str) -> None:
    retiring.ask(settings.state, "c")
    assert not retiring.is_begun(settings.state)
    retiring.begin(settings.state, "c")
    faults.arm({"PADDOCK_FAULT": point, "PADDOCK_FAULT_ACT": "raise"})
    try:
        with pytest.raises(faults.Fault):
            retiring.finish(settings)
    finally:
        faults.arm({})
    # Gone first: whatever else is left, nobody can say hello any more.
    assert not (settings.state / "identity").exists()
    if retiring.is_begun(settings.state):
        retiring.finish(settings)
    assert [path.name for path in settings.state.iterdir()] == ["lock"]
    assert (settings.work / "left").exists(), "a directory that somebody named is not ours to empty"


def test_the_work_directory_of_an_installed_agent_goes_too(settings: Settings) -> None:
    (settings.state.parent / "etc").mkdir()
    (settings.state.parent / "etc/agent.conf").write_text("")
    retiring.begin(settings.state, "c")
    retiring.finish(settings)
    assert list(settings.work.iterdir()) == []


def left(host: Host) -> list[str]:
    return sorted(path.name for path in host.state.iterdir())


async def over(host: Host) -> int:
    assert host.process is not None
    return await asyncio.to_thread(host.process.wait, 20)


@pytest.mark.slow
async def test_the_server_knows_before_the_identity_goes_and_nobody_says_hello_after_it(desk: Desk, host: Host) -> None:
    host.start()
    await desk.here()
    await desk.say(desk.command("c", "system.clean_image", items=["agent"]))
    status = await desk.final("c")
    assert (status.state, status.result) == (
        TaskState.COMPLETE,
        {"items": {"agent": {"removed": 0, "emptied": 0}}, "refused": [], "dry_run": False},
    )
    assert await desk.whole("c") == b"agent: goes once the server has this\n"
    assert await over(host) == 0
    assert left(host) == ["lock"]
    hellos = len(desk.hellos)
    host.start("--code", "")
    assert await over(host) == 2
    assert "no identity yet" in host.log.read_text()
    assert len(desk.hellos) == hellos


@pytest.mark.slow
async def test_as_long_as_the_server_does_not_know_the_identity_stays_and_nothing_new_is_taken(
    desk: Desk, host: Host
) -> None:
    desk.takes_status = False
    host.start()
    await desk.here()
    await desk.say(desk.command("c", "system.clean_image", items=["agent"]))
    await desk.until(lambda: (host.state / retiring.FILE).exists())
    for name in ("a", "b"):
        answer = await desk.ask(desk.command(name, "script.run", run="true"))
        assert isinstance(answer, Failure)
        assert (answer.code, answer.msg) == (Code.BUSY, retiring.BUSY)
        host.kill()
        host.start()
        await desk.here()
    assert (host.state / "identity").exists()
    desk.takes_status = True
    await desk.drop_all()
    await desk.final("c")
    assert await over(host) == 0
    assert left(host) == ["lock"]


@pytest.mark.slow
async def test_a_dry_run_takes_nothing_and_the_agent_goes_on(desk: Desk, host: Host) -> None:
    host.start()
    await desk.say(desk.command("c", "system.clean_image", items=["agent"], dry_run=True))
    assert (await desk.final("c")).state is TaskState.COMPLETE
    assert await desk.whole("c") == b"agent: would go\n"
    await desk.ask(desk.command("s", "script.run", run="true"))
    assert (await desk.final("s")).state is TaskState.COMPLETE
    assert (host.state / "identity").exists()


@pytest.mark.slow
async def test_an_agent_that_something_else_is_asked_of_is_not_retired(desk: Desk, host: Host) -> None:
    host.start()
    await desk.ask(desk.command("s", "script.run", run="sleep 300"))
    await desk.say(desk.command("c", "system.clean_image", items=["agent"]))
    status = await desk.final("c")
    assert (status.code, status.msg) == (Code.REFUSED, "system.clean_image: 1 other commands run")
    await desk.ask(desk.command("x", "task.cancel", task_id="s"))
    await desk.final("s")
    await desk.ask(desk.command("t", "script.run", run="true"))
    assert (await desk.final("t")).state is TaskState.COMPLETE


@pytest.mark.slow
@pytest.mark.parametrize("point", [*LIVING_POINTS, *POINTS])
async def test_a_kill_at_any_step_is_told_once_and_ends_without_an_identity(
    desk: Desk, host: Host, tmp_path: Path, point: str
) -> None:
    once = tmp_path / "once"
    host.start(PADDOCK_FAULT=point, PADDOCK_FAULT_ONCE=str(once))
    await desk.here()
    await desk.say(desk.command("c", "system.clean_image", items=["agent"]))
    ends = [await over(host)]
    assert once.exists(), "the point was never passed"
    while ends[-1] == -9 and len(ends) < 4:
        host.start("--code", "")
        with contextlib.suppress(TimeoutError):
            await desk.final("c")
        ends.append(await over(host))
    assert ends[-1] in (0, 2)
    assert {str(status.result) for status in desk.finals["c"]} == {str(desk.finals["c"][0].result)}
    assert desk.finals["c"][0].state is TaskState.COMPLETE
    assert left(host) == ["lock"]


def test_every_point_is_passed_here() -> None:
    places = (SOURCE / "paddock/agent/retiring.py", SOURCE / "paddock/agent/skills/system/cleaning.py")
    found = {point for path in places for point in re.findall(r'faults\.at\("([a-z_.]+)"\)', path.read_text())}
    assert found == {*POINTS, *LIVING_POINTS, "cleaning.item", "cleaning.item_gone"}
