"""The client for programs with threads; a thread renews the lease it holds."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self, TypeVar

import httpx

from paddock.client import answers, calls, opening, term, waiting
from paddock.client.calls import Call
from paddock.client.errors import LeaseLost, NoEnvironment, Unreachable
from paddock.client.finding import Place, find
from paddock.client.waiting import Granted
from paddock.core.errors import Conflict, PaddockError, Refused
from paddock.wire.shapes import AgentCommand, Lease, Machine

S = TypeVar("S")


class Client:
    """Speaks to one server. Safe to share between threads. Raises what the server said, or Unreachable."""

    def __init__(self, url: str, *, token: str = "", transport: httpx.BaseTransport | None = None) -> None:
        self.place = Place(url=url.rstrip("/"), token=token)
        self._http = httpx.Client(**opening.options(self.place), transport=transport)

    @classmethod
    def found(cls, *, server: str = "", token_file: str = "", state: str = "") -> Self:
        """A client for the server that arguments, environment or this user's last `serve` name."""
        place = find(server=server, token_file=token_file, state=state)
        return cls(place.url, token=place.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def send(self, call: Call[S], *, limit: float | None = None) -> S:
        """The answer to one call. A call that is safe to repeat is, once, where a kept connection had been closed."""
        return answers.read(call, self._ask(call, limit))

    def _ask(self, call: Call[S], limit: float | None) -> httpx.Response:
        for is_last in (not call.is_safe, True):
            try:
                return self._http.request(**opening.request(call), timeout=opening.limits(call, limit))
            except httpx.ConnectError as exc:
                raise answers.unreachable(exc) from exc
            except httpx.TransportError as exc:
                if is_last or isinstance(exc, httpx.TimeoutException):
                    raise answers.unreachable(exc) from exc
            except (httpx.InvalidURL, httpx.DecodingError) as exc:
                raise Refused(f"server {self.place.url}: {exc}") from exc
        raise AssertionError("the last attempt returns or raises")

    def every(self, ask: Callable[[str | None], Call[S]], *, most: int = 1000) -> Iterator[S]:
        """All pages of a list, `ask(below)` being the call of one; stops after `most` of them."""
        below: str | None = None
        for _ in range(most):
            page = self.send(ask(below))
            yield page
            below = getattr(page, "next", None)
            if below is None:
                return

    # ---- commands to agents ----

    def order(
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
        asked = self.send(calls.order(agent, method, params or {}, id=name))
        return self.finish(asked, wait=wait)

    def finish(self, command: AgentCommand, *, wait: float | None = None) -> AgentCommand:
        """The command as it is at its end, or after so many seconds; a restart of the server is waited out."""
        heard = term.now()
        until = None if wait is None else heard + wait
        while not waiting.is_over(command):
            left = waiting.LOOK if until is None else min(waiting.LOOK, until - term.now())
            if left <= 0:
                break
            try:
                command = self.send(calls.command(command.agent, command.id, wait=round(left, 3)))
                heard = term.now()
            except Unreachable:
                if term.now() - heard > waiting.SILENCE:
                    raise
                time.sleep(waiting.PAUSE)
        return command

    def output(self, command: AgentCommand, *, stream: str = "out", offset: int = 0) -> Iterator[bytes]:
        """What a command prints, from `offset` bytes on, as it comes, to its end."""
        heard = term.now()
        while True:
            try:
                call = calls.output(command.agent, command.id, stream=stream, offset=offset, wait=waiting.LOOK)
                piece = self.send(call)
                heard = term.now()
            except Unreachable:
                if term.now() - heard > waiting.SILENCE:
                    raise
                time.sleep(waiting.PAUSE)
                continue
            if piece.data:
                yield piece.data
            offset += len(piece.data)
            if piece.is_last:
                return

    # ---- leases ----

    def acquire(
        self,
        pool: str,
        *,
        ttl: float,
        holder: str = "",
        grace: float | None = None,
        patience: float | None = None,
        waits: Callable[[Lease], None] = lambda lease: None,
    ) -> Granted:
        """Ask for an environment of `pool` and wait in its queue, at most `patience` seconds. `ttl` in seconds.

        `waits` is called with the queued lease, again and again; what it raises withdraws the request, as Ctrl-C does.
        NoEnvironment where it is impossible or patience ended. The caller renews and releases: `lease` does both.
        """
        return self._borrow(calls.acquire(pool, ttl=ttl, holder=holder), grace, patience, waits)

    def fork(
        self,
        environment: str,
        *,
        ttl: float,
        holder: str = "",
        patience: float | None = None,
        waits: Callable[[Lease], None] = lambda lease: None,
    ) -> Granted:
        """Like `acquire`: a new environment, booted from the disks that this one saved."""
        return self._borrow(calls.fork(environment, ttl=ttl, holder=holder), None, patience, waits)

    def _borrow(
        self, call: Call[Lease], grace: float | None, patience: float | None, waits: Callable[[Lease], None]
    ) -> Granted:
        asked = term.now()
        lease = self.send(call)
        try:
            if not waiting.accept(lease):
                lease = self._wait(lease, waits, None if patience is None else asked + patience)
                # It was granted at some time while we waited: one renewal makes the beginning of its term known.
                asked = term.now()
                lease = self.send(calls.renew(lease.id, fence=lease.fence))
            lent = self.send(calls.environment(lease.environment))
            since = waiting.term(lease, since=asked, grace=grace)
        except BaseException:
            self._withdraw(lease.id)
            raise
        return Granted(lease=lease, term=since, host=lent.host, machines=lent.machines)

    def _wait(self, lease: Lease, waits: Callable[[Lease], None], until: float | None) -> Lease:
        heard = term.now()
        while not waiting.accept(lease):
            waits(lease)
            left = waiting.LOOK if until is None else until - term.now()
            if left <= 0:
                raise NoEnvironment(f"lease {lease.id}: not granted in time", hint=f"paddock lease why {lease.id}")
            try:
                lease = self.send(calls.lease(lease.id, wait=round(min(left, waiting.LOOK), 3)))
                heard = term.now()
            except Unreachable:
                if term.now() - heard > waiting.SILENCE:
                    raise
                time.sleep(waiting.PAUSE)
        return lease

    def _withdraw(self, lease: str) -> None:
        """Take a request back, granted meanwhile or not. What cannot be reached ends by its ttl."""
        with suppress(PaddockError):
            found = self.send(calls.lease(lease), limit=5)
            if found.state == "queued":
                with suppress(Conflict, Refused):
                    self.send(calls.cancel_lease(lease), limit=5)
                found = self.send(calls.lease(lease), limit=5)
            if found.state == "granted":
                self.send(calls.release(lease, fence=found.fence), limit=5)

    @contextmanager
    def lease(
        self,
        pool: str,
        *,
        ttl: float = 3600.0,
        holder: str = "",
        patience: float | None = None,
        waits: Callable[[Lease], None] = lambda lease: None,
    ) -> Iterator["Held"]:
        """An environment for the length of the block: acquired, renewed, released. LeaseLost at its end if it was lost.

        Ask `held.check()` between steps: the block is not interrupted by a loss.
        """
        granted = self.acquire(pool, ttl=ttl, holder=holder, patience=patience, waits=waits)
        with Held(self, granted) as held:
            try:
                yield held
            except BaseException:
                # The block's own error is the one to hear, and the environment goes back all the same.
                with suppress(PaddockError):
                    held.release()
                raise
            held.release()


class Held:
    """A lease while it is held; renewed in a thread of its own from entering to leaving. Leaving does not release.

    That thread calls `renewed` with the new moment of `over` after each renewal, and `lost` once if it comes to that.
    """

    def __init__(
        self,
        client: Client,
        granted: Granted,
        *,
        renewed: Callable[[float], None] = lambda over: None,
        lost: Callable[[LeaseLost], None] = lambda loss: None,
    ) -> None:
        self.lease = granted.lease
        self.host = granted.host
        self.machines: Sequence[Machine] = granted.machines
        self._client = client
        self._term = granted.term
        self._tell_renewed = renewed
        self._tell_lost = lost
        self._loss: LeaseLost | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

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
    def over(self) -> float:
        """When the lease counts as lost here unless it is renewed; seconds on CLOCK_BOOTTIME."""
        return self._term.over

    @property
    def grace(self) -> float:
        """Seconds between the moment at which the lease counts as lost here and the end of its ttl."""
        return self._term.grace

    @property
    def loss(self) -> LeaseLost | None:
        """Why it is lost; None while it is ours."""
        if self._loss is None and term.now() >= self._term.over:
            self._loss = waiting.over(self.lease, "")
        return self._loss

    def check(self) -> None:
        """LeaseLost if it is no longer ours."""
        if (loss := self.loss) is not None:
            raise loss

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._renew, name=f"renewing {self.id}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(waiting.PAUSE)

    def release(self) -> None:
        """Give it back. Idempotent. LeaseLost if it was not ours any more; tries again while the server is silent."""
        while True:
            self.check()
            try:
                self._client.send(calls.release(self.id, fence=self.fence), limit=10)
                return
            except PaddockError as exc:
                if (loss := waiting.loss(self.lease, exc)) is not None:
                    raise loss from exc
                time.sleep(waiting.PAUSE)

    def _renew(self) -> None:
        due, why = self._term.renewal, ""
        # A wait stands still while the machine sleeps, the ttl does not: look at the clock every second.
        while not self._stop.wait(max(0.0, min(1.0, min(due, self._term.over) - term.now()))):
            asked = term.now()
            if asked >= self._term.over:
                return self._lose(waiting.over(self.lease, why))
            if asked < due:
                continue
            try:
                lease = self._client.send(
                    calls.renew(self.id, fence=self.fence), limit=min(opening.CONNECT * 2, self._term.over - asked)
                )
            except PaddockError as exc:
                if (loss := waiting.loss(self.lease, exc)) is not None:
                    return self._lose(loss)
                due, why = term.now() + term.retry_after(self._term), exc.message
            else:
                self._term = waiting.term(lease, since=asked, grace=self._term.grace)
                due, why = self._term.renewal, ""
                self._tell_renewed(self._term.over)

    def _lose(self, loss: LeaseLost) -> None:
        self._loss = loss
        self._tell_lost(loss)
