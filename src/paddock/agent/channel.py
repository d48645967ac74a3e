"""A machine's channel to the server: its host vouches for it, then copies both ways.

Effects: none.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from paddock.agent import dialing
from paddock.agent.dialing import Server, Unwelcome
from paddock.agent.identity import Identity
from paddock.agent.ledger import Ledger
from paddock.core.errors import Broken
from paddock.hands import links
from paddock.hands.links import Link
from paddock.wire import messages
from paddock.wire.backoff import wish
from paddock.wire.hello import Relay
from paddock.wire.messages import Command, Failure, Success

_LIMIT = timedelta(seconds=60)
_PATIENCE = timedelta(seconds=60)
"""A guest that reads nothing for so long hangs, or is not there: it is reached anew, and the server hears of it."""


@dataclass(frozen=True, kw_only=True)
class Carrying:
    """What a skill needs that carries machines: the server to relay them to, as whom, and where fences are known.

    Machines see neither the host agent's state nor what is `hidden`, with `walled` and where that is possible.
    """

    server: Server
    identity: Callable[[], Identity | None]
    ledger: Ledger
    hidden: tuple[Path, ...] = ()
    walled: bool = True


class Channel:
    """The channel of one machine; `reach` gives a fresh link to the agent in it, whenever one is needed.

    For a guest that is `links.connect("serial:PATH")`, the socket at which its hypervisor ends the virtio port of the
    guest's agent (`--line virtio:DEVICE`): each relay opens a session there, so that the guest says hello on it; a
    guest that begins anew (a restart of its agent, a reset, a kexec) opens one itself, which ends the relay: the next
    one has a link of its own to the server, and nothing of the old session reaches the new one.
    """

    def __init__(self, *, environment: str, machine: str, reach: Callable[[], Awaitable[Link]]) -> None:
        self._environment = environment
        self._machine = machine
        self._reach = reach
        self.related = asyncio.Event()
        """Set while the server takes what the machine says."""
        self.answered = asyncio.Event()
        """Set while the server has said something to the machine: its hello was answered."""
        self._there = asyncio.Event()
        """Set since the server answered whether it takes the relay, until it could not be asked again."""
        self._away = asyncio.Event()
        """Set while that is not so."""
        self._is_asked = False
        self._lost()

    # As a dialing.Watch

    def dials(self, server: str) -> None:
        """See Watch."""
        self._is_asked = False

    def apart(self, why: str) -> None:
        """See Watch. Where nobody answered, the server is away; what went wrong later says nothing of that."""
        if not self._is_asked:
            self._lost()

    def _asked(self) -> None:
        self._is_asked = True
        self._away.clear()
        self._there.set()

    def _lost(self) -> None:
        self._there.clear()
        self._away.set()

    async def heard(self, limit: timedelta) -> None:
        """Until the server has answered the machine's hello: as long as it is away, and then `limit`. TimeoutError."""
        while not self.answered.is_set():
            await self._there.wait()
            waiting = [asyncio.create_task(event.wait()) for event in (self.answered, self._away)]
            try:
                done, _ = await asyncio.wait(
                    waiting, timeout=limit.total_seconds(), return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                for task in waiting:
                    task.cancel()
            if not done:
                raise TimeoutError

    async def keep(self, carrying: Carrying) -> None:
        """Relay for ever."""

        async def speak(link: Link) -> str:
            known = carrying.identity()
            if known is None:
                await link.close("no identity yet")
                raise Broken("relay: the host has no identity yet")
            return await self.relay(link, known=known, fence=carrying.ledger.fence(self._environment))

        await dialing.keep(carrying.server, speak, subject=f"{self._environment}/{self._machine}", register=self)

    async def relay(self, link: Link, *, known: Identity, fence: int) -> str:
        """Vouch for the machine on a fresh link to the server, then copy both ways; gives the reason of the end."""
        wanted = Relay(
            agent=known.agent,
            token=known.new_token or known.token,
            environment=self._environment,
            machine=self._machine,
            fence=fence,
        )
        try:
            async with asyncio.timeout(_LIMIT.total_seconds()):
                await _vouch(link, wanted, self._asked)
                guest = await self._reach()
        except TimeoutError:
            await link.close("relay: no answer")
            raise Broken("relay: no answer") from None
        except BaseException:
            await link.close("relay: not taken")
            raise
        self.related.set()
        try:
            await links.relay(link, _Heeded(guest, self.answered), patience=_PATIENCE)
        finally:
            self.related.clear()
            self.answered.clear()
            # Cancelled, the relay has closed neither.
            await guest.close("relay over")
            await link.close("relay over")
        return "relay over"


class _Heeded:
    """A machine's end of a relay that notes when the first message for the machine has been handed over."""

    def __init__(self, guest: Link, answered: asyncio.Event) -> None:
        self._guest = guest
        self._answered = answered

    async def send(self, text: str) -> None:
        """See Link."""
        await self._guest.send(text)
        self._answered.set()

    async def receive(self) -> str:
        """See Link."""
        return await self._guest.receive()

    async def close(self, reason: str) -> None:
        """See Link."""
        await self._guest.close(reason)


async def _vouch(link: Link, wanted: Relay, asked: Callable[[], None]) -> None:
    """Unwelcome if the server does not take it. `asked` is called when it has answered."""
    await link.send(messages.encode(Command(id="relay-1", method="relay", params=wanted.params())))
    answer = messages.parse(await link.receive())
    asked()
    match answer:
        case Success():
            pass
        case Failure(msg=msg, details=details):
            raise Unwelcome(f"relay: {msg}", retry_after=wish(details.get("retry_after")))
        case other:
            raise Broken(f"relay: answered by {type(other).__name__}")
