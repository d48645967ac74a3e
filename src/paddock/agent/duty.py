"""Something that is done for ever beside the commands, and begun again when it breaks.

Effects: none of its own.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import NoReturn

from paddock.core.errors import PaddockError
from paddock.wire.backoff import Backoff

_log = logging.getLogger(__name__)

_STEADY = 60.0  # seconds; one that lasted so long begins again at once


async def keep(name: str, duty: Callable[[], Awaitable[None]]) -> NoReturn:
    """Do it until cancelled. What it raises is told and never takes the agent down; it is begun again after a while."""
    loop = asyncio.get_running_loop()
    attempt, backoff = 0, Backoff()
    while True:
        began = loop.time()
        try:
            await duty()
            why = "it returned"
        except PaddockError as exc:
            why = exc.message
        except (Exception, SystemExit) as exc:
            why = f"{type(exc).__name__}: {exc}"
            _log.exception("a duty broke", extra={"duty": name})
        attempt = 1 if loop.time() - began > _STEADY else attempt + 1
        delay = backoff.delay(attempt - 1, chance=random.random())
        _log.warning("a duty begins again", extra={"duty": name, "why": why, "in": round(delay.total_seconds(), 1)})
        await asyncio.sleep(delay.total_seconds())
