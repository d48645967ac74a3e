"""The JSON API under /api/v1: answers are shapes, refusals come from one table."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from starlette.responses import PlainTextResponse

from paddock.core import environment, event, lease, report, run
from paddock.core.access import Role
from paddock.core.capacity import Room
from paddock.core.command import OPEN as OPEN_COMMANDS
from paddock.core.configuration import HostSettings
from paddock.core.errors import Broken, Conflict, Missing, NotAllowed, NotOffered, PaddockError, Refused, Stale
from paddock.core.host import Host
from paddock.core.image import chain, recipe
from paddock.engine import noting
from paddock.engine.booking import SKILL, room_of
from paddock.engine.ordering import agent_of
from paddock.ports import Tables
from paddock.web import telling
from paddock.web.kit import one_liner
from paddock.web.logs import Stream
from paddock.web.reading import need, streams_of, whole_change, whole_round, whole_run
from paddock.web.roles import API
from paddock.web.site import Site, identity_of
from paddock.wire import shapes
from paddock.wire.fields import BadParams

CODES: tuple[tuple[type[PaddockError], int, str], ...] = (
    (Stale, 412, "stale"),
    (NotAllowed, 403, "not_allowed"),
    (NotOffered, 409, "unknown_method"),
    (BadParams, 422, "bad_input"),
    (Conflict, 409, "conflict"),
    (Refused, 409, "refused"),
    (Missing, 404, "missing"),
    (Broken, 503, "broken"),
    (PaddockError, 500, "broken"),
)
"""What is raised on purpose → HTTP status and code; the first that fits."""

LONGEST_WAIT = 60.0
LONGEST_TTL = 604_800.0
LONGEST_HOLD = 2_592_000.0
_PIECE = 1024 * 1024

Id = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@:+-]*$", max_length=200)]
Number = Annotated[int, Path(ge=1, le=2**53)]
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@:+-]*$", max_length=255)]
Limit = Annotated[int, Query(ge=1, le=500)]
Word = Annotated[str | None, Query(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=255)]
Below = Annotated[str | None, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@:+-]*$", max_length=200)]
_FAILURE = {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}
# Told as plain schema: a model of each refusal for each route makes the start of a server a second longer.
REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "What was asked is not right, or not yours to ask.", "content": _FAILURE},
    "5XX": {"description": "Something of ours does not work.", "content": _FAILURE},
}


class BadInput(Exception):
    """A request whose fields do not fit, beyond what their types say: 422."""


def problem_of(error: PaddockError) -> tuple[int, shapes.Problem]:
    """The status and the words for something that was raised on purpose."""
    status, code = next((status, code) for kind, status, code in CODES if isinstance(error, kind))
    return status, shapes.Problem(code=code, message=error.message, hint=error.hint)


def seconds(amount: float, *, least: float = 1.0, most: float = LONGEST_TTL, name: str = "ttl") -> timedelta:
    """A duration out of a request; `BadInput` beyond its bounds, for NaN too."""
    if not least <= amount <= most:
        raise BadInput(f"{name}: it is not between {least:g} and {most:g} seconds")
    return timedelta(seconds=amount)


class Api:
    """The endpoints; each is one line of `mount`."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def mount(self, app: FastAPI) -> None:
        def add(method: str, path: str, endpoint: Callable[..., Any], **rest: Any) -> None:
            app.add_api_route(API + path, endpoint, methods=[method], **{"responses": REFUSALS} | rest)

        # The one route with a model of the refusal brings its schema into the document.
        add("GET", "/whoami", self.whoami, responses=REFUSALS | {401: {"model": shapes.Failure}})
        add("POST", "/leases", self.acquire, status_code=201)
        add("GET", "/leases", self.leases)
        add("GET", "/leases/{id}", self.lease)
        add("GET", "/leases/{id}/why", self.why)
        add("POST", "/leases/{id}/renew", self.renew)
        add("POST", "/leases/{id}/release", self.release)
        add("POST", "/leases/{id}/cancel", self.cancel_lease)
        add("GET", "/environments", self.environments)
        add("GET", "/environments/{id}", self.environment)
        add("POST", "/environments/{id}/hold", self.hold)
        add("POST", "/environments/{id}/release", self.release_environment)
        add("POST", "/environments/{id}/quarantine", self.quarantine)
        add("POST", "/environments/{id}/clean", self.clean)
        add("GET", "/hosts", self.hosts)
        add("GET", "/hosts/{id}", self.host)
        add("POST", "/hosts/{id}/drain", self.drain_host)
        add("POST", "/hosts/{id}/resume", self.resume_host)
        add("GET", "/agents", self.agents)
        add("GET", "/agents/{id}", self.agent)
        add("GET", "/runs", self.runs)
        add("GET", "/runs/{id}", self.run)
        add("POST", "/runs/{id}/retry", self.retry, status_code=201)
        add("POST", "/runs/{id}/cancel", self.cancel)
        add("GET", "/runs/{id}/lines", self.lines)
        add("GET", "/runs/{id}/log/{name}", self.log, response_class=PlainTextResponse)
        add("GET", "/rounds/{id}", self.round)
        add("GET", "/changes/{forge}/{number}", self.change)
        add("GET", "/events", self.events)
        add("GET", "/events/{id}", self.event)
        add("GET", "/reports", self.reports)
        add("GET", "/tokens", self.tokens)
        add("POST", "/tokens", self.make_token, status_code=201)
        add("DELETE", "/tokens/{name}", self.revoke_token, status_code=204)
        add("POST", "/enrolments", self.enrol, status_code=201)
        add("POST", "/drain", self.drain)

    # ---- leases ----

    async def whoami(self, request: Request) -> shapes.Whoami:
        """Whose token this is."""
        identity = identity_of(request)
        return shapes.Whoami(name=identity.name, role=identity.role.value)

    async def acquire(self, wanted: shapes.AcquireLease) -> shapes.Lease:
        """Ask for an environment of a pool. 201: granted, 202: queued, 409: none will ever come."""
        raise AssertionError("web.hot answers this path")

    async def release(self, id: Id, proof: shapes.ReleaseLease) -> shapes.Lease:
        """Give back what was lent. The environment is dirty from now on; the fence is over."""
        raise AssertionError("web.hot answers this path")

    async def leases(
        self,
        state: Annotated[list[lease.State] | None, Query()] = None,
        pool: Word = None,
        owner: Word = None,
        run: Word = None,
        below: Below = None,
        limit: Limit = 50,
    ) -> shapes.Leases:
        """Leases, newest first."""
        equal = _given(state=state, pool=pool, owner=owner, run=run)
        rows = await self._site.store.read(
            lambda tables: tables.leases.where(newest=True, below=below, limit=limit + 1, **equal)
        )
        return shapes.Leases(items=tuple(telling.of_lease(row) for row in rows[:limit]), next=_next(rows, limit))

    async def lease(self, id: Id, wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 0) -> shapes.Lease:
        """One lease; with `wait`, answers when it is no longer queued or after so many seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        with self._site.feed.listening([f"lease:{id}"]) as (bell, _):
            while True:
                row = await self._site.store.read(lambda tables: need(tables.leases, id, "lease"))
                left = until - loop.time()
                # Waits for: a write to this lease, or the end of `wait`.
                if row.state is not lease.State.QUEUED or left <= 0 or not await bell.wait(left):
                    return telling.of_lease(row)

    async def why(self, id: Id) -> shapes.WhyLease:
        """What a queued lease waits for."""
        return telling.of_why(await self._site.actions.why(id))

    async def renew(self, request: Request, id: Id, wanted: shapes.RenewLease) -> shapes.Lease:
        """Start the ttl again."""
        ttl = None if wanted.ttl is None else seconds(wanted.ttl)
        identity = identity_of(request)
        return telling.of_lease(await self._site.actions.renew(id, fence=wanted.fence, ttl=ttl, identity=identity))

    async def cancel_lease(self, request: Request, id: Id) -> shapes.Lease:
        """Withdraw a lease that waits."""
        return telling.of_lease(await self._site.actions.cancel_lease(id, identity=identity_of(request)))

    # ---- environments, hosts, agents ----

    async def environments(
        self,
        state: Annotated[list[environment.State] | None, Query()] = None,
        pool: Word = None,
        host: Word = None,
        below: Below = None,
        limit: Limit = 500,
    ) -> shapes.Environments:
        """Environments; without `state` all but those that are gone."""
        living = [each for each in environment.State if each is not environment.State.GONE]
        equal = _given(state=state or living, pool=pool, host=host)
        rows = await self._site.store.read(
            lambda tables: tables.environments.where(newest=True, below=below, limit=limit + 1, **equal)
        )
        told = tuple(telling.of_environment(row) for row in rows[:limit])
        return shapes.Environments(items=told, next=_next(rows, limit))

    async def environment(self, id: Id) -> shapes.EnvironmentDetail:
        """One environment and its history: who held it when."""
        return await self._site.store.read(
            lambda tables: telling.of_environment_detail(
                need(tables.environments, id, "environment"), tables.history.of("environments", id)
            )
        )

    async def hold(self, request: Request, id: Id, wanted: shapes.HoldEnvironment) -> shapes.Environment:
        """Keep a leased environment for a person."""
        row = await self._site.actions.hold(
            id, ttl=seconds(wanted.ttl, most=LONGEST_HOLD), disks=wanted.disks, identity=identity_of(request)
        )
        return telling.of_environment(row)

    async def release_environment(self, request: Request, id: Id) -> shapes.Environment:
        """End a hold."""
        return telling.of_environment(await self._site.actions.release_environment(id, identity=identity_of(request)))

    async def quarantine(self, request: Request, id: Id, because: shapes.Because) -> shapes.Environment:
        """Set an environment aside until a person has looked."""
        reason = line(because.reason)
        return telling.of_environment(
            await self._site.actions.quarantine(id, reason=reason, identity=identity_of(request))
        )

    async def clean(self, request: Request, id: Id) -> shapes.Environment:
        """Clean a broken or quarantined environment."""
        return telling.of_environment(await self._site.actions.clean(id, identity=identity_of(request)))

    async def hosts(self) -> shapes.Hosts:
        """All hosts."""
        hosts = self._site.configuration().hosts
        told = await self._site.store.read(
            lambda tables: tuple(telling.of_host(row, _room(tables, row, hosts)) for row in tables.hosts.where())
        )
        return shapes.Hosts(items=told)

    async def host(self, id: Id) -> shapes.HostDetail:
        """One host and the environments it carries."""
        configuration = self._site.configuration()

        def look(tables: Tables) -> shapes.HostDetail:
            row = need(tables.hosts, id, "host")
            recipes = {name: recipe(chain(configuration.images, name)) for name in configuration.images}
            return telling.of_host_detail(
                row,
                [row for row in tables.environments.where(host=id) if row.state is not environment.State.GONE],
                room=_room(tables, row, configuration.hosts),
                images=[
                    telling.of_host_image(
                        each, is_current=each.serves and recipe(each.serving) == recipes.get(each.image)
                    )
                    for each in tables.images.where(host=id)
                ],
            )

        return await self._site.store.read(look)

    async def drain_host(self, request: Request, id: Id) -> shapes.Host:
        """Nothing new is lent on this host; what it carries stays."""
        return telling.of_host(await self._site.actions.drain_host(id, identity=identity_of(request)))

    async def resume_host(self, request: Request, id: Id) -> shapes.Host:
        """End draining."""
        return telling.of_host(await self._site.actions.resume_host(id, identity=identity_of(request)))

    async def agents(self, host: Word = None, below: Below = None, limit: Limit = 500) -> shapes.Agents:
        """Agents, newest first."""
        equal = _given(host=host)
        rows = await self._site.store.read(
            lambda tables: tables.agents.where(newest=True, below=below, limit=limit + 1, **equal)
        )
        return shapes.Agents(items=tuple(telling.of_agent(row) for row in rows[:limit]), next=_next(rows, limit))

    async def agent(self, id: Id) -> shapes.AgentDetail:
        """One agent, its open commands and the last lines of its log."""
        row, commands = await self._site.store.read(
            lambda tables: (
                (found := agent_of(tables, id)),
                tables.commands.where(agent=found.id, state=sorted(OPEN_COMMANDS), limit=500),
            )
        )
        return telling.of_agent_detail(row, commands, await agent_log(self._site, row.id))

    # ---- runs, rounds, changes ----

    async def runs(
        self,
        state: Annotated[list[run.State] | None, Query()] = None,
        verdict: Annotated[list[run.Verdict] | None, Query()] = None,
        job: Word = None,
        project: Word = None,
        forge: Word = None,
        number: Annotated[int | None, Query(ge=0, le=2**53)] = None,
        round: Word = None,
        below: Below = None,
        limit: Limit = 50,
    ) -> shapes.Runs:
        """Runs, newest first."""
        equal = _given(state=state, verdict=verdict, job=job, project=project, forge=forge, number=number, round=round)
        rows = await self._site.store.read(
            lambda tables: tables.runs.where(newest=True, below=below, limit=limit + 1, **equal)
        )
        told = tuple(telling.of_run(row, public_url=self._site.public_url) for row in rows[:limit])
        return shapes.Runs(items=told, next=_next(rows, limit))

    async def run(self, id: Id) -> shapes.RunDetail:
        """One run with its commands, logs, test cases and artifacts."""
        whole = await self._site.store.read(lambda tables: whole_run(tables, id))
        streams = await streams_of(self._site.archive, whole.run, whole.commands)
        return telling.of_run_detail(
            whole.run,
            public_url=self._site.public_url,
            commands=whole.commands,
            logs=[_log(stream) for stream in streams],
            found=whole.results,
            artifacts=[
                shapes.Artifact(path=path, size=size)
                for path, size in (await files_of(self._site, whole.run, "artifacts")).items()
            ],
            had=whole.environment,
        )

    async def retry(self, request: Request, id: Id) -> shapes.Run:
        """Run the job again: another attempt, or a round of its own once the round is reported."""
        row = await self._site.actions.retry(id, identity=identity_of(request))
        return telling.of_run(row, public_url=self._site.public_url)

    async def cancel(self, request: Request, id: Id, because: shapes.Because) -> shapes.Run:
        """End a run early; its `after` steps and its collection still happen."""
        reason = line(because.reason)
        row = await self._site.actions.cancel(id, identity=identity_of(request), reason=reason)
        return telling.of_run(row, public_url=self._site.public_url)

    async def lines(
        self,
        id: Id,
        machine: Word = None,
        cursor: Annotated[str, Query(max_length=8000, pattern=r"^[\x21-\x7e]*$")] = "",
        limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
        wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 0,
    ) -> shapes.Lines:
        """Lines of all logs of a run in the order of time. Follow it: give `cursor` back, with a `wait`."""
        site = self._site
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while True:
            whole = await site.store.read(lambda tables: whole_run(tables, id))
            streams = [
                stream
                for stream in await streams_of(site.archive, whole.run, whole.commands)
                if machine is None or stream.machine == machine
            ]
            names = [stream.archive for stream in streams]
            with site.tail.listening(names) as grew, site.feed.listening([f"run:{id}"], bell=grew):
                found, after = await site.logs.merged(streams, cursor=cursor, count=limit)
                left = until - loop.time()
                if found or whole.run.is_done or left <= 0:
                    ended = whole.run.is_done and not found
                    return shapes.Lines(items=tuple(found), cursor=after, ended=ended)
                # Waits for: growth of a log, a write to the run or its commands, or the end of `wait`.
                await grew.wait(min(left, 5.0))

    async def log(
        self,
        id: Id,
        name: Name,
        offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=16 * _PIECE)] = _PIECE,
    ) -> Response:
        """Bytes of a log: a stream's (`main-1-one`), or all of a machine's, one after the other.

        The header `Paddock-Length` says how long it is by now, `Paddock-Ended` whether it will grow no more.
        """
        whole = await self._site.store.read(lambda tables: whole_run(tables, id))
        streams = await streams_of(self._site.archive, whole.run, whole.commands)
        chosen = [stream for stream in streams if name in (stream.name, stream.machine)]
        if not chosen:
            raise Missing(f"run {id}: it has no log {name}", hint=f"paddock run show {id}")
        data = await _concatenated(self._site, chosen, offset, limit)
        length = sum(stream.length for stream in chosen)
        ended = all(stream.ended for stream in chosen)
        headers = {"Paddock-Length": str(length), "Paddock-Ended": "yes" if ended else "no"}
        return Response(data, media_type="text/plain; charset=utf-8", headers=headers)

    async def round(self, id: Id) -> shapes.Round:
        """One round with its runs and its report."""
        whole = await self._site.store.read(lambda tables: whole_round(tables, id))
        return telling.of_round(whole.round, whole.runs, whole.report, public_url=self._site.public_url)

    async def change(self, forge: Id, number: Number) -> shapes.ChangeDetail:
        """All rounds and events of a change."""
        whole = await self._site.store.read(lambda tables: whole_change(tables, forge, number))
        return shapes.ChangeDetail(
            forge=whole.forge,
            number=whole.number,
            project=whole.project,
            subject=whole.subject,
            url=whole.url,
            rounds=tuple(
                telling.of_round(each.round, each.runs, each.report, public_url=self._site.public_url)
                for each in whole.rounds
            ),
            events=tuple(telling.of_event(row) for row in whole.events),
        )

    # ---- events and reports ----

    async def events(
        self,
        state: Annotated[list[event.State] | None, Query()] = None,
        kind: Annotated[list[event.Kind] | None, Query()] = None,
        forge: Word = None,
        project: Word = None,
        number: Annotated[int | None, Query(ge=0, le=2**53)] = None,
        below: Below = None,
        limit: Limit = 50,
    ) -> shapes.Events:
        """What was heard, newest first, and what became of it."""
        equal = _given(state=state, kind=kind, forge=forge, project=project, number=number)
        rows = await self._site.store.read(
            lambda tables: tables.events.where(newest=True, below=below, limit=limit + 1, **equal)
        )
        return shapes.Events(items=tuple(telling.of_event(row) for row in rows[:limit]), next=_next(rows, limit))

    async def event(self, id: Id) -> shapes.EventDetail:
        """One event, with the line as it was heard."""
        return await self._site.store.read(lambda tables: telling.of_event_detail(need(tables.events, id, "event")))

    async def reports(
        self,
        state: Annotated[list[report.State] | None, Query()] = None,
        below: Below = None,
        limit: Limit = 50,
    ) -> shapes.Reports:
        """Reports, newest first."""
        equal = _given(state=state)
        rows = await self._site.store.read(
            lambda tables: tables.reports.where(newest=True, below=below, limit=limit + 1, **equal)
        )
        return shapes.Reports(items=tuple(telling.of_report(row) for row in rows[:limit]), next=_next(rows, limit))

    # ---- operating ----

    async def tokens(self) -> shapes.Tokens:
        """All tokens, without their secrets."""
        rows = await self._site.store.read(lambda tables: tables.tokens.where())
        return shapes.Tokens(items=tuple(telling.of_token(row) for row in rows))

    async def make_token(self, request: Request, wanted: shapes.NewToken) -> shapes.MadeToken:
        """Make a token; this answer is the only one that holds its secret."""
        if wanted.role not in (Role.LAB, Role.PERSON, Role.OPERATOR):
            raise BadInput(f"role: {line(wanted.role)!r} is none of lab, person, operator")
        name = line(wanted.name, most=64)
        if not name or not all(letter.isalnum() or letter in "._@-" for letter in name) or not name.isascii():
            raise BadInput("name: it is not made of letters, digits, and ._@-")
        secret = await self._site.actions.make_token(
            name=name,
            role=Role(wanted.role),
            ttl=None if wanted.ttl is None else seconds(wanted.ttl, most=315_360_000.0),
            identity=identity_of(request),
        )
        return shapes.MadeToken(name=name, role=wanted.role, secret=secret)

    async def revoke_token(self, request: Request, name: Id) -> None:
        """End a token at once. Idempotent."""
        await self._site.actions.revoke_token(name, identity=identity_of(request))

    async def enrol(self, request: Request, wanted: shapes.NewEnrolment) -> shapes.MadeEnrolment:
        """Make a code with which one agent may join as a host."""
        ttl = seconds(wanted.ttl)
        host = line(wanted.host)
        code = await self._site.actions.enrolment(host=host, ttl=ttl, identity=identity_of(request))
        settings = self._site.configuration().hosts.get(host)
        # An agent has all skills by itself but the one that makes a machine a hypervisor.
        skills = ("hypervisor",) if settings is not None and "hypervisor" in settings.skills else ()
        command = one_liner(self._site.public_url, self._site.kit.pins, code, skills=",".join(skills))
        return shapes.MadeEnrolment(host=host, code=code, ttl=ttl.total_seconds(), command=command, skills=skills)

    async def drain(self, request: Request) -> shapes.Drain:
        """Start no new run from now on; what is still under way."""
        return await self._site.actions.drain(identity=identity_of(request))


def _room(tables: Tables, row: Host, configured: Mapping[str, HostSettings]) -> Room | None:
    """What is booked on a host; None where nothing is."""
    settings = configured.get(row.id)
    return room_of(tables, settings) if settings is not None and SKILL in settings.skills else None


def _given(**equal: Any) -> dict[str, Any]:
    """The filters that were asked for."""
    return {name: value for name, value in equal.items() if value is not None}


def _next(rows: list[Any], limit: int) -> str | None:
    """The id to read on below, where there is more than was asked for."""
    return rows[limit - 1].id if len(rows) > limit else None


def line(text: str, *, most: int = 500) -> str:
    """A short text of a person; `BadInput` for control characters and for novels."""
    if len(text) > most or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise BadInput(f"text: it is not one line of at most {most} characters")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise BadInput("text: it is not Unicode text") from exc
    return text.strip()


def _log(stream: Stream) -> shapes.Log:
    return shapes.Log(
        name=stream.name,
        phase=stream.phase,
        step=stream.step,
        title=stream.title,
        machine=stream.machine,
        length=stream.length,
        ended=stream.ended,
    )


async def _concatenated(site: Site, streams: list[Stream], offset: int, limit: int) -> bytes:
    """Bytes of some logs as if they were one."""
    data = b""
    for stream in streams:
        if offset < stream.length and limit > len(data):
            wanted = min(limit - len(data), stream.length - offset)
            data += await site.archive.read(stream.archive, offset, wanted)
        offset = max(0, offset - stream.length)
    return data


async def files_of(site: Site, row: run.Run, folder: str) -> dict[str, int]:
    """`<machine>/<path>` → bytes, of a run's artifacts or result files."""
    if not row.archive:
        return {}
    root = f"{row.archive}/{folder}/"
    there = await site.archive.list(root.rstrip("/"))
    return {name.removeprefix(root): size for name, size in there.items()}


async def agent_log(site: Site, id: str) -> list[str]:
    """The last lines that an agent logged, as a person reads them: when, how grave, what, and the fields."""
    return [as_said(line) for line in (await noting.last(site.archive, id, count=200)).items]


def as_said(line: noting.Line) -> str:
    """`2026-01-31T09:42:00Z info connected (server=ci)`."""
    fields = ", ".join(f"{name}={value}" for name, value in line.fields.items())
    head = " ".join(part for part in (line.at, line.level, line.message) if part)
    return f"{head} ({fields})" if fields else head
