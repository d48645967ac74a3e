"""What an agent on a copied disk does: nothing, until somebody says who it is.

Effects: idempotent; see origin.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from paddock.agent import durable, enrolment, identity, origin
from paddock.agent.origin import Origin
from paddock.agent.settings import Settings
from paddock.core.errors import Broken, PaddockError

_log = logging.getLogger(__name__)

MARK = "shut-out"
"""File in the state directory while the agent is shut out; its text says why."""
SAME = "same-machine"
"""A file of this name in the state directory is an operator's word that it is no copy."""
_LOOK_EVERY = 1.0
_HINT = (
    "paddock host add NAME makes a code, paddock agent enrol --code-file FILE gives it to this copy; "
    "where it is the same machine: paddock agent enrol --same-machine"
)


async def admit(
    chosen: Settings, *, stop: asyncio.Event, injected: Callable[[], Awaitable[str]], tell: Callable[[str], None]
) -> None:
    """Return once the state is this machine's, or `stop` is set. Needs the state's lock, touches nothing before that.

    A copy says nothing to anybody: it waits for a code that was not used yet (in its file, on the command line, or
    from the cloud), and then begins without the copied identity and ledger. One without an identity has nothing to
    wait for: whoever carries it knows who it is. `tell` hears why it waits, and an empty text when that is over.
    """
    state = chosen.state
    found = Origin() if chosen.is_local else origin.look(chosen.rootfs)
    recorded = origin.load(state)
    why = origin.difference(recorded, found) if recorded is not None else ""
    if recorded is not None and why and not await _may_stay(chosen, recorded, why, stop, injected, tell):
        if stop.is_set():
            return
        aside = await asyncio.to_thread(origin.set_aside, state)
        _log.warning("this is a copy of another machine, it begins anew", extra={"why": why, "kept_in": str(aside)})
        recorded = Origin(code=recorded.code)
    known = origin.complete(recorded, found)
    if known != recorded and not chosen.is_local:
        await asyncio.to_thread(origin.record, state, known)
    for name in (MARK, SAME):
        durable.remove(state / name)
    if why:
        tell("")


async def _may_stay(
    chosen: Settings,
    recorded: Origin,
    why: str,
    stop: asyncio.Event,
    injected: Callable[[], Awaitable[str]],
    tell: Callable[[str], None],
) -> bool:
    """Wait for a word. True: it is the same machine after all; false: it is to begin anew, or to stop."""
    state = chosen.state
    if _is_vouched_for(chosen):
        return True
    if not _has_identity(state) or _is_new(chosen.code, recorded) or _is_new(await injected(), recorded):
        return False
    _log.error("shut out: this is a copy of another machine", extra={"why": why, "hint": _HINT})
    tell(f"shut out: {why}")
    await asyncio.to_thread(durable.write, state / MARK, why)
    while not stop.is_set():
        if _is_vouched_for(chosen):
            return True
        if _is_new(_waiting(state), recorded):
            return False
        try:
            # Waits for: the end. Files are looked for: whoever makes them need not find this process.
            async with asyncio.timeout(_LOOK_EVERY):
                await stop.wait()
        except TimeoutError:
            pass
    return False


def _is_vouched_for(chosen: Settings) -> bool:
    return chosen.same_machine or (chosen.state / SAME).exists()


def _is_new(code: str, recorded: Origin) -> bool:
    """Whether nobody enrolled with it. Where that was not recorded, no code counts that was there at the start."""
    return bool(code) and origin.digest(code) != recorded.code


def _waiting(state: Path) -> str:
    try:
        return enrolment.read(str(state / enrolment.FILE)) if (state / enrolment.FILE).exists() else ""
    except PaddockError:
        return ""


def _has_identity(state: Path) -> bool:
    try:
        return identity.load(state) is not None
    except Broken:
        return True
