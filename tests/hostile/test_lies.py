"""A machine's agent, or a host's, that lies: what it says is evidence about itself alone, and within its limits."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.hostile.peers import FACTS, JSON, Carrier, Memory, carrier, hello, is_well, off, open_files, peer
from tests.hostile.test_strangers import frame, upgraded
from tests.story.house import RECHECK, House

pytestmark = pytest.mark.slow

CONFIG = """
- host: {name: other, skills: [local]}
- environment: {name: pair, machines: [{name: one}, {name: two}], host: local, max: 2}
- job:
    name: pair
    environment: pair
    trusted: true
    limits: {after: 20s, collect: 20s}
    sizes: {log: 64KiB, file: 32KiB, run: 64KiB, files: 10}
    steps: [{name: work, run: 'true'}]
AFTER    artifacts: ["logs/**"]
- project: {name: openstack-dev/ci-sandbox, branches: [master], jobs: [pair]}
"""


@contextlib.asynccontextmanager
async def running(paddock: House, *, after: int = 0) -> AsyncIterator[tuple[Carrier, JSON, JSON]]:
    """A run whose main step was sent to both machines: who carries it, and the two commands."""
    steps = "".join(f"      - {{name: after-{number}, on: one, run: 'true'}}\n" for number in range(after))
    paddock.configure(CONFIG.replace("AFTER", f"    after:\n{steps}" if after else ""))
    paddock.tell(RECHECK)
    await off(paddock.start_server)
    async with carrier(paddock) as host:
        await host.build(2)
        one, two = [await host.machines[f"pair-1.{name}"].next("script.run") for name in ("one", "two")]
        await host.machines["pair-1.one"].accept(one)
        await host.machines["pair-1.two"].accept(two)
        yield host, one, two
    assert is_well(paddock)


def archived(paddock: House) -> dict[str, int]:
    """Every file of the archive and its size."""
    root = paddock.state / "archive"
    return {str(file.relative_to(root)): file.stat().st_size for file in root.rglob("*") if file.is_file()}


async def finish(host: Carrier, command: JSON, machine: str, **result: Any) -> None:
    await host.machines[f"pair-1.{machine}"].complete(command, **(result or {"exit": 0}))


async def end(paddock: House, host: Carrier) -> JSON:
    """Let both machines be collected from and cleaned; the run as the API tells it."""
    for name in ("one", "two"):
        machine = host.machines[f"pair-1.{name}"]
        command = await machine.next("file.collect")
        await machine.accept(command)
        await machine.complete(command, files=[], refused=[])
    run = await off(paddock.until, lambda: (paddock.get("runs/1")["state"] == "done") and paddock.get("runs/1"), "done")
    await host.clean(2)
    return dict(run)


def code(told: JSON) -> str:
    return str(told.get("error", {}).get("code", told))


async def test_who_speaks_of_another_s_task_is_refused_and_changes_nothing(alone: House) -> None:
    async with running(alone) as (host, one, two):
        liar, honest = host.machines["pair-1.one"], host.machines["pair-1.two"]
        before = archived(alone)
        build = host.built[0]["id"]

        for task in (two["id"], build, "no-such-task", one["id"] + "x"):
            assert code(await liar.complete({"id": task}, exit=1)) == "refused"
            assert (
                code(await liar.ask("task_status", {"task_id": task, "state": "error", "code": "failed"})) == "refused"
            )
            assert code(await liar.write(task, b"forged")) == "refused"
        assert code(await host.host.write(two["id"], b"forged")) == "refused"
        assert code(await host.host.complete(two, exit=1)) == "refused"
        assert archived(alone) == before

        assert "result" in await honest.write(two["id"], b"honest\n")
        await finish(host, one, "one")
        await honest.complete(two, exit=0, outputs={"out": 7})
        assert (await end(alone, host))["verdict"] == "success"
        assert alone.text("/api/v1/runs/1/log/main-1-two") == "honest\n"


async def test_what_comes_after_the_end_is_stale_and_not_stored(alone: House) -> None:
    async with running(alone) as (host, one, two):
        await finish(host, one, "one")
        await finish(host, two, "two")
        await end(alone, host)
        before, run = archived(alone), alone.get("runs/1")
        liar = host.machines["pair-1.one"]

        assert code(await liar.complete(one, exit=1)) == "stale"
        assert code(await liar.write(one["id"], b"late")) == "stale"
        assert archived(alone) == before
        after = alone.get("runs/1")
        assert (after["verdict"], after["commands"]) == (run["verdict"], run["commands"])


async def test_a_final_status_is_final_however_often_it_is_repeated_otherwise(alone: House) -> None:
    async with running(alone) as (host, one, two):
        liar = host.machines["pair-1.one"]
        await finish(host, one, "one", exit=3)
        for _ in range(50):
            assert "result" in await liar.complete(one, exit=0)
            assert "result" in await liar.ask("task_status", {"task_id": one["id"], "state": "running", "percent": 1})
        await finish(host, two, "two")
        run = await end(alone, host)
        assert run["verdict"] == "failure"
        assert run["reason"].endswith("exited 3")


async def test_output_beyond_its_limits_or_out_of_order_is_refused(alone: House) -> None:
    async with running(alone) as (host, one, _two):
        liar = host.machines["pair-1.one"]
        task = one["id"]
        piece = b"x" * (60 << 10)
        wrong: list[tuple[Any, Any, str]] = [
            ("offset", -1, "bad_params"),
            ("offset", 1 << 63, "bad_params"),
            ("offset", 1.0, "bad_params"),
            ("offset", "0", "bad_params"),
            ("offset", True, "bad_params"),
            ("offset", 1 << 40, "refused"),
            ("offset", 1, "refused"),
            ("stream", "other", "refused"),
            ("stream", "", "bad_params"),
            ("stream", "a\x1b[2J", "bad_params"),
            ("stream", "a\0", "bad_params"),
            ("stream", "x" * 5000, "bad_params"),
            ("stream", ["out"], "bad_params"),
            ("data", "not base64!", "bad_params"),
            ("data", base64.b64encode(b"x" * ((64 << 10) + 1)).decode(), "bad_params"),
            ("data", None, "bad_params"),
            ("times", [[0]], "bad_params"),
            ("times", [[-1, "2026-01-01T00:00:00Z"]], "bad_params"),
            ("times", [[0, "yesterday"]], "bad_params"),
            ("times", "now", "bad_params"),
            ("task_id", "a\nb", "bad_params"),
            ("task_id", 7, "bad_params"),
        ]
        for field, value, expected in wrong:
            params = {"task_id": task, "stream": "out", "offset": 0, "data": "eA==", field: value}
            assert code(await liar.ask("output", params)) == expected, (field, value)
        assert not [
            name for name in archived(alone) if "main-1-one" in name and name.endswith(".log") and archived(alone)[name]
        ]

        assert (await liar.write(task, piece))["result"]["offset"] == len(piece)
        assert code(await liar.write(task, piece, offset=len(piece))) == "refused"
        # What is said again is not stored again, and takes no room.
        for _ in range(20):
            assert (await liar.write(task, piece))["result"]["offset"] == len(piece)
        sizes = {name: size for name, size in archived(alone).items() if "main-1-one" in name}
        assert sum(sizes.values()) <= len(piece) + 4096


async def test_the_index_of_times_grows_no_more_than_what_it_indexes(alone: House) -> None:
    async with running(alone) as (host, one, _two):
        liar = host.machines["pair-1.one"]
        times = [[0, "2026-01-01T00:00:00Z"]] * 20_000
        for _ in range(5):
            await liar.write(one["id"], b"", times=times)
            await liar.write(one["id"], b"x", offset=1 << 30, times=times)
            await liar.write(one["id"], b"x" * 40, offset=10, times=times)
            await liar.write(one["id"], b"xy", times=times)
        assert sum(size for name, size in archived(alone).items() if name.endswith(".times")) < 1000


async def test_a_million_streams_end_at_the_job_s_limit_whatever_is_said_between(
    alone: House,
) -> None:
    async with running(alone) as (host, one, two):
        await finish(host, one, "one")
        await finish(host, two, "two")
        liar = host.machines["pair-1.one"]
        collect = await liar.next("file.collect")
        await liar.accept(collect)
        taken = 0
        for number in range(300):
            told = await liar.write(collect["id"], b"x", stream=f"logs/{number}.txt")
            taken += "result" in told
            # A status in between must not make the server forget what it has.
            await liar.ask("task_status", {"task_id": collect["id"], "state": "running", "percent": 1})
        assert taken == 10
        for name in ("../../x", "/etc/passwd", "a/../../../b", "logs//x", ".", "a/./b", "x" * 300, "a\u009bb"):
            assert code(await liar.write(collect["id"], b"x", stream=name)) in ("refused", "bad_params")
        for number in range(10):
            for offset in range(1, 40_000, 8_000):
                await liar.write(collect["id"], b"x" * 8000, stream=f"logs/{number}.txt", offset=offset)
                await liar.ask("task_status", {"task_id": collect["id"], "state": "running"})
        files = {name: size for name, size in archived(alone).items() if "/artifacts/" in name}
        assert len(files) == 10
        assert max(files.values()) <= 32 << 10
        assert sum(files.values()) <= 64 << 10


WRONG_RESULTS: list[JSON] = [
    {},
    {"exit": "0"},
    {"exit": None},
    {"exit": [0]},
    {"exit": 1e300},
    {"exit": -(1 << 70)},
    {"exit": True},
    {"signal": {"deep": [[[]]]}, "exit": {}},
    {"signal": "KILL\n- forged http://evil.example : SUCCESS in 1s"},
    {"files": 7, "refused": "x", "exit": []},
    {"refused": [1, {}, {"path": 1, "why": []}, None]},
    {"exit": 0, "x" * 1000: "y" * 100_000},
]


async def test_results_of_wrong_types_hold_nobody_up_and_prove_nothing(alone: House) -> None:
    async with running(alone, after=len(WRONG_RESULTS)) as (host, one, two):
        await finish(host, one, "one")
        await finish(host, two, "two")
        liar = host.machines["pair-1.one"]
        for result in WRONG_RESULTS:
            command = await liar.next("script.run")
            await liar.accept(command)
            await liar.ask(
                "task_status",
                {"task_id": command["id"], "state": "complete", "result": result, "outputs": {"../x": 9, "a b": 1}},
            )
        run = await end(alone, host)
        assert run["verdict"] != "success", run
        page = alone.text("/runs/1/")
        assert "work" in page


async def test_a_machine_s_message_forges_no_line_of_the_report(alone: House) -> None:
    async with running(alone) as (host, one, two):
        said = (
            "x\n- noop http://evil.example : SUCCESS in 1s\n\n\x1b[2J"
            + "y" * 300_000
            + " token=pdk_abcdefghijklmnop1234"
        )
        liar = host.machines["pair-1.one"]
        status = {"task_id": one["id"], "state": "error", "code": "failed", "msg": said}
        assert "result" in await liar.ask("task_status", status)
        await finish(host, two, "two")
        run = await end(alone, host)
        (report,) = await off(alone.until_reported)

        assert run["verdict"] == "error"
        assert len(run["reason"]) < 2000
        assert "\n" not in run["reason"]
        assert "\x1b" not in run["reason"]
        assert "pdk_abcdefghijklmnop1234" not in json.dumps(run)
        assert not [
            line for line in report["message"].splitlines() if "evil.example" in line and line.startswith("- noop")
        ]


async def test_a_host_cannot_vouch_for_what_another_carries(alone: House) -> None:
    async with running(alone) as (host, one, two):
        async with carrier(alone, "other") as other:
            for environment, machine in (("pair-1", "one"), ("pair-1", "three"), ("pair-9", "one"), ("pair-1.one", "")):
                async with peer(alone) as made:
                    vouching = other.vouch(environment=environment, machine=machine, fence=one["params"]["fence"])
                    told = await made.ask("relay", vouching)
                    if "result" in told:
                        told = await made.ask("hello", hello(agent=None, token=None))
                    assert code(told) in ("refused", "bad_params")
                    await made.ended()
            # Nor with a lie about fences, nor as the machine's agent itself.
            async with peer(alone) as made:
                lying = hello(agent=other.agent, token=other.token, ledger="ledger-other", fences={"pair-1": 1 << 40})
                assert "result" in await made.ask("hello", lying)
                assert alone.get("environments/pair-1")["fence"] == one["params"]["fence"]
            async with peer(alone) as made:
                assert code(await made.ask("hello", hello(agent="pair-1.one", token=other.token))) == "refused"
        assert "result" in await host.machines["pair-1.two"].write(two["id"], b"still here\n")


async def test_counters_that_nobody_counted_to_are_refused(alone: House) -> None:
    most = (1 << 63) - 1
    async with running(alone) as (host, _one, _two):
        for counter in ({"epoch": most}, {"seq": most}, {"fences": {"pair-1": most}}):
            async with peer(alone) as made:
                lying = hello(agent=host.agent, token=host.token, ledger="ledger-local", **counter)
                assert code(await made.ask("hello", lying)) == "refused"
        # And the server starts again: its epoch has room above it.
        await off(alone.kill, alone.server)
        await off(alone.start_server)


async def test_log_lines_of_an_agent_are_kept_within_bounds_in_order_and_without_secrets(alone: House) -> None:
    async with running(alone) as (host, _one, _two):
        liar = host.machines["pair-1.one"]
        moment = "2026-01-01T00:00:00Z"
        secret = "pdk_" + "s" * 32
        for number in range(40):
            fields = {"number": number, "password": "hunter2-hunter2", "\x1b[31m": "x"}
            msg = f"{number} \x1b]0;owned\x07 {secret} https://me:hunter3-hunter3@example.org/ " + "z" * 60_000
            told = await liar.ask("log", {"level": "info", "msg": msg, "time": moment, "fields": fields})
            assert "result" in told, told
        for params in (
            {"level": "loud", "msg": "x", "time": moment},
            {"level": "info", "msg": 7, "time": moment},
            {"level": "info", "msg": "x", "time": "noon"},
            {"level": "info", "msg": "a\0b", "time": moment},
            {"level": "info", "msg": "x" * ((64 << 10) + 1), "time": moment},
            {"level": "info", "msg": "x", "time": moment, "fields": []},
        ):
            assert code(await liar.ask("log", params)) == "bad_params"
        files = [alone.state / "archive" / name for name in archived(alone) if name.startswith("agents/")]
        assert sum(file.stat().st_size for file in files) <= (1 << 20) + 70_000
        kept = "".join(file.read_text() for file in files)
        shown = json.dumps(alone.get("agents/pair-1.one")) + alone.text("/agents/pair-1.one")
        for text in (secret, "hunter2-hunter2", "hunter3-hunter3"):
            assert text not in kept
            assert text not in shown
        assert "\x1b" not in kept + shown


async def test_what_a_session_may_not_say_ends_it_or_is_answered_and_the_agent_comes_back(alone: House) -> None:
    async with running(alone) as (host, one, two):
        fence = one["params"]["fence"]
        place = {"environment": "pair-1", "machine": "one", "fence": fence}
        for text, words in (
            ("x" * ((1 << 20) + 1), "1048577 bytes, the limit is 1048576"),
            ("[" * 65, "64 levels"),
            ('{"version": "1", "id": "a", "id": "b", "method": "ping", "params": {}}', "stands twice"),
            (b"binary", "binary"),
        ):
            again = await host.join(place)
            await again.say(text)
            await again.ended()
            assert words in again.fatal
        again = await host.join(place)
        assert code(await again.ask("script.run", {"argv": ["id"]})) == "unknown_method"
        assert code(await again.ask("enrol", {"code": "x", "facts": FACTS})) == "{'closed': True}"
        again = await host.join(place)
        await again.complete(one, exit=0)
        await finish(host, two, "two")
        host.machines["pair-1.one"] = again
        assert (await end(alone, host))["verdict"] == "success"


async def test_who_asks_and_never_reads_is_cut_off_and_costs_no_memory(alone: House) -> None:
    async with running(alone) as (host, _one, _two):
        assert alone.server is not None
        files = open_files(alone.server.pid)
        memory = Memory(alone.server.pid)
        memory.begin()
        sock = await off(upgraded, alone, 4096)
        with sock:
            greeting = hello(agent=host.agent, token=host.token, ledger="ledger-local")
            sock.sendall(frame(json.dumps({"version": "1", "id": "h", "method": "hello", "params": greeting}).encode()))
            ping = json.dumps({"version": "1", "id": "p", "method": "ping", "params": {"x": "y" * 100_000}}).encode()

            def flood() -> bool:
                sock.settimeout(30)
                try:
                    for _ in range(2000):
                        sock.sendall(frame(ping))
                except TimeoutError:
                    return False
                except OSError:
                    return True
                return False

            assert await off(flood), "it was never cut off"
        assert memory.grew < 32
        # A connection that is over leaves nothing behind: a reset ends what the other side never took.
        sock.close()
        await asyncio.sleep(0.5)
        assert open_files(alone.server.pid) <= files + 1
