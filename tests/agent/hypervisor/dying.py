"""An agent that does one thing with a machine, and may be killed in the middle: `python -m ... ROOT ACTION`."""

import asyncio
import sys
from pathlib import Path

from paddock.agent.skills.hypervisor.errands import machine
from paddock.agent.skills.hypervisor.errands.machine import Work
from paddock.core.machine import uniform
from tests.agent.hypervisor.yards import INSTANCE, QemuYard

ERRAND = "an-errand"


async def _act(root: Path, action: str) -> None:
    yard = QemuYard(root)
    driver = yard.driver()
    plan = yard.plan("one", is_template=action == "freeze")
    match action:
        case "boot":
            await driver.boot(plan)
        case "fork":
            await driver.fork(plan, root / "template")
        case "freeze":
            await driver.freeze(plan, root / "template")
        case "end":
            await driver.end(plan.directory, plan.name)
        case "errand":
            work = Work(script="end done\n")
            name = uniform(INSTANCE, ERRAND)
            await machine.run(driver, work, name=name, directory=root / ERRAND)


if __name__ == "__main__":
    asyncio.run(_act(Path(sys.argv[1]), sys.argv[2]))
