"""The client for programs with a loop; a task renews the lease it holds."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self, TypeVar

import httpx

from paddock.client import answers, calls, opening, term, waiting
from paddock.client.calls import Call
from paddock.client.errors import LeaseLost, NoEnvironment, Unreachable
from paddock.client.finding import Place, find
from paddock.client.waiting import Granted
from paddock.core.errors import PaddockError, Refused
from paddock.wire.shapes import AgentCommand, Lease, Machine

S = TypeVar("S")


async def _ignore(lease: Lease) -> None:
    """Nobody wants to know."""


class AsyncClient:
    """Speaks to one server, for one loop. Raises what the server said, or Unreachable."""

    def __init__(self, url: str, *, token: str = "", transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.place = Place(url=url.rstrip("/"), token=token)
        self._http = httpx.AsyncClient(**opening.options(self.place), transport=transport)

    @classmethod
    def found(cls, *, server: str = "", token_file: str = "", state: str = "") -> Self:
        """A client for the server that arguments, environment or this user's last `serve` name."""
        place = find(server=server, token_file=token_file, state=state)
        return cls(place.url, token=place.token)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def send(self, call: Call[S], *, limit: float | None = None) -> S:
        """The answer to one call. A call that is safe to repeat is, once, where a kept connection had been closed."""
        return answers.read(call, await self._ask(call, limit))

    async def _ask(self, call: Call[S], limit: float | None) -> httpx.Response:
        for is_last in (not call.is_safe, True):
            try:
                return await self._http.request(**opening.request(call), timeout=opening.limits(call, limit))
            except httpx.ConnectError as exc:
                raise answers.unreachable(exc) from exc
            except httpx.TransportError as exc:
                if is_last or isinstance(exc, httpx.TimeoutException):
                    raise answers.unreachable(exc) from exc
            except (httpx.InvalidURL, httpx.DecodingError) as exc:
                raise Refused(f"server {self.place.url}: {exc}") from exc
        raise AssertionError("the last attempt returns or raises")

    async def every(self, ask: Callable[[str | None], Call[S]], *, most: int = 1000) -> AsyncIterator[S]:
        """All pages of a list, `ask(below)` being the call of one; stops after `most` of them."""
        below: str | None = None
        for _ in range(most):
            page = await self.send(ask(below))
            yield page
            below = getattr(page, "next", None)
            if below is None:
                return

    # ---- commands to agents ----

    async def order(
        self,
        agent: str,
        method: str,
        params: Mapping[str, object] | None = None,
        *,
        id: str | None = None,
        wait: float | None = 0.0,
    ) -> AgentCommand:
        """Have an agent do something, and wait so many seconds for its end (None: however long it takes).

        `id` is yours: after an Unreachable ask again with the same one, and it is the same command, executed once.
        """
        name = uuid.uuid4().hex if id is None else id
        asked = await self.send(calls.order(agent, method, params or {}, id=name))
        return await self.finish(asked, wait=wait)

    async def finish(self, command: AgentCommand, *, wait: float | None = None) -> AgentCommand:
        """The command as it is at its end, or after so many seconds; a restart of the server is waited out."""
        heard = term.now()
        until = None if wait is None else heard + wait
        while not waiting.is_over(command):
            left = waiting.LOOK if until is None else min(waiting.LOOK, until - term.now())
            if left <= 0:
                break
            try:
                command = await self.send(calls.command(command.agent, command.id, wait=round(left, 3)))
                heard = term.now()
            except Unreachable:
                if term.now() - heard > waiting.SILENCE:
                    raise
                await asyncio.sleep(waiting.PAUSE)
        return command

    async def output(self, command: AgentCommand, *, stream: str = "out", offset: int = 0) -> AsyncIterator[bytes]:
        """What a command prints, from `offset` bytes on, as it comes, to its end."""
        heard = term.now()
        while True:
            try:
                call = calls.output(command.agent, command.id, stream=stream, offset=offset, wait=waiting.LOOK)
                piece = await self.send(call)
                heard = term.now()
            except Unreachable:
                if term.now() - heard > waiting.SILENCE:
                    raise
                await asyncio.sleep(waiting.PAUSE)
                continue
            if piece.data:
                yield piece.data
            offset += len(piece.data)
            if piece.is_last:
                return

    # ---- leases ----

    async def acquire(
        self,
        pool: str,
        *,
        ttl: float,
        holder: str = "",
        grace: float | None = None,
        patience: float | None = None,
        waits: Callable[[Lease], Awaitable[None]] = _ignore,
    ) -> Granted:
        """Ask for an environment of `pool` and wait in its queue, at most `patience` seconds. `ttl` in seconds.

        Cancelled while it waits, it withdraws the request. NoEnvironment where it is impossible or patience ended.
        The caller renews and releases: `lease` does both.
        """
        asked = term.now()
        lease = await self.send(calls.acquire(pool, ttl=ttl, holder=holder))
        try:
            if not waiting.accept(lease):
                lease = await self._wait(lease, waits, None if patience is None else asked + patience)
                # It was granted at some time while we waited: one renewal makes the beginning of its term known.
                asked = term.now()
                lease = await self.send(calls.renew(lease.id, fence=lease.fence))
            lent = await self.send(calls.environment(lease.environment))
            since = waiting.term(lease, since=asked, grace=grace)
        except BaseException:
            await asyncio.shield(self._withdraw(lease.id))
            raise
        return Granted(lease=lease, term=since, host=lent.host, machines=lent.machines)

    async def _wait(self, lease: Lease, waits: Callable[[Lease], Awaitable[None]], until: float | None) -> Lease:
        heard = term.now()
        while not waiting.accept(lease):
            await waits(lease)
            left = waiting.LOOK if until is None else until - term.now()
            if left <= 0:
                raise NoEnvironment(f"lease {lease.id}: not granted in time", hint=f"paddock lease why {lease.id}")
            try:
                lease = await self.send(calls.lease(lease.id, wait=round(min(left, waiting.LOOK), 3)))
                heard = term.now()
            except Unreachable:
                if term.now() - heard > waiting.SILENCE:
                    raise
                await asyncio.sleep(waiting.PAUSE)
        return lease

    async def _withdraw(self, lease: str) -> None:
        """Take a request back, granted meanwhile or not. What cannot be reached ends by its ttl."""
        with suppress(PaddockError):
            found = await self.send(calls.lease(lease), limit=5)
            if found.state == "queued":
                with suppress(Refused):
                    await self.send(calls.cancel_lease(lease), limit=5)
                found = await self.send(calls.lease(lease), limit=5)
            if found.state == "granted":
                await self.send(calls.release(lease, fence=found.fence), limit=5)

    @asynccontextmanager
    async def lease(
        self,
        pool: str,
        *,
        ttl: float = 3600.0,
        holder: str = "",
        patience: float | None = None,
        waits: Callable[[Lease], Awaitable[None]] = _ignore,
    ) -> AsyncIterator["AsyncHeld"]:
        """An environment for the length of the block: acquired, renewed, released.

        A loss cancels the block and comes out of it as LeaseLost.
        """
        granted = await self.acquire(pool, ttl=ttl, holder=holder, patience=patience, waits=waits)
        held = AsyncHeld(self, granted)
        try:
            async with asyncio.timeout(None) as bound:
                renewing = asyncio.create_task(held.renew(lambda: bound.reschedule(0.0)), name=f"renewing {held.id}")
                try:
                    yield held
                except BaseException:
                    # The block's own error is the one to hear, and the environment goes back all the same.
                    if held.loss is None:
                        with suppress(PaddockError):
                            await held.release()
                    raise
                else:
                    await held.release()
                finally:
                    renewing.cancel()
                    await asyncio.wait([renewing])
        except TimeoutError as exc:
            if held.loss is None:
                raise
            raise held.loss from exc


class AsyncHeld:
    """A lease while it is held."""

    def __init__(self, client: AsyncClient, granted: Granted) -> None:
        self.lease = granted.lease
        self.host = granted.host
        self.machines: Sequence[Machine] = granted.machines
        self._client = client
        self._term = granted.term
        self._loss: LeaseLost | None = None

    @property
    def id(self) -> str:
        return self.lease.id

    @property
    def environment(self) -> str:
        return self.lease.environment

    @property
    def fence(self) -> int:
        return self.lease.fence

    @property
    def loss(self) -> LeaseLost | None:
        """Why it is lost; None while it is ours."""
        if self._loss is None and term.now() >= self._term.over:
            self._loss = waiting.over(self.lease, "")
        return self._loss

    async def release(self) -> None:
        """Give it back. Idempotent. LeaseLost if it was not ours any more; tries again while the server is silent."""
        while True:
            if self.loss is not None:
                raise self.loss
            try:
                await self._client.send(calls.release(self.id, fence=self.fence), limit=10)
                return
            except PaddockError as exc:
                if (loss := waiting.loss(self.lease, exc)) is not None:
                    raise loss from exc
                await asyncio.sleep(waiting.PAUSE)

    async def renew(self, lost: Callable[[], None]) -> None:
        """Renew until cancelled, or until the lease is lost, which `lost` is told."""
        due, why = self._term.renewal, ""
        while True:
            # A wait stands still while the machine sleeps, the ttl does not: look at the clock every second.
            await asyncio.sleep(max(0.0, min(1.0, min(due, self._term.over) - term.now())))
            asked = term.now()
            if asked >= self._term.over:
                self._loss = waiting.over(self.lease, why)
                return lost()
            if asked < due:
                continue
            try:
                async with asyncio.timeout(self._term.over - asked):
                    lease = await self._client.send(calls.renew(self.id, fence=self.fence), limit=10)
            except TimeoutError:
                why = "no answer in time"
            except PaddockError as exc:
                if (loss := waiting.loss(self.lease, exc)) is not None:
                    self._loss = loss
                    return lost()
                due, why = term.now() + term.retry_after(self._term), exc.message
            else:
                self._term = waiting.term(lease, since=asked, grace=self._term.grace)
                due, why = self._term.renewal, ""
