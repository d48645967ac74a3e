"""Asks all that may know which instance this is, at once and within one short budget.

Effects: none.
"""

import asyncio
from datetime import timedelta
from pathlib import Path

from paddock.agent.cloud import seeds
from paddock.agent.cloud.dialects import DIALECTS, Dialect
from paddock.agent.cloud.facts import CloudFacts
from paddock.agent.cloud.fetching import fetch, place
from paddock.agent.cloud.hints import worth_asking
from paddock.core.errors import Broken

USUAL = "http://169.254.169.254"
BUDGET = timedelta(seconds=1)
NOTHING = ("none", "other")
"""Names that say that this is no cloud: nobody is asked."""


async def probe(rootfs: Path, *, told: str = "", url: str = "", budget: timedelta = BUDGET) -> CloudFacts:
    """What is known within the budget, whatever hangs; empty facts if nobody knew anything.

    `told` is the cloud's name if somebody knows it, and stays its name; `url` asks there instead of at the usual
    address, and then all are asked.
    """
    if told.lower() in NOTHING:
        return CloudFacts(name="" if told.lower() == "none" else told)
    host, port = place(url or USUAL)
    names = worth_asking(rootfs, told) or (tuple(DIALECTS) if url and not told else ())
    asked = [asyncio.create_task(_ask(DIALECTS[name], host, port)) for name in names]
    asked.append(asyncio.create_task(asyncio.to_thread(seeds.found, rootfs)))
    try:
        best = await _first(asked, budget)
    finally:
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    return CloudFacts(name=told or best.name, instance=best.instance, addresses=best.addresses, code=best.code)


async def _first(asked: list[asyncio.Task[CloudFacts | None]], budget: timedelta) -> CloudFacts:
    """The best that knew something: nobody waits for those behind it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + budget.total_seconds()
    waiting = set(asked)
    while waiting:
        known = next((one for one in asked if one in waiting or _result(one) is not None), None)
        if known is None or known not in waiting:
            break
        done, waiting = await asyncio.wait(
            waiting, timeout=max(deadline - loop.time(), 0), return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            break
    return next((result for one in asked if one.done() and (result := _result(one)) is not None), CloudFacts())


def _result(task: "asyncio.Task[CloudFacts | None]") -> CloudFacts | None:
    return None if task.cancelled() or task.exception() is not None else task.result()


async def _ask(dialect: Dialect, host: str, port: int) -> CloudFacts | None:
    headers = dict(dialect.headers)
    if dialect.session is not None:
        path, wish = dialect.session
        try:
            answer = await fetch(host, port, path, headers=wish, method="PUT")
            if answer.status == 200:
                headers[dialect.session_header] = answer.body.decode("ascii", "replace").strip()[:512]
        except Broken:
            return None

    async def ask(path: str) -> tuple[str, bytes] | None:
        try:
            answer = await fetch(host, port, path, headers=headers)
        except Broken:
            return None
        if answer.status != 200:
            return None
        if dialect.proof is not None and answer.headers.get(dialect.proof[0]) != dialect.proof[1]:
            return None
        return path, answer.body

    answered = await asyncio.gather(*(ask(path) for path in dialect.paths))
    return dialect.read(dict(one for one in answered if one is not None))
