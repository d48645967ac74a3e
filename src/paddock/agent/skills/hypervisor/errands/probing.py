"""Whether a guest of ours comes to user space, with an accelerator that says it works.

Effects: idempotent; the machine of a probe is gone after it.
"""

import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from paddock.agent.skills.hypervisor.errands import machine
from paddock.agent.skills.hypervisor.errands.machine import Work
from paddock.agent.skills.hypervisor.ports import Driver, Plan
from paddock.core.machine import uniform

LIMIT = timedelta(seconds=10)
"""With KVM it takes half a second, and TCG is there in two, on a host that has time for it."""


async def probe(driver: Driver, boot: Callable[[Plan], Awaitable[None]], root: Path, instance: str) -> None:
    """Broken, saying what happened, if it does not."""
    random = secrets.token_hex(4)
    await machine.run(
        driver,
        Work(script="end done\n"),
        name=uniform(instance, "helper", f"probe-{random}"),
        directory=root / "making" / f"probe-{random}",
        limit=LIMIT,
        boot=boot,
    )
