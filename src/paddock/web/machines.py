"""The API's routes to machines: power, console, keys, screen; forks of saved disks."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request, Response

from paddock.engine.ordering import Wish
from paddock.engine.pressing import CONSOLE, POWER, SCREENSHOT, TYPE
from paddock.web import telling
from paddock.web.api import LONGEST_WAIT, REFUSALS, BadInput, Id, line, seconds
from paddock.web.orders import check_id
from paddock.web.roles import API
from paddock.web.site import Site, identity_of
from paddock.wire import shapes

MACHINE = f"{API}/environments/{{id}}/machines/{{machine}}"
ACTIONS = ("on", "off", "shutdown", "reset")
LONGEST_CONSOLE = 2_592_000.0
LONGEST_TYPED = 8192

MachineName = Annotated[str, Path(pattern=r"^[a-z0-9-]+$", max_length=63)]


class Machines:
    """The routes. Each makes a command of the host's agent, which is followed like any other."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def mount(self, app: FastAPI) -> None:
        def add(path: str, endpoint: Callable[..., Any]) -> None:
            app.add_api_route(path, endpoint, methods=["POST"], responses=REFUSALS, status_code=201)

        add(f"{MACHINE}/power", self.power)
        add(f"{MACHINE}/console", self.console)
        add(f"{MACHINE}/type", self.type)
        add(f"{MACHINE}/screenshot", self.screenshot)
        add(f"{API}/environments/{{id}}/fork", self.fork)

    async def power(
        self, request: Request, response: Response, id: Id, machine: MachineName, wanted: shapes.PowerMachine
    ) -> shapes.AgentCommand:
        """Press its buttons. The command, of the agent of its host, says what it is afterwards: on or off."""
        if wanted.action not in ACTIONS:
            raise BadInput(f"action: {line(wanted.action)!r} is none of {', '.join(ACTIONS)}")
        if not set(wanted.boot) <= {"disk", "network"}:
            raise BadInput("boot: it lists other words than disk and network")
        params: dict[str, object] = {"action": wanted.action}
        if wanted.boot:
            params["boot"] = list(wanted.boot)
        return await self._press(request, response, id, machine, POWER, params, wanted.fence, wanted.id)

    async def console(
        self, request: Request, response: Response, id: Id, machine: MachineName, wanted: shapes.FollowConsole
    ) -> shapes.AgentCommand:
        """Follow its serial line: it is the output of the command, until that is cancelled."""
        if wanted.offset < 0:
            raise BadInput("offset: it is less than 0")
        params: dict[str, object] = {"offset": wanted.offset}
        if wanted.seconds is not None:
            span = seconds(wanted.seconds, least=0.1, most=LONGEST_CONSOLE, name="seconds")
            params["seconds"] = span.total_seconds()
        return await self._press(request, response, id, machine, CONSOLE, params, wanted.fence, wanted.id)

    async def type(
        self, request: Request, response: Response, id: Id, machine: MachineName, wanted: shapes.TypeMachine
    ) -> shapes.AgentCommand:
        """Say something on its serial line."""
        if not wanted.data or len(wanted.data) > LONGEST_TYPED:
            raise BadInput("data: it is not 1 byte to 4 KiB, as base64")
        return await self._press(request, response, id, machine, TYPE, {"data": wanted.data}, wanted.fence, wanted.id)

    async def screenshot(
        self, request: Request, response: Response, id: Id, machine: MachineName, wanted: shapes.ScreenshotMachine
    ) -> shapes.AgentCommand:
        """What its display shows: wait for the command, its result has a PNG."""
        return await self._press(request, response, id, machine, SCREENSHOT, {}, wanted.fence, wanted.id)

    async def _press(
        self,
        request: Request,
        response: Response,
        id: str,
        machine: str,
        method: str,
        params: dict[str, object],
        fence: int | None,
        name: str | None,
    ) -> shapes.AgentCommand:
        if fence is not None and not 0 <= fence < 2**63:
            raise BadInput("fence: it is not a whole number from 0")
        check_id(name)
        wish = Wish(id=name or "", method=method, params=params)
        ordered = await self._site.actions.press(id, machine, wish, fence=fence, identity=identity_of(request))
        if not ordered.is_new:
            response.status_code = 200
        return telling.of_order(ordered.command)

    async def fork(self, request: Request, response: Response, id: Id, wanted: shapes.ForkEnvironment) -> shapes.Lease:
        """Bring the disks that it saved up again, booted cold, as a new environment. 201: granted, 202: queued."""
        identity = identity_of(request)
        wait = seconds(wanted.wait, least=0.0, most=LONGEST_WAIT, name="wait") if wanted.wait else None
        row = await self._site.actions.fork(
            id,
            holder=line(wanted.holder, most=255) or identity.name,
            ttl=None if wanted.ttl is None else seconds(wanted.ttl),
            wait=wait,
            identity=identity,
        )
        if row.state.value == "queued":
            response.status_code = 202
        return telling.of_lease(row)
