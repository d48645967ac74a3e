"""Buttons: forms that need a session and come from our own pages.

Effects: none of its own; every button is one call of the engine's actions.
"""

from functools import partial
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from paddock.core.access import Role
from paddock.core.errors import Refused
from paddock.engine.ordering import Wish
from paddock.engine.pressing import CONSOLE, POWER
from paddock.web.api import BadInput, seconds
from paddock.web.machines import ACTIONS
from paddock.web.pages import Pages
from paddock.web.site import COOKIE, Site, identity_of

_CONSOLE = 3600
"""Seconds after which a console that a page follows ends by itself."""
_SESSION = 12 * 3600
"""Seconds after which a browser has to log in again."""


class Buttons:
    """The forms. That they come from a page of ours was checked by the door."""

    def __init__(self, site: Site, pages: Pages) -> None:
        self._site = site
        self._pages = pages

    def routes(self) -> list[BaseRoute]:
        post = partial(Route, methods=["POST"])
        return [
            Route("/login", self.login),
            post("/login", self.enter),
            post("/logout", self.leave),
            post("/runs/{id}/retry", self.retry),
            post("/runs/{id}/cancel", self.cancel),
            post("/leases/{id}/cancel", self.cancel_lease),
            post("/environments/{id}/hold", self.hold),
            post("/environments/{id}/release", self.release),
            post("/environments/{id}/quarantine", self.quarantine),
            post("/environments/{id}/clean", self.clean),
            post("/environments/{id}/fork", self.fork),
            post("/environments/{id}/machines/{machine}/power", self.power),
            post("/environments/{id}/machines/{machine}/console", self.console),
            post("/images/{id}/build", self.build),
            post("/hosts/{id}/drain", self.drain_host),
            post("/hosts/{id}/resume", self.resume_host),
            post("/alerts/{id}/acknowledge", self.acknowledge),
        ]

    async def login(self, request: Request) -> Response:
        return self._pages.render(
            request.scope, "login.html", problem="", back=_back(request.query_params.get("back", "/"))
        )

    async def enter(self, request: Request) -> Response:
        """A token becomes a session: a cookie that no script and no other site can use. It dies with its token."""
        form = await _form(request)
        back = _back(form.get("back", "/"))
        secret = form.get("token", "").strip()
        try:
            identity = await self._site.actions.identify(secret)
            if identity.role is Role.AGENT or not secret.isascii():
                raise Refused("token: it is not a person's")
        except Refused as exc:
            return self._pages.render(request.scope, "login.html", status=403, problem=exc.message, back=back)
        response = RedirectResponse(back, status_code=303)
        response.set_cookie(
            COOKIE,
            secret,
            max_age=_SESSION,
            httponly=True,
            samesite="strict",
            secure=self._site.public_url.startswith("https:"),
        )
        return response

    async def leave(self, request: Request) -> Response:
        response = RedirectResponse("/", status_code=303)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    async def retry(self, request: Request) -> Response:
        run = await self._site.actions.retry(request.path_params["id"], identity=identity_of(request))
        return RedirectResponse(f"/runs/{run.id}/", status_code=303)

    async def cancel(self, request: Request) -> Response:
        id = request.path_params["id"]
        reason = (await _form(request)).get("reason", "")
        await self._site.actions.cancel(id, identity=identity_of(request), reason=reason)
        return RedirectResponse(f"/runs/{id}/", status_code=303)

    async def cancel_lease(self, request: Request) -> Response:
        id = request.path_params["id"]
        await self._site.actions.cancel_lease(id, identity=identity_of(request))
        return RedirectResponse(f"/leases/{id}", status_code=303)

    async def hold(self, request: Request) -> Response:
        id = request.path_params["id"]
        hours = (await _form(request)).get("hours", "1")
        if not (hours.isascii() and hours.isdigit() and len(hours) < 4):
            raise BadInput("hours: it is not a whole number")
        ttl = seconds(int(hours) * 3600.0)
        await self._site.actions.hold(id, ttl=ttl, identity=identity_of(request))
        return RedirectResponse(f"/environments/{id}", status_code=303)

    async def release(self, request: Request) -> Response:
        id = request.path_params["id"]
        await self._site.actions.release_environment(id, identity=identity_of(request))
        return RedirectResponse(f"/environments/{id}", status_code=303)

    async def quarantine(self, request: Request) -> Response:
        id = request.path_params["id"]
        reason = (await _form(request)).get("reason", "") or "by hand"
        await self._site.actions.quarantine(id, reason=reason, identity=identity_of(request))
        return RedirectResponse(f"/environments/{id}", status_code=303)

    async def clean(self, request: Request) -> Response:
        id = request.path_params["id"]
        await self._site.actions.clean(id, identity=identity_of(request))
        return RedirectResponse(f"/environments/{id}", status_code=303)

    async def fork(self, request: Request) -> Response:
        """Bring the disks that it saved up again, as an environment of theirs; the lease's page says when."""
        id, identity = request.path_params["id"], identity_of(request)
        lease = await self._site.actions.fork(id, holder=identity.name, ttl=None, wait=None, identity=identity)
        return RedirectResponse(f"/leases/{lease.id}", status_code=303)

    async def power(self, request: Request) -> Response:
        """Press a machine's button; what became of it is seen on its screen and console."""
        id, machine = request.path_params["id"], request.path_params["machine"]
        action = (await _form(request)).get("action", "")
        if action not in ACTIONS:
            raise BadInput("action: it is none of a machine's buttons")
        wish = Wish(id="", method=POWER, params={"action": action})
        await self._site.actions.press(id, machine, wish, fence=None, identity=identity_of(request))
        return RedirectResponse(f"/environments/{id}/machines/{machine}", status_code=303)

    async def console(self, request: Request) -> Response:
        """Follow its serial line for a while: what it says is the output of a command, as everywhere."""
        id, machine = request.path_params["id"], request.path_params["machine"]
        wish = Wish(id="", method=CONSOLE, params={"offset": 0, "seconds": float(_CONSOLE)})
        await self._site.actions.press(id, machine, wish, fence=None, identity=identity_of(request))
        return RedirectResponse(f"/environments/{id}/machines/{machine}#log", status_code=303)

    async def build(self, request: Request) -> Response:
        id = request.path_params["id"]
        host = (await _form(request)).get("host", "")
        await self._site.actions.build_image(id, host=host, identity=identity_of(request))
        return RedirectResponse(f"/images/{id}", status_code=303)

    async def drain_host(self, request: Request) -> Response:
        await self._site.actions.drain_host(request.path_params["id"], identity=identity_of(request))
        return RedirectResponse("/hosts", status_code=303)

    async def resume_host(self, request: Request) -> Response:
        await self._site.actions.resume_host(request.path_params["id"], identity=identity_of(request))
        return RedirectResponse("/hosts", status_code=303)

    async def acknowledge(self, request: Request) -> Response:
        alert = await self._site.actions.acknowledge(request.path_params["id"], identity=identity_of(request))
        return RedirectResponse(f"/agents/{alert.agent}", status_code=303)


def _back(address: str) -> str:
    """Where to go after logging in: a page of ours, never another site's."""
    is_ours = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if is_ours and "\\" not in address else "/"


async def _form(request: Request) -> dict[str, str]:
    body = (await request.body()).decode("utf-8", "replace")
    try:
        return {name: values[0][:500] for name, values in parse_qs(body, max_num_fields=20).items()}
    except ValueError as exc:
        raise BadInput("form: it has too many fields") from exc
