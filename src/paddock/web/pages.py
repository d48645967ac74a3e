"""The pages: rendered on the server, complete without script, kept fresh by it."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from paddock.core import alert as alerts
from paddock.core import environment as environments
from paddock.core import event as events
from paddock.core import lease as leases
from paddock.core import run as runs
from paddock.core.access import NOBODY, Identity, Role, is_allowed
from paddock.core.command import LIFECYCLE as COMMAND_LIFE
from paddock.core.command import OPEN as OPEN_COMMANDS
from paddock.core.errors import Missing, PaddockError, Refused
from paddock.core.queue import WhyLease
from paddock.engine import booking, noting
from paddock.engine.collecting import complaints
from paddock.engine.ordering import agent_of
from paddock.ports import Tables
from paddock.web import figures, telling, timeline
from paddock.web.agents import words as log_words
from paddock.web.api import files_of, problem_of
from paddock.web.comparing import Difference, first_difference, sparklines
from paddock.web.logs import Stream, Window
from paddock.web.reading import (
    CONSOLE,
    WholeRun,
    may_press,
    need,
    sorted_cases,
    streams_of,
    whole_change,
    whole_round,
    whole_run,
)
from paddock.web.site import IDENTITY, Site, identity_of
from paddock.web.spelling import ago, badge, brief, clock_time, fingerprint, iso, linked, size, tone, words
from paddock.wire.shapes import Failure, Problem, plain

_TITLES = {400: "Not understood", 401: "Please log in", 403: "Not for you", 404: "Not here", 409: "Refused"}
_OPEN_RUNS = [state for state in runs.State if state is not runs.State.DONE]
_OVER = [state for state in leases.State if state not in (leases.State.QUEUED, leases.State.GRANTED)]
_SHOWN = 120
"""Lines of a log that stand in the page itself; the script fetches what is scrolled to."""
_PAGE = 50
_OVER_COMMANDS = sorted(COMMAND_LIFE.final)
_OPEN_ALERTS = sorted(alerts.OPEN)
_ALERTS = 3
"""Alerts that the first page names; of the others it tells how many there are."""
_LINES = 300
"""Lines of an agent's own log that its page begins with."""


class Pages:
    """Each page is one method: read in one look, render."""

    def __init__(self, site: Site, *, schema: Callable[[], Mapping[str, Any]]) -> None:
        self._site = site
        self._schema = schema
        self._templates = _templates()

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/", self.now),
            Route("/runs", self.runs),
            Route("/runs/{id}", self.to_run),
            Route("/runs/{id}/", self.run),
            Route("/rounds/{id}", self.round),
            Route("/changes/{forge}/{number}", self.change),
            Route("/environments", self.environments),
            Route("/environments/{id}", self.environment),
            Route("/hosts", self.hosts),
            Route("/agents/{id}", self.agent),
            Route("/leases", self.leases),
            Route("/leases/{id}", self.lease),
            Route("/events", self.events),
            Route("/events/{id}", self.event),
            Route("/docs", self.docs),
            Route("/openapi.json", self.openapi),
            Route("/metrics", self.metrics),
            Route("/healthz", self.health),
            Route("/static/{path:path}", self.static),
        ]

    def render(self, scope: Scope, template: str, status: int = 200, **context: Any) -> Response:
        now = self._site.now
        identity: Identity = scope.get(IDENTITY, NOBODY)
        body = self._templates.get_template(template).render(
            now=now,
            ago=lambda moment: ago(moment, now),
            age=lambda told: ago(datetime.fromisoformat(told), now),
            moment=lambda at: clock_time(at, now),
            took=lambda run: timeline.took(run, now=now),
            waited=lambda run: timeline.waited(run, now=now),
            identity=identity,
            is_person=is_allowed(identity.role, wants=Role.PERSON),
            is_operator=is_allowed(identity.role, wants=Role.OPERATOR),
            path=scope["path"],
            **context,
        )
        return HTMLResponse(body, status_code=status)

    # ---- pages ----

    async def now(self, request: Request) -> Response:
        """What runs on one time axis, who waits and why, the pools as squares."""
        now = self._site.now

        def look(tables: Tables) -> dict[str, Any]:
            open_runs = tables.runs.where(state=_OPEN_RUNS, limit=200)
            axis = timeline.axis_of(open_runs, now=now)
            ended = [
                run
                for run in tables.runs.where(state=runs.State.DONE, newest=True, limit=12)
                if run.ended is not None and run.ended >= axis.start
            ]
            recent = tables.runs.where(state=runs.State.DONE, newest=True, limit=8)
            living = tables.environments.where(state=sorted(environments.LIVE))
            shown = [*open_runs, *ended]
            agents = {
                machine.agent: agent.is_connected
                for row in living
                if row.lease
                for machine in row.machines
                if (agent := tables.agents.find(machine.agent))
            }
            return {
                "axis": axis,
                "open": open_runs,
                "ended": ended,
                "recent": [run for run in recent if run not in ended],
                "rounds": {run.round: tables.rounds.find(run.round) for run in [*shown, *recent]},
                "environments": living,
                "by_id": {row.id: row for row in living},
                "connected": agents,
                "waiting": tables.leases.where(state=leases.State.QUEUED, limit=100),
                "hosts": tables.hosts.where(),
                "alerts": tables.alerts.where(state=alerts.State.RAISED, newest=True, limit=_ALERTS),
                "raised": tables.alerts.count(state=alerts.State.RAISED),
            }

        seen = await self._site.store.read(look)
        bars = {run.id: timeline.segments(run, seen["axis"], now=now) for run in [*seen["open"], *seen["ended"]]}
        whys = {lease.id: await self._why(lease.id) for lease in seen["waiting"][:12]}
        pools: dict[str, list[environments.Environment]] = {name: [] for name in self._site.configuration().pools}
        for row in seen["environments"]:
            pools.setdefault(row.pool, []).append(row)
        return self.render(
            request.scope,
            "now.html",
            bars=bars,
            whys=whys,
            pools=pools,
            ailing=self._site.ailing(),
            draining=self._site.draining(),
            **seen,
        )

    async def _why(self, lease: str) -> WhyLease | None:
        try:
            return await self._site.actions.why(lease)
        except (Missing, Refused):
            return None

    async def runs(self, request: Request) -> Response:
        asked = {
            name: request.query_params[name]
            for name in ("job", "project", "verdict", "state", "below")
            if request.query_params.get(name)
        }
        equal: dict[str, Any] = {name: value for name, value in asked.items() if name != "below"}
        if not _is_word(equal.get("state"), runs.State) or not _is_word(equal.get("verdict"), runs.Verdict):
            raise Missing("runs: there is no such state or verdict")
        rows, rounds = await self._site.store.read(
            lambda tables: _with_rounds(
                tables, tables.runs.where(newest=True, below=asked.get("below"), limit=_PAGE + 1, **equal)
            )
        )
        return self.render(
            request.scope, "runs.html", rows=rows[:_PAGE], rounds=rounds, more=len(rows) > _PAGE, asked=asked
        )

    async def to_run(self, request: Request) -> Response:
        """The address that is posted ends with a slash, so that what hangs below it is relative."""
        return RedirectResponse(f"/runs/{request.path_params['id']}/", status_code=308)

    async def run(self, request: Request) -> Response:
        id, site = request.path_params["id"], self._site
        whole = await site.store.read(lambda tables: whole_run(tables, id, history=12))
        streams = await streams_of(site.archive, whole.run, whole.commands)
        machines = list(dict.fromkeys(stream.machine for stream in streams))
        chosen = request.query_params.get("machine") or _telling_machine(streams)
        shown = [stream for stream in streams if stream.machine == chosen]
        windows = {stream.name: await self._window(stream) for stream in shown}
        merged = (
            await site.logs.merged(streams, cursor="" if whole.run.is_done else "end", count=200)
            if chosen == "all"
            else ([], "")
        )
        artifacts = await files_of(site, whole.run, "artifacts")
        unread, uncollected = _problems(whole)
        return self.render(
            request.scope,
            "run.html",
            whole=whole,
            run=whole.run,
            change=whole.round.change if whole.round else None,
            held_until=telling.left_until(whole.run, whole.environment),
            streams=streams,
            machines=machines,
            chosen=chosen,
            shown=shown,
            opened=_worth_reading(shown),
            windows=windows,
            merged=merged,
            artifacts=artifacts,
            results=await files_of(site, whole.run, "results"),
            cases=sorted_cases(whole.results),
            unread=unread,
            uncollected=uncollected,
            sparks=sparklines(whole.results, [whole.earlier_results.get(run.id) for run in whole.earlier]),
            difference=await self._difference(whole, streams),
            cost=timeline.cost_of(whole.run, now=site.now),
            phases=_phases(whole, streams),
        )

    async def _window(self, stream: Stream) -> Window:
        """The end of what is being written, the beginning of what is not: where a reader looks first."""
        if not stream.length:
            return Window(first=1, lines=(), total=0, length=0)
        if not self._site.logs.is_quick(stream):
            # The script asks for the end, which takes the time to count lines; the page does not wait for it.
            return await self._site.logs.opening(stream.archive, count=_SHOWN)
        first = 1 if stream.ended and stream.state != "failure" else -_SHOWN
        return await self._site.logs.window(stream.archive, first=first, count=_SHOWN)

    async def _difference(self, whole: WholeRun, streams: Sequence[Stream]) -> Difference | None:
        """Where a run that did not succeed first said something that the last success did not."""
        if not whole.run.is_done or whole.run.verdict is runs.Verdict.SUCCESS:
            return None
        success = next((run for run in whole.earlier if run.verdict is runs.Verdict.SUCCESS), None)
        failed = next((stream for stream in streams if stream.state in ("failure", "failed")), None)
        if success is None or failed is None:
            return None
        return await first_difference(self._site.archive, failed, success)

    async def round(self, request: Request) -> Response:
        whole = await self._site.store.read(lambda tables: whole_round(tables, request.path_params["id"]))
        return self.render(request.scope, "round.html", whole=whole, round=whole.round)

    async def change(self, request: Request) -> Response:
        forge, number = request.path_params["forge"], request.path_params["number"]
        if not (number.isascii() and number.isdigit() and len(number) < 16):
            raise Missing(f"change {number}: a change has a number")
        whole = await self._site.store.read(lambda tables: whole_change(tables, forge, int(number)))
        patchsets: dict[int, list[Any]] = {}
        for each in whole.rounds:
            patchsets.setdefault(each.round.patchset, []).append(each)
        return self.render(request.scope, "change.html", whole=whole, patchsets=sorted(patchsets.items(), reverse=True))

    async def environments(self, request: Request) -> Response:
        def look(tables: Tables) -> dict[str, Any]:
            rows = tables.environments.where(state=sorted(environments.LIVE))
            return {
                "rows": rows,
                "leases": {row.lease: tables.leases.find(row.lease) for row in rows if row.lease},
            }

        seen = await self._site.store.read(look)
        pools = dict(self._site.configuration().pools)
        return self.render(request.scope, "environments.html", pools=pools, **seen)

    async def environment(self, request: Request) -> Response:
        id, now, identity = request.path_params["id"], self._site.now, identity_of(request)

        def look(tables: Tables) -> dict[str, Any]:
            row = need(tables.environments, id, "environment")
            return {
                "row": row,
                "history": tables.history.of("environments", id, limit=500),
                "lease": tables.leases.find(row.lease) if row.lease else None,
                "agents": {machine.agent: tables.agents.find(machine.agent) for machine in row.machines},
                "past": tables.leases.where(environment=id, newest=True, limit=20),
                "runs": tables.runs.where(environment=id, newest=True, limit=20),
                "machines": [telling.of_machine(row, place) for place in range(len(row.machines))],
                "may_press": may_press(tables, row, identity),
                "may_look": may_press(tables, row, identity, is_looking=True),
                "networks": telling.of_networks(row.spec),
            }

        seen = await self._site.store.read(look)
        axis = timeline.day_of(seen["history"], now=now)
        bar = timeline.ownership(seen["row"], seen["history"], axis, now=now)
        return self.render(request.scope, "environment.html", axis=axis, bar=bar, **seen)

    async def hosts(self, request: Request) -> Response:
        def look(tables: Tables) -> dict[str, Any]:
            agents = tables.agents.where(newest=True, limit=500)
            return {
                "rows": tables.hosts.where(),
                "agents": agents,
                "alerts": _by_agent(tables),
                "carried": tables.environments.where(state=sorted(environments.LIVE)),
                "rooms": {room.host: room for room in booking.rooms(tables, self._site.configuration())},
                "orders": {
                    agent.id: tables.commands.count(agent=agent.id, state=sorted(OPEN_COMMANDS)) for agent in agents
                },
            }

        return self.render(request.scope, "hosts.html", **await self._site.store.read(look))

    async def agent(self, request: Request) -> Response:
        level = request.query_params.get("level", "info")
        if level not in noting.LEVELS:
            raise Missing(f"log: there is no level {level!a}")

        def look(tables: Tables) -> dict[str, Any]:
            row = agent_of(tables, request.path_params["id"])
            return {
                "row": row,
                "open": tables.commands.where(agent=row.id, state=sorted(OPEN_COMMANDS), limit=200),
                "done": tables.commands.where(agent=row.id, state=_OVER_COMMANDS, newest=True, limit=50),
                "alerts": tables.alerts.where(agent=row.id, state=_OPEN_ALERTS, newest=True),
                "past_alerts": tables.alerts.where(agent=row.id, state=alerts.State.OVER, newest=True, limit=20),
            }

        seen = await self._site.store.read(look)
        log = await noting.last(self._site.archive, seen["row"].id, count=_LINES, level=level)
        return self.render(
            request.scope, "agent.html", log=log, level=level, levels=noting.LEVELS, said=log_words, **seen
        )

    async def leases(self, request: Request) -> Response:
        below = request.query_params.get("below")

        def look(tables: Tables) -> dict[str, Any]:
            return {
                "open": tables.leases.where(state=[leases.State.QUEUED, leases.State.GRANTED], limit=500),
                "past": tables.leases.where(state=_OVER, newest=True, below=below, limit=_PAGE + 1),
            }

        seen = await self._site.store.read(look)
        whys = {
            row.id: await self._why(row.id) for row in [r for r in seen["open"] if r.state is leases.State.QUEUED][:12]
        }
        more = len(seen["past"]) > _PAGE
        return self.render(request.scope, "leases.html", whys=whys, more=more, **seen | {"past": seen["past"][:_PAGE]})

    async def lease(self, request: Request) -> Response:
        id = request.path_params["id"]
        row, history, run = await self._site.store.read(
            lambda tables: (
                (found := need(tables.leases, id, "lease")),
                tables.history.of("leases", id),
                tables.runs.find(found.run) if found.run else None,
            )
        )
        why = await self._why(id) if row.state in (leases.State.QUEUED, leases.State.IMPOSSIBLE) else None
        return self.render(request.scope, "lease.html", row=row, history=history, run=run, why=why)

    async def events(self, request: Request) -> Response:
        asked = {
            name: request.query_params[name]
            for name in ("kind", "state", "project", "below")
            if request.query_params.get(name)
        }
        equal: dict[str, Any] = {name: value for name, value in asked.items() if name != "below"}
        if not _is_word(equal.get("kind"), events.Kind) or not _is_word(equal.get("state"), events.State):
            raise Missing("events: there is no such kind or state")
        rows = await self._site.store.read(
            lambda tables: tables.events.where(newest=True, below=asked.get("below"), limit=_PAGE + 1, **equal)
        )
        return self.render(request.scope, "events.html", rows=rows[:_PAGE], more=len(rows) > _PAGE, asked=asked)

    async def event(self, request: Request) -> Response:
        row = await self._site.store.read(lambda tables: need(tables.events, request.path_params["id"], "event"))
        return self.render(request.scope, "event.html", row=row, raw=_pretty(row.raw))

    async def docs(self, request: Request) -> Response:
        """The API as a page of our own: nothing is fetched from anywhere."""
        return self.render(request.scope, "docs.html", schema=self._schema())

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(self._schema())

    async def metrics(self, request: Request) -> Response:
        site = self._site
        counted = await site.store.read(lambda tables: figures.count(tables, now=site.now, writes=site.feed.writes))
        return Response(site.figures.page(counted), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def health(self, request: Request) -> Response:
        """200 while all is well, 503 with what is not. A server that is being drained is well."""
        ailing = dict(self._site.ailing())
        try:
            await self._site.store.read(lambda tables: tables.hosts.count())
        except PaddockError as exc:
            ailing["store"] = exc.message
        told = {"healthy": not ailing, "draining": self._site.draining(), "reasons": ailing}
        return JSONResponse(told, status_code=503 if ailing else 200)

    async def static(self, request: Request) -> Response:
        name = request.path_params["path"]
        data = _assets().get(name)
        if data is None:
            raise Missing("file: there is none of that name")
        kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
        kept = request.query_params.get("v") == _stamp(name)
        headers = {"Cache-Control": "public, max-age=31536000, immutable" if kept else "no-cache"}
        return Response(data, media_type=f"{kinds[name.rpartition('.')[2]]}; charset=utf-8", headers=headers)

    # ---- refusals ----

    def refusal(self, scope: Scope, status: int, problem: Problem) -> Response:
        """An error as a page that says what to do next."""
        title = _TITLES.get(status, "Something is broken" if status >= 500 else "Not understood")
        return self.render(scope, "refusal.html", status=status, title=title, problem=problem, code=status)

    def _refuse(self, request: Request, status: int, problem: Problem) -> Response:
        if not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", ""):
            return self.refusal(request.scope, status, problem)
        return JSONResponse(plain(Failure(error=problem)), status_code=status)

    async def on_purpose(self, request: Request, exc: Exception) -> Response:
        if not isinstance(exc, PaddockError):
            raise AssertionError("registered for PaddockError alone")
        return self._refuse(request, *problem_of(exc))

    async def on_http(self, request: Request, exc: Exception) -> Response:
        if not isinstance(exc, HTTPException):
            raise AssertionError("registered for HTTPException alone")
        code = {404: "missing", 405: "wrong_method"}.get(exc.status_code, "bad_input")
        return self._refuse(request, exc.status_code, Problem(code=code, message=f"request: {exc.detail}"))

    async def on_defect(self, request: Request, exc: Exception) -> Response:
        """Answers for a defect of ours; the door, further out, writes it into the log."""
        problem = Problem(code="broken", message="server: it met a defect of its own", hint="look at the server's log")
        return self._refuse(request, 500, problem)

    async def on_bad_input(self, request: Request, exc: Exception) -> Response:
        return self._refuse(request, 422, Problem(code="bad_input", message=str(exc)))


@cache
def _assets() -> Mapping[str, bytes]:
    """The static files, read once."""
    room = files("paddock.web") / "static"
    return {each.name: each.read_bytes() for each in room.iterdir() if each.is_file()}


@cache
def _stamp(name: str) -> str:
    return hashlib.sha256(_assets()[name]).hexdigest()[:12]


def _address(name: str) -> str:
    """The address of a static file; it changes with the file, so that a browser may keep it."""
    return f"/static/{name}?v={_stamp(name)}"


@cache
def _templates() -> Environment:
    """Each is compiled when its first page is asked for: all of them would take a quarter of the server's start."""
    templates = Environment(
        loader=PackageLoader("paddock.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(
        badge=badge,
        brief=brief,
        fingerprint=fingerprint,
        iso=iso,
        linked=linked,
        size=size,
        span=lambda seconds: brief(timedelta(seconds=seconds)),
        tone=tone,
        words=words,
        static=_address,
    )
    return templates


def _is_word(value: str | None, kind: Any) -> bool:
    return value is None or value in {each.value for each in kind}


def _with_rounds(tables: Tables, rows: list[runs.Run]) -> tuple[list[runs.Run], dict[str, Any]]:
    return rows, {run.round: tables.rounds.find(run.round) for run in rows}


def _by_agent(tables: Tables) -> dict[str, list[alerts.Alert]]:
    """The open alerts of each agent that has some."""
    found: dict[str, list[alerts.Alert]] = {}
    for one in tables.alerts.where(state=_OPEN_ALERTS, limit=1000):
        found.setdefault(one.agent, []).append(one)
    return found


def _telling_machine(streams: Sequence[Stream]) -> str:
    """The machine whose log says most about the run: one that did not succeed, one that prints, the first."""
    for wanted in ("failure", "failed", "running"):
        for stream in streams:
            if stream.state == wanted:
                return stream.machine
    return streams[0].machine if streams else ""


def _worth_reading(streams: Sequence[Stream]) -> set[str]:
    """The logs that stand open: what does not work or is being written; where all is well, the job's own steps."""
    telling = {stream.name for stream in streams if stream.state in ("failure", "failed", "running")}
    steps = [stream for stream in streams if stream.phase != CONSOLE] or streams
    return telling or {stream.name for stream in steps if stream.phase == "main"} or {s.name for s in steps[-1:]}


def _problems(whole: WholeRun) -> tuple[list[str], list[str]]:
    """What a run complains of: about its test results, and about everything else that was to be kept."""
    said = whole.results.problems if whole.results else ()
    others = complaints([command for command in whole.commands if not command.is_open]).others
    return [one for one in said if one not in others], [one for one in said if one in others]


def _phases(whole: WholeRun, streams: Sequence[Stream]) -> list[dict[str, Any]]:
    """The strip: each phase, how long it took, how it went, and where its log begins."""
    found = []
    for span in whole.run.spans:
        name = str(span.phase)
        own = [stream for stream in streams if stream.phase == name]
        bad = any(stream.state in ("failure", "failed") for stream in own)
        state = "running" if span.ended is None and not whole.run.is_done else "failure" if bad else "success"
        first = next((stream for stream in own if stream.state in ("failure", "failed")), own[0] if own else None)
        found.append({"name": name, "span": span, "state": state, "stream": first})
    return found


def _pretty(raw: str) -> str:
    """A line of JSON with one field a line; anything else as it came."""
    try:
        return json.dumps(json.loads(raw), indent=2, ensure_ascii=False, sort_keys=True)
    except (ValueError, RecursionError):
        return raw
