"""One host's agent as a process: enrolment, scripts, output, cancel, reconnection, stop."""

import asyncio
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.agent import identity
from paddock.hands import trees
from paddock.wire.messages import Code, Command, Failure, Success
from tests.agent.conftest import SOURCE, Host
from tests.agent.desk import TOKEN, Desk

pytestmark = pytest.mark.slow

C1 = f"c1-{secrets.token_hex(4)}"
"""Not the same in two runs of these tests at once: lost tasks are looked for among all processes."""


def appends(path: Path, word: str) -> str:
    """A script that leaves a durable trace each time it runs."""
    return f"echo {word} >> {path}; sync {path}\n"


async def test_it_enrols_once_and_then_shows_its_token(desk: Desk, host: Host) -> None:
    host.start()
    await desk.here()
    host.kill()
    await desk.until(lambda: not desk.seats)
    host.start()
    await desk.here()
    assert [hello.token for hello in desk.hellos] == [TOKEN, TOKEN]
    assert desk.hellos[0].ledger == desk.hellos[1].ledger
    assert (host.state / "identity").stat().st_mode & 0o777 == 0o600
    assert host.state.stat().st_mode & 0o777 == 0o700


async def test_an_old_token_is_changed_and_both_are_good_until_the_new_one_has_said_hello(
    desk: Desk, host: Host
) -> None:
    host.start()
    await desk.here()
    await desk.until(lambda: identity.load(host.state) is not None)
    long_ago = 1_500_000_000
    os.utime(host.state / "identity", (long_ago, long_ago))
    await desk.drop_all()
    await desk.until(lambda: len(desk.tokens) == 2)
    known = identity.load(host.state)
    assert known is not None
    assert known.token == TOKEN
    assert desk.tokens == {TOKEN, known.new_token}
    host.kill()
    host.start()
    await desk.until(lambda: len(desk.hellos) == 3)
    assert desk.hellos[-1].token == known.new_token
    await desk.until(lambda: identity.load(host.state).new_token == "")  # type: ignore[union-attr]


async def test_a_new_token_that_the_server_never_heard_of_gives_way_to_the_old_one(desk: Desk, host: Host) -> None:
    host.state.mkdir(mode=0o700)
    identity.save(host.state, identity.Identity(agent="host", token=TOKEN, new_token="never told"))
    host.start()
    await desk.here()
    assert desk.hellos[-1].token == TOKEN


async def test_a_refusal_for_another_reason_does_not_lose_the_new_token(desk: Desk, host: Host) -> None:
    """The server took the new token, and nobody heard it; then it refuses for a while: the new one is still tried."""
    host.state.mkdir(mode=0o700)
    identity.save(host.state, identity.Identity(agent="host", token=TOKEN, new_token="taken"))
    desk.tokens = set()
    host.start()
    await desk.until(lambda: len(desk.refused) == 2)
    desk.tokens = {"taken"}
    await desk.here()
    await desk.until(lambda: identity.load(host.state) == identity.Identity(agent="host", token="taken"))


async def test_a_script_runs_and_its_output_and_exit_arrive(desk: Desk, host: Host) -> None:
    host.start()
    answer = await desk.ask(desk.command(C1, "script.run", run="echo one; echo two >&2; exit 3"))
    assert answer == Success(id=C1, result={"task_id": C1, "state": "accepted"})
    status = await desk.final(C1)
    assert (status.state, status.result) == ("complete", {"exit": 3, "dropped": 0})
    assert await desk.whole(C1) == b"one\ntwo\n"
    assert desk.times


async def test_values_are_never_read_by_a_shell(desk: Desk, host: Host) -> None:
    host.start()
    nasty = "$(touch pwned) `id` ; \"'\n*"
    await desk.ask(desk.command(C1, "script.run", argv=["printf", "%s", nasty], env={"X": nasty}))
    assert await desk.whole(C1) == nasty.encode()
    await desk.ask(desk.command("c2", "script.run", run='printf %s "$X"', env={"X": nasty}))
    assert await desk.whole("c2") == nasty.encode()
    assert not (host.state / "work" / "pwned").exists()


async def test_bytes_that_are_no_text_arrive_as_they_are(desk: Desk, host: Host) -> None:
    host.start()
    await desk.ask(desk.command(C1, "script.run", run=r"printf '\377\000\200x'"))
    assert await desk.whole(C1) == b"\xff\x00\x80x"
    assert (await desk.ask(desk.command("s", "status"))).id == "s"


async def test_a_known_command_gets_its_recorded_answer_and_status_again(
    desk: Desk, host: Host, tmp_path: Path
) -> None:
    host.start()
    command = desk.command(C1, "script.run", run=appends(tmp_path / "count", "x1"))
    await desk.ask(command)
    await desk.final(C1)
    again = await desk.ask(command)
    assert isinstance(again, Success)
    assert again.result["state"] == "complete"
    await desk.until(lambda: len(desk.finals[C1]) == 2)
    assert desk.finals[C1][0] == desk.finals[C1][1]
    assert (tmp_path / "count").read_text() == "x1\n"
    other = await desk.ask(Command(id=C1, method="script.run", params={"run": "true"}, seq=99, epoch=1))
    assert isinstance(other, Failure)
    assert other.code is Code.REFUSED


async def test_hostile_params_get_their_path_and_the_agent_lives_on(desk: Desk, host: Host) -> None:
    host.start()
    for number, params in enumerate(({}, {"run": 5}, {"run": "true", "argv": ["x"]}, {"argv": []}, {"run": "a\0b"})):
        answer = await desk.ask(desk.command(f"bad-{number}", "script.run", **params))
        assert isinstance(answer, Failure)
        assert answer.code is Code.BAD_PARAMS
        assert "params" in answer.msg
    answer = await desk.ask(desk.command("u", "power.on"))
    assert isinstance(answer, Failure)
    assert answer.code is Code.UNKNOWN_METHOD
    await desk.ask(desk.command("ok", "script.run", run="true"))
    assert (await desk.final("ok")).state == "complete"


async def test_a_command_that_cannot_start_says_why(desk: Desk, host: Host) -> None:
    host.start()
    await desk.ask(desk.command(C1, "script.run", argv=["/no/such/program"]))
    status = await desk.final(C1)
    assert (status.code, status.msg) == (Code.FAILED, "/no/such/program: No such file or directory")
    assert status.outputs == {"out": 0}


async def test_a_misspelt_param_changes_nothing_and_what_only_reads_lets_it_be(host: Host, desk: Desk) -> None:
    host.start()
    refused = await desk.ask(desk.command("z", "script.run", run="true", usr="nobody"))
    assert isinstance(refused, Failure)
    assert (refused.code, refused.msg) == (
        Code.BAD_PARAMS,
        'params.usr: script.run has no such param (did you mean "user"?)',
    )
    assert isinstance(await desk.ask(desk.command("y", "status", colour="blue")), Success)


async def test_cancel_ends_the_whole_tree_before_the_final_status(desk: Desk, host: Host, tmp_path: Path) -> None:
    host.start()
    run = f"setsid sleep 300 & echo $! > {tmp_path}/pid; trap '' TERM; echo up; while :; do sleep 300; done"
    await desk.ask(desk.command(C1, "script.run", run=run))
    await desk.until(lambda: desk.streams[C1, "out"] == b"up\n")
    answer = await desk.ask(desk.command("x", "task.cancel", task_id=C1, grace=0.2))
    assert isinstance(answer, Success)
    status = await desk.final(C1)
    assert status.code is Code.CANCELLED
    assert trees.identify(int((tmp_path / "pid").read_text())) is None
    late = await desk.ask(desk.command("y", "task.cancel", task_id=C1))
    assert isinstance(late, Success)
    assert late.result == {"state": "error"}
    unknown = await desk.ask(desk.command("z", "task.cancel", task_id="nobody"))
    assert isinstance(unknown, Failure)


async def test_a_limit_ends_a_task_as_timed_out(desk: Desk, host: Host) -> None:
    host.start()
    await desk.ask(desk.command(C1, "script.run", run="sleep 300", limit=0.3, grace=0.1))
    assert (await desk.final(C1)).code is Code.TIMED_OUT


async def test_a_background_task_that_is_cancelled_is_no_failure(desk: Desk, host: Host) -> None:
    host.start()
    await desk.ask(desk.command(C1, "script.run", run="echo up; exec sleep 300", background=True))
    await desk.until(lambda: desk.streams[C1, "out"] == b"up\n")
    host.kill()
    host.start()
    await desk.until(lambda: len(desk.hellos) == 2)
    await desk.ask(desk.command("x", "task.cancel", task_id=C1))
    status = await desk.final(C1)
    assert (status.state, status.result) == ("complete", {"signal": signal.SIGTERM, "dropped": 0})


async def test_a_higher_fence_ends_what_runs_under_the_lower_one_first(desk: Desk, host: Host, tmp_path: Path) -> None:
    host.start()
    run = f"echo $$ > {tmp_path}/pid; echo up; exec sleep 300"
    await desk.ask(desk.command("old", "script.run", run=run, environment="E", fence=7))
    await desk.until(lambda: desk.streams["old", "out"] == b"up\n")
    pid = (tmp_path / "pid").read_text().strip()
    check = f"if [ -e /proc/{pid} ]; then echo there; else echo gone; fi"
    await desk.ask(desk.command("new", "script.run", run=check, environment="E", fence=8))
    assert await desk.whole("new") == b"gone\n"
    assert (await desk.final("old")).code is Code.STALE
    late = await desk.ask(desk.command("late", "script.run", run="true", environment="E", fence=7))
    assert isinstance(late, Failure)
    assert late.code is Code.STALE


async def test_floors_of_the_welcome_end_what_is_below_them(desk: Desk, host: Host) -> None:
    host.start()
    await desk.ask(desk.command("old", "script.run", run="echo up; exec sleep 300", environment="E", fence=7))
    await desk.until(lambda: desk.streams["old", "out"] == b"up\n")
    desk.fences["E"] = 9
    await desk.drop_all()
    assert (await desk.final("old")).code is Code.STALE
    assert desk.hellos[-1].fences == {"E": 7}


async def test_an_old_epoch_is_stale(desk: Desk, host: Host) -> None:
    desk.epoch = 5
    host.start()
    await desk.here()
    for method, params in (("script.run", {"run": "true"}), ("status", {})):
        answer = await desk.ask(Command(id=method, method=method, params=params, seq=1, epoch=4))
        assert isinstance(answer, Failure)
        assert answer.code is Code.STALE


async def test_output_survives_sessions_that_are_cut_at_any_moment(desk: Desk, host: Host) -> None:
    host.start()
    lines = 50_000
    run = f"i=0; while [ $i -lt {lines} ]; do echo line-$i; i=$((i+1)); done"
    await desk.ask(desk.command(C1, "script.run", run=run, interpreter="/bin/sh"))
    for share in (0.1, 0.5):
        await desk.until(lambda share=share: len(desk.streams[C1, "out"]) > share * lines * 10)
        await desk.drop_all()
    await desk.until(lambda: C1 in desk.finals, limit=60)
    assert await desk.whole(C1, limit=60) == "".join(f"line-{number}\n" for number in range(lines)).encode()
    await desk.until(lambda: not any(host.state.glob("tasks/*")))


async def test_a_status_that_the_server_cannot_take_is_told_again(desk: Desk, host: Host) -> None:
    host.start()
    desk.takes_status = False
    await desk.ask(desk.command(C1, "script.run", run="true"))
    await asyncio.sleep(0.3)
    assert C1 not in desk.finals
    desk.takes_status = True
    await desk.drop_all()
    assert (await desk.final(C1)).state == "complete"


async def test_what_the_server_does_not_want_is_forgotten(desk: Desk, host: Host) -> None:
    host.start()
    desk.takes_output = desk.takes_status = False
    await desk.ask(desk.command(C1, "script.run", run="echo hello"))
    await desk.until(lambda: any(host.state.glob("tasks/*/exit")))
    desk.forget = {C1}
    await desk.drop_all()
    await desk.until(lambda: not any(host.state.glob("tasks/*")))
    assert C1 not in desk.finals


async def test_it_comes_back_after_its_server_was_away(desk: Desk, host: Host, tmp_path: Path) -> None:
    async with Desk().open() as first:
        host.desk = first
        host.start()
        await first.here()
        await first.ask(first.command(C1, "script.run", run=f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"))
        port = first.port
    (tmp_path / "go").touch()
    second = Desk()
    async with second.open(port):
        assert (await second.final(C1)).state == "complete"
        await second.until(lambda: any(line["msg"] == "link is over" for line in second.logs))


async def test_a_wrong_token_is_asked_again_slowly(desk: Desk, host: Host) -> None:
    host.state.mkdir(mode=0o700)
    (host.state / "identity").write_text('{"agent": "host", "token": "t0ken-of-a-stranger"}')
    host.start()
    await asyncio.sleep(2.5)
    assert desk.hellos == []
    text = host.log.read_text()
    assert 1 <= len(desk.refused) <= 3
    assert text.count("unknown token") == 1
    assert "t0ken-of-a-stranger" not in text


async def test_a_stop_leaves_within_seconds_and_tasks_go_on(desk: Desk, host: Host, tmp_path: Path) -> None:
    host.start()
    run = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; {appends(tmp_path / 'count', 'x1')}"
    await desk.ask(desk.command(C1, "script.run", run=run))
    assert host.process is not None
    host.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(5):
        assert await asyncio.to_thread(host.process.wait) == 0
    (tmp_path / "go").touch()
    host.start()
    assert (await desk.final(C1)).state == "complete"
    assert (tmp_path / "count").read_text() == "x1\n"


async def test_a_stop_does_not_wait_for_a_server_that_does_not_read(desk: Desk, host: Host, tmp_path: Path) -> None:
    host.start()
    run = f"yes | head -c 20000000; echo $$ > {tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    await desk.ask(desk.command("m", "machine.build", environment="e-1", fence=1, machine="one"))
    await desk.here("e-1/one")
    await desk.ask(desk.command(C1, "script.run", run=run))
    await desk.until((tmp_path / "pid").exists)
    for connection in desk.connections:
        connection.transport.pause_reading()
    assert host.process is not None
    host.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(5):
        assert await asyncio.to_thread(host.process.wait) == 0
    assert trees.identify(int((tmp_path / "pid").read_text())) is not None
    assert host.machine_agent("e-1", "one") is not None
    for connection in desk.connections:
        connection.transport.abort()
    (tmp_path / "go").touch()
    host.start()
    assert (await desk.final(C1)).state == "complete"


async def test_a_second_agent_on_the_same_state_is_refused(desk: Desk, host: Host) -> None:
    host.start()
    await desk.here()
    other = Host(desk, host.state)
    other.log = host.state.parent / "other.log"
    other.start()
    assert other.process is not None
    assert await asyncio.to_thread(other.process.wait) == 3
    assert "another agent runs on it" in other.log.read_text()


async def test_a_task_that_ends_with_its_machine_is_interrupted_and_not_cancelled(desk: Desk, host: Host) -> None:
    """As systemd does it when it shuts down: TERM to everybody, the keeper first."""
    host.start()
    await desk.ask(desk.command(C1, "script.run", run="trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"))
    await desk.until(lambda: desk.streams[C1, "out"] == b"up\n")
    keeper = next(identity for identity in _keepers() if C1.encode() in _task_of(identity, host.state))
    os.kill(keeper, signal.SIGTERM)
    status = await desk.final(C1)
    assert status.code is Code.INTERRUPTED
    assert "went down" in str(status.msg)


async def test_a_lost_keeper_is_an_interrupted_task_whose_processes_are_ended(
    desk: Desk, host: Host, tmp_path: Path
) -> None:
    host.start()
    run = f"setsid sleep 300 & echo $! > {tmp_path}/pid; echo up; wait"
    await desk.ask(desk.command(C1, "script.run", run=run))
    await desk.until(lambda: desk.streams[C1, "out"] == b"up\n")
    host.kill()
    keeper = next(identity for identity in _keepers() if C1.encode() in _task_of(identity, host.state))
    os.kill(keeper, signal.SIGKILL)
    host.start()
    status = await desk.final(C1)
    assert status.code is Code.INTERRUPTED
    assert trees.identify(int((tmp_path / "pid").read_text())) is None
    assert await desk.whole(C1) == b"up\n"


def _keepers() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == "paddock-keeper":
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _task_of(pid: int, state: Path) -> bytes:
    for record in state.glob("tasks/*/keeper"):
        if f'"pid": {pid},' in record.read_text():
            return record.read_bytes()
    return b""


async def test_a_corrupt_ledger_is_set_aside_and_its_tasks_are_ended(desk: Desk, host: Host, tmp_path: Path) -> None:
    host.start()
    run = f"echo $$ > {tmp_path}/pid; echo up; exec sleep 300"
    await desk.ask(desk.command(C1, "script.run", run=run))
    await desk.until(lambda: desk.streams[C1, "out"] == b"up\n")
    host.kill()
    for name in ("ledger-wal", "ledger-shm"):
        (host.state / name).unlink(missing_ok=True)
    (host.state / "ledger").write_bytes(b"garbage" * 1000)
    host.start()
    await desk.until(lambda: len(desk.hellos) == 2)
    assert desk.hellos[0].ledger != desk.hellos[1].ledger
    assert desk.hellos[1].tasks == ()
    assert trees.identify(int((tmp_path / "pid").read_text())) is None
    assert any(host.state.glob("ledger.corrupt-*"))
    await desk.until(lambda: any("corrupt" in line["msg"] for line in desk.logs))
    await desk.until(lambda: any("ledger was corrupt" in alert["msg"] for alert in desk.alerts))
    status = await desk.ask(desk.command("s", "status"))
    assert isinstance(status, Success)
    kept = [path.name for path in host.state.glob("ledger.corrupt-*")]
    assert status.result["corrupt_ledgers"] == kept
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "paddock.agent", "status", "--state", str(host.state)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        check=True,
    )
    assert f"a ledger was corrupt and is kept as {host.state / kept[0]}" in done.stdout


async def test_a_ledger_that_is_damaged_under_a_living_agent_ends_it_and_the_next_one_begins_anew(
    desk: Desk, host: Host
) -> None:
    host.start()
    await desk.here()
    commands = [desk.command(f"put-{n}", "file.put", path="f", data="") for n in range(2000)]
    for command in commands:
        await desk.say(command)
    await desk.until(lambda: not desk.unanswered, limit=60)
    path = host.state / "ledger"
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    with path.open("r+b") as file:
        file.seek(4096 * 8)
        file.write(b"\xff" * (path.stat().st_size - 4096 * 8))
    for command in commands[:700]:
        desk.unanswered[command.id] = ("host", command)
    await desk.drop_all()  # they are all asked again, and none may be answered from the rest
    assert host.process is not None
    assert await asyncio.to_thread(host.process.wait, 30) == 1
    assert "is corrupt" in host.log.read_text()
    assert len(list(host.state.glob("ledger.corrupt-*"))) >= 1
    desk.unanswered.clear()
    host.start()
    await desk.until(lambda: len({hello.ledger for hello in desk.hellos}) == 2)


async def test_hundreds_of_tasks_leave_nothing_behind(desk: Desk, host: Host) -> None:
    host.start()
    await desk.here()
    await desk.ask(desk.command("first", "script.run", run="true"))
    await desk.final("first")
    assert host.process is not None
    before = len(os.listdir(f"/proc/{host.process.pid}/fd"))
    for batch in range(5):
        names = [f"c-{batch}-{number}" for number in range(40)]
        await asyncio.gather(*(desk.ask(desk.command(name, "script.run", run="echo x")) for name in names))
        for name in names:
            assert (await desk.final(name)).state == "complete"
            assert await desk.whole(name) == b"x\n"
    await desk.until(lambda: not any(host.state.glob("tasks/*")))
    assert len(os.listdir(f"/proc/{host.process.pid}/fd")) <= before + 3
