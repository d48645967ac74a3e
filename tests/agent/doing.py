"""One deed of a skill carried out for real: its params checked by the table, its program held by a keeper."""

import inspect
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Deed, Place, Program, Read, Work
from paddock.hands.launcher import Held, Launcher
from paddock.wire.methods import METHODS, Method, check


class Doer:
    """Carries out deeds in a directory, each as a task of its own."""

    def __init__(self, directory: Path, launcher: Launcher) -> None:
        self.directory = directory
        self.place = place_in(directory)
        self._launcher = launcher
        self._count = 0

    def call(self, method: str, *, among: Mapping[str, Method] = METHODS, **params: Any) -> Call:
        self._count += 1
        checked = check(method, params, among=among)
        limit = checked.get("limit")
        return Call(
            task=f"t{self._count}",
            method=method,
            params=checked,
            environment="",
            fence=0,
            directory=self.place.tasks / f"t{self._count}",
            limit=timedelta(seconds=limit) if isinstance(limit, int | float) else None,
        )

    @asynccontextmanager
    async def held(self, program: Program, call: Call) -> AsyncIterator[Held]:
        """The task while it runs; it is ended with the block if it has not."""
        order = program.prepare(call)
        held = await self._launcher.fork(await order if inspect.isawaitable(order) else order)
        try:
            await held.open_gate()
            yield held
        finally:
            await held.cancel(timedelta(seconds=1))
            await held.ended()
            held.close()

    async def do(self, deed: Deed, call: Call) -> Outcome:
        match deed:
            case Read():
                return Outcome(result=await deed.answer(call))
            case Work():
                return await deed.act(call)
            case Program():
                async with self.held(deed, call) as held:
                    ended = await held.ended()
                return deed.conclude(call, ended)

    def output(self, call: Call) -> str:
        """What the task printed."""
        return (call.directory / "output").read_text()


def place_in(directory: Path) -> Place:
    for name in ("work", "tmp", "tasks"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    return Place(work=directory / "work", temporary=directory / "tmp", tasks=directory / "tasks")
