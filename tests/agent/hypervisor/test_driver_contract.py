"""What every driver of virtual machines keeps, whatever runs them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.agent.skills.hypervisor import drivers
from paddock.agent.skills.hypervisor.ports import Card, Driver, Plan, Running, Unfit
from paddock.core.errors import Broken, Refused
from tests.agent.hypervisor.yards import INSTANCE, YARDS, Yard, ask, cloned, speaking
from tools.maven import Unavailable

pytestmark = [pytest.mark.timeout(180)]
_REAL = [pytest.mark.slow, pytest.mark.e2e]
GONE = 20.0


@pytest.fixture(params=[pytest.param(name, marks=_REAL if name != "fake" else []) for name in YARDS])
async def yard(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Yard]:
    try:
        made = YARDS[request.param](tmp_path)
    except Unavailable as exc:
        pytest.skip(str(exc))
    yield made
    await made.close()


@pytest.fixture
async def driver(yard: Yard) -> Driver:
    made = yard.driver()
    await made.check()
    return made


async def _known(driver: Driver, plan: Plan) -> Running | None:
    return next((one for one in await driver.running(INSTANCE) if one.name == plan.name), None)


async def _frozen(driver: Driver, yard: Yard) -> tuple[Plan, Path]:
    """A machine that has counted to one and stored a word, as a template."""
    plan = yard.plan("template", is_template=True)
    await driver.boot(plan)
    assert await ask(plan, "count", "store before") == ["1", "stored"]
    template = yard.root / "templates" / "one"
    await driver.freeze(plan, template)
    return plan, template


def _fork_of(yard: Yard, plan: Plan, name: str, *cards: Card) -> Plan:
    return cloned(plan, yard.plan(name, cards=cards))


async def test_a_machine_boots_answers_and_is_known_by_its_name(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    await driver.boot(plan)

    assert await ask(plan, "count") == ["1"]
    found = await _known(driver, plan)
    assert found is not None
    assert found.state == "running"
    assert await driver.running("ffffffff") == []


async def test_one_that_runs_is_left_as_it_is(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    await driver.boot(plan)
    await ask(plan, "count")
    before = await _known(driver, plan)
    await driver.boot(plan)

    assert await _known(driver, plan) == before
    assert await ask(plan, "count") == ["2"]


async def test_one_that_is_ended_is_gone_and_again_is_no_harm(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    await driver.end(plan.directory, plan.name)
    await driver.boot(plan)
    await driver.end(plan.directory, plan.name)
    await driver.end(plan.directory, plan.name)

    assert await _known(driver, plan) is None
    assert not (plan.directory / "channel").exists()


async def test_off_is_off_and_on_again_has_its_disks_and_not_its_memory(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    await driver.boot(plan)
    _, _, uuid = await ask(plan, "count", "store kept", "uuid")
    await driver.power(plan, "off")
    assert await _known(driver, plan) is None
    await driver.power(plan, "off")
    await driver.boot(plan)

    assert await ask(plan, "count", "stored", "uuid") == ["1", "kept", uuid]


async def test_one_that_powers_itself_off_stays_off(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    await driver.boot(plan)
    await ask(plan, "count")
    async with speaking(plan) as channel:
        channel.tell("off")
        async with asyncio.timeout(GONE):
            await driver.wait_off(plan)

    assert await _known(driver, plan) is None
    await driver.wait_off(plan)


async def test_who_waits_for_one_that_was_never_started_waits_for_nothing(driver: Driver, yard: Yard) -> None:
    async with asyncio.timeout(GONE):
        await driver.wait_off(yard.plan("never"))


async def test_a_reset_keeps_the_process_and_not_the_memory(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    await driver.boot(plan)
    await ask(plan, "count", "store kept")
    before = await _known(driver, plan)
    await driver.power(plan, "reset")
    await _until_it_has_begun_anew(plan)

    assert await ask(plan, "stored") == ["kept"]
    after = await _known(driver, plan)
    assert before is not None
    assert after is not None
    assert after.pid == before.pid


async def _until_it_has_begun_anew(plan: Plan) -> None:
    """What it is asked in the moment of its reset is lost."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with asyncio.timeout(3):
                    if await ask(plan, "count") == ["1"]:
                        return
            except (TimeoutError, OSError):
                await asyncio.sleep(0.02)


async def test_one_that_is_paused_goes_on_where_it_was(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    await driver.boot(plan)
    await ask(plan, "count")
    for _ in range(2):
        await driver.power(plan, "pause")
    found = await _known(driver, plan)
    assert found is not None
    assert found.state == "paused"
    for _ in range(2):
        await driver.power(plan, "resume")

    assert await ask(plan, "count") == ["2"]


@pytest.mark.parametrize("action", ["reset", "pause", "resume"])
async def test_a_button_of_one_that_is_off_is_refused(driver: Driver, yard: Yard, action: str) -> None:
    with pytest.raises(Refused, match="off"):
        await driver.power(yard.plan("one"), action)


async def test_one_that_is_off_may_be_switched_off(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    await driver.power(plan, "off")
    await driver.power(plan, "shutdown")


async def test_there_are_no_other_buttons(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    await driver.boot(plan)
    with pytest.raises(Refused, match="explode"):
        await driver.power(plan, "explode")


async def test_forks_remember_what_was_frozen_and_share_nothing_else(driver: Driver, yard: Yard) -> None:
    source, template = await _frozen(driver, yard)
    assert await driver.running(INSTANCE) == []
    one, other = (_fork_of(yard, source, name) for name in ("one", "other"))
    for plan in (one, other):
        await driver.fork(plan, template)

    assert await ask(one, "count", "count", "stored", "store one") == ["2", "3", "before", "stored"]
    assert await ask(other, "count", "stored") == ["2", "before"]
    assert await ask(one, "stored") == ["one"]
    third = _fork_of(yard, source, "third")
    await driver.fork(third, template)
    assert await ask(third, "count", "stored") == ["2", "before"]


async def test_a_fork_is_left_as_it_is_and_is_not_another_machine_at_its_next_boot(driver: Driver, yard: Yard) -> None:
    source, template = await _frozen(driver, yard)
    plan = _fork_of(yard, source, "one")
    await driver.fork(plan, template)
    assert await ask(plan, "count") == ["2"]
    await driver.fork(plan, template)
    _, uuid, _ = await ask(plan, "count", "uuid", "store after")
    await driver.power(plan, "off")
    await driver.boot(plan)

    assert await ask(plan, "count", "stored") == ["1", "after"]
    assert await ask(plan, "uuid") == [uuid]


async def test_a_fork_has_cards_that_its_template_had_not(driver: Driver, yard: Yard) -> None:
    source, template = await _frozen(driver, yard)
    cards = [Card(mac=f"52:54:00:00:00:0{number}", netdev="") for number in (1, 2)]
    plan = _fork_of(yard, source, "one", *cards)
    await driver.fork(plan, template)

    assert await ask(plan, "cards") == ["52:54:00:00:00:01 52:54:00:00:00:02"]


async def test_a_fork_that_is_reset_boots(driver: Driver, yard: Yard) -> None:
    source, template = await _frozen(driver, yard)
    plan = _fork_of(yard, source, "one")
    await driver.fork(plan, template)
    assert await ask(plan, "count") == ["2"]
    await driver.power(plan, "reset")
    await _until_it_has_begun_anew(plan)

    assert await ask(plan, "stored") == ["before"]


async def test_what_was_not_made_to_be_frozen_is_not(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    await driver.boot(plan)
    with pytest.raises(Refused, match="frozen"):
        await driver.freeze(plan, yard.root / "template")
    assert await ask(plan, "count") == ["1"]
    with pytest.raises(Broken, match="does not run"):
        await driver.freeze(yard.plan("never", is_template=True), yard.root / "template")


@pytest.mark.parametrize("part", ["template.json", "memory"])
async def test_nothing_is_forked_from_half_a_template(driver: Driver, yard: Yard, part: str) -> None:
    source, template = await _frozen(driver, yard)
    (template / part).unlink()
    plan = _fork_of(yard, source, "one")
    with pytest.raises(Unfit, match="no template"):
        await driver.fork(plan, template)
    assert await driver.running(INSTANCE) == []


async def test_a_machine_without_its_disk_does_not_start_and_is_not_there(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    missing = replace(plan.disks[0], path=plan.disks[0].path.with_name("other.raw"))
    with pytest.raises(Broken, match=r"other\.raw"):
        await driver.boot(replace(plan, disks=[missing]))
    assert await driver.running(INSTANCE) == []
    await driver.boot(plan)
    assert await ask(plan, "count") == ["1"]


async def test_an_agent_that_comes_back_finds_its_machines(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    await driver.boot(plan)
    await ask(plan, "count")
    before = await _known(driver, plan)
    after = yard.driver()

    assert await _known(after, plan) == before
    await after.boot(plan)
    assert await ask(plan, "count") == ["2"]
    await after.end(plan.directory, plan.name)
    assert await _known(driver, plan) is None


async def test_the_console_is_kept(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one")
    await driver.boot(plan)
    await ask(plan, "say once")
    await driver.power(plan, "off")
    await driver.boot(plan)
    await ask(plan, "say again")

    said = (plan.directory / "console.log").read_text()
    assert said.index("once") < said.index("again")


async def test_a_screen_is_shown_where_there_is_one(driver: Driver, yard: Yard) -> None:
    plan = yard.plan("one", display=True)
    await driver.boot(plan)

    assert (await driver.screenshot(plan)).startswith(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(Refused, match="display"):
        await driver.screenshot(yard.plan("other"))
    await driver.power(plan, "off")
    with pytest.raises(Refused, match="off"):
        await driver.screenshot(plan)


def test_every_driver_is_in_this_suite() -> None:
    """A new one that is not fails here."""
    home = Path(drivers.__file__).parent

    assert {one.name for one in home.iterdir() if (one / "__init__.py").exists()} == set(YARDS) - {"fake"}


async def test_a_stamp_says_the_same_to_each_agent(driver: Driver, yard: Yard) -> None:
    assert await driver.stamp() == await yard.driver().stamp()


async def test_a_template_whose_memory_is_spoiled_is_named_as_the_cause(driver: Driver, yard: Yard) -> None:
    source, template = await _frozen(driver, yard)
    spoiled = next(path for path in (template / "state", template / "memory") if path.exists())
    spoiled.write_bytes(b"x" * spoiled.stat().st_size)
    plan = _fork_of(yard, source, "fork")
    with pytest.raises(Unfit):
        await driver.fork(plan, template)
    assert await _known(driver, plan) is None
