"""The host asks a guest over its channel: it runs scripts, hears what they say, and is told what went wrong."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.agent.skills.hypervisor import inside as inside_module
from paddock.agent.skills.hypervisor.inside import Channels, Inside
from paddock.core.errors import Broken
from paddock.wire.messages import Command, parse
from tests.agent.berth import LIMIT, Parked, parked, wake

pytestmark = pytest.mark.slow
SHELL = "/bin/sh -e"


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[Parked]:
    async with parked(tmp_path) as made:
        made.start()
        yield made


@pytest.fixture
async def inside(guest: Parked) -> AsyncIterator[Inside]:
    made = guest.inside()
    await made.wake(wake(), LIMIT)
    yield made
    await made.close()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_a_script_is_run_to_its_end_with_its_files_and_variables(inside: Inside, tmp_path: Path) -> None:
    said: list[bytes] = []
    file = str(tmp_path / "told")
    code = await inside.run(
        f'cat {file}; echo "$WHO"; head -c 300000 /dev/zero | tr "\\0" x; exit 3',
        interpreter=SHELL,
        env={"WHO": "me"},
        files={file: "a file\n" * 100_000},
        limit=LIMIT,
        output=said.append,
    )
    assert code == 3
    assert b"".join(said) == b"a file\n" * 100_000 + b"me\n" + b"x" * 300_000


async def test_a_script_over_its_limit_is_broken_in_the_guests_words(inside: Inside) -> None:
    with pytest.raises(Broken, match=r"guest: .*limit"):
        await inside.run("sleep 100", interpreter=SHELL, env={}, limit=timedelta(seconds=0.5))
    assert await inside.run("true", interpreter=SHELL, env={}, limit=LIMIT) == 0


async def test_a_call_that_is_cancelled_ends_its_script_and_leaves_the_guest_to_the_next(
    inside: Inside, tmp_path: Path
) -> None:
    began, ended = tmp_path / "began", tmp_path / "ended"
    script = f"trap 'echo > {ended}; exit' TERM; echo > {began}; while :; do sleep 0.05; done"
    running = asyncio.create_task(inside.run(script, interpreter=SHELL, env={}, limit=LIMIT))
    await _until(began.exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await inside.run("true", interpreter=SHELL, env={}, limit=LIMIT) == 0
    await _until(ended.exists)


async def test_a_script_goes_on_while_the_guests_agent_dies_and_comes_again(
    guest: Parked, inside: Inside, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    said: list[bytes] = []
    script = f"echo began; until test -e {go}; do sleep 0.05; done; echo ended"
    running = asyncio.create_task(inside.run(script, interpreter=SHELL, env={}, limit=LIMIT, output=said.append))
    await _until(lambda: bool(said))
    guest.kill()
    guest.start()
    go.touch()
    assert await running == 0
    assert b"".join(said) == b"began\nended\n", "once, and all of it"


async def test_what_cannot_be_begun_says_why(inside: Inside) -> None:
    with pytest.raises(Broken, match="no-such-shell"):
        await inside.run("true", interpreter="/no-such-shell", env={}, limit=LIMIT)


async def test_nobody_at_the_other_end_is_broken_within_the_limit(tmp_path: Path) -> None:
    async with parked(tmp_path) as guest:
        nobody = guest.inside()
        with pytest.raises(Broken, match=r"guest: it is not parked within 0.3 s"):
            await nobody.parked(timedelta(seconds=0.3))
        guest.start()
        await nobody.parked(LIMIT)
        await nobody.close()


async def test_a_machine_that_died_before_it_was_dialled_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside_module, "_DIALS_FOR", 0.1)
    with socket.socket(socket.AF_UNIX) as listened:
        listened.bind(str(tmp_path / "channel"))
        listened.listen()
    with pytest.raises(Broken, match="its machine does not run: Connection refused"):
        await Inside(tmp_path / "channel", name="guest").parked(timedelta(minutes=5))


async def test_a_machine_that_dies_while_it_parks_did_not_park(guest: Parked, inside: Inside) -> None:
    """Else an image would be sealed with all that its builder was and had not written yet."""
    await inside.hello(LIMIT)
    guest.kill()
    guest.hypervisor.drop()
    with pytest.raises(Broken, match="line: "):
        await inside.park(LIMIT, power_off=True)


async def test_a_relay_goes_on_where_the_host_has_asked_last(guest: Parked) -> None:
    """The hello that the woken guest said on the line is the first that the relay hears of it, on the same line."""
    channels = Channels()
    directory = guest.hypervisor.socket.parent
    (directory / "channel").symlink_to(guest.hypervisor.socket)
    async with channels.inside(directory) as one:
        await one.parked(LIMIT)
        await one.wake(wake(), LIMIT)
    came = guest.hypervisor.hosts
    async with asyncio.timeout(40):
        link = await channels.reach(directory)
        hello = parse(await link.receive())
    assert isinstance(hello, Command)
    assert (hello.method, hello.params["ledger"]) != ("parked", "")
    assert hello.method == "hello"
    assert guest.hypervisor.hosts == came, "the line was kept"
    await link.close("")
    # The next relay opens a session of its own, and hears another hello at once.
    async with asyncio.timeout(40):
        link = await channels.reach(directory)
        again = parse(await link.receive())
    assert isinstance(again, Command)
    assert again.method == "hello"
    assert guest.hypervisor.hosts == came + 1
    await link.close("")
    await channels.close()
