"""What the routes ask the engine to do; reading needs nobody, it goes to the store."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol

from paddock.core.access import Identity, Role
from paddock.core.alert import Alert
from paddock.core.command import Command
from paddock.core.environment import Environment
from paddock.core.host import Host
from paddock.core.lease import Lease
from paddock.core.queue import WhyLease
from paddock.core.run import Run
from paddock.engine.ordering import Ordered, Wish
from paddock.wire.shapes import Drain


class Actions(Protocol):
    """Everything a person or a program may ask for. Real: the engine. Test: tests/web.

    Whether the role may ask is decided before (web.roles); whether *this* identity may touch *this* row (the owner of a
    lease, the holder of an environment) is decided here, by the engine. Every method: `Missing` for an unknown id,
    `Refused` with the reason where the rows do not allow it, `Stale` for an old fence, `Broken` when the store is.
    """

    async def identify(self, secret: str) -> Identity:
        """Whose secret it is, from memory. `Refused` for one that is unknown, expired or revoked."""

    async def acquire(
        self, *, pool: str, holder: str, owner: str, ttl: timedelta | None, wait: timedelta | None
    ) -> Lease:
        """A new lease, granted if it was possible at once or within `wait`; queued otherwise; impossible says why.

        Without a ttl it gets its pool's.
        """

    async def renew(self, lease: str, *, fence: int, ttl: timedelta | None, identity: Identity) -> Lease: ...

    async def release(self, lease: str, *, fence: int, identity: Identity) -> Lease: ...

    async def cancel_lease(self, lease: str, *, identity: Identity) -> Lease:
        """Withdraw a queued lease; an operator's word also revokes a granted one."""

    async def why(self, lease: str) -> WhyLease:
        """What a queued lease waits for. For a lease that does not wait, says so."""

    async def hold(self, environment: str, *, ttl: timedelta, disks: bool = False, identity: Identity) -> Environment:
        """Keep it for a person; `disks`: only copies of its disks, its machines are let go."""

    async def fork(
        self, environment: str, *, holder: str, ttl: timedelta | None, wait: timedelta | None, identity: Identity
    ) -> Lease:
        """A lease of a new environment, booted from the disks that this one saved."""

    async def press(
        self, environment: str, machine: str, wish: Wish, *, fence: int | None, identity: Identity
    ) -> Ordered:
        """Power, console, keys, screen of a machine, for who has it: a command of its host's agent.

        `Stale` for a fence that is over.
        """

    async def build_image(self, name: str, *, host: str, identity: Identity) -> None:
        """Have an image built, or built anew; without a host wherever it is, or may be needed."""

    async def collect_images(self, *, host: str, params: Mapping[str, object], identity: Identity) -> list[Command]:
        """Have hosts remove layers that nobody needs; one command a host."""

    async def release_environment(self, environment: str, *, identity: Identity) -> Environment: ...

    async def quarantine(self, environment: str, *, reason: str, identity: Identity) -> Environment: ...

    async def clean(self, environment: str, *, identity: Identity) -> Environment: ...

    async def retry(self, run: str, *, identity: Identity) -> Run:
        """Start the job again: another attempt, or a round of its own after the report. The new run."""

    async def cancel(self, run: str, *, identity: Identity, reason: str) -> Run: ...

    async def order(self, agent: str, wish: Wish, *, identity: Identity) -> Ordered:
        """Queue a command for an agent, known by id or name; a wish without an id gets one.

        The id of an earlier command is answered with that command, `Refused` if something else was asked under it.
        `NotOffered` for a method that the agent does not have, `BadParams`, `NotAllowed`.
        """

    async def cancel_order(self, agent: str, command: str, *, grace: float | None, identity: Identity) -> Command:
        """End a command that somebody ordered; the row as it is now."""

    async def acknowledge(self, alert: str, *, identity: Identity) -> Alert:
        """A person knows of it. Again is the same as once; `Refused` for one that is over."""

    async def make_token(self, *, name: str, role: Role, ttl: timedelta | None, identity: Identity) -> str:
        """A new secret, told this once."""

    async def revoke_token(self, name: str, *, identity: Identity) -> None: ...

    async def enrolment(self, *, host: str, ttl: timedelta, identity: Identity) -> str:
        """A code with which one agent may join as `host`, told this once."""

    async def drain_host(self, host: str, *, identity: Identity) -> Host: ...

    async def resume_host(self, host: str, *, identity: Identity) -> Host: ...

    async def drain(self, *, identity: Identity) -> Drain:
        """Start no new run from now on; what is still under way."""
