"""The outermost layer of every request: who asks, may they, limits, headers, last rim."""

import logging
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from time import perf_counter
from urllib.parse import urlsplit

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paddock.core.access import NOBODY, Identity
from paddock.core.errors import PaddockError, Refused
from paddock.web.api import problem_of
from paddock.web.body import MOST, TooLarge, Unfit, WrongKind, check_length, checked, wanted_by
from paddock.web.hot import ACQUIRE, RELEASE, Hot, lease_to_release, refuse
from paddock.web.pages import Pages
from paddock.web.roles import ROUTES, Access, access_of, may
from paddock.web.site import COOKIE, IDENTITY, Site
from paddock.wire.shapes import Problem

log = logging.getLogger(__name__)

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Refusal(Exception):
    """A request that ends at the door."""

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.problem = Problem(code=code, message=message, hint=hint)


class Door:
    """The ASGI app that the server runs: `inner` behind the table of roles, `agents` (WebSocket) beside it."""

    def __init__(self, site: Site, inner: ASGIApp, routes: Iterable[BaseRoute], pages: Pages, agents: ASGIApp | None):
        self.routes = list(routes)
        self._wanted = wanted_by(self.routes)
        self._site = site
        self._inner = inner
        self._pages = pages
        self._agents = agents
        self._hot = Hot(site.actions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._inner(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._agents is not None and scope["path"] == "/agent" and access_of("WEBSOCKET", "/agent"):
            await self._agents(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": "no such door"})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        method, path = scope["method"], scope["path"]
        watch = _Watch(send)
        route = ""
        try:
            if method == "POST" and path == ACQUIRE:
                route = ACQUIRE
                identity = await self._admit(scope, ROUTES["POST", ACQUIRE])
                check_length(scope)
                watch.status = await self._hot.acquire(scope, receive, send, identity)
            elif method == "POST" and (id := lease_to_release(path)):
                route = RELEASE
                identity = await self._admit(scope, ROUTES["POST", RELEASE])
                check_length(scope)
                watch.status = await self._hot.release(scope, receive, send, identity, id)
            else:
                route = self._route(scope)
                access = access_of(method, route)
                if access is None:
                    raise Refusal(403, "not_allowed", f"{method} {route}: nobody may do this")
                scope[IDENTITY] = await self._admit(scope, access)
                check_length(scope)
                if method not in _SAFE:
                    receive = await checked(scope, receive, self._wanted.get((method, route)))
                await self._inner(scope, receive, watch)
        except Refusal as refusal:
            await self._refuse(scope, receive, watch, refusal)
        except Unfit as exc:
            await self._refuse(scope, receive, watch, Refusal(422, "bad_input", str(exc)))
        except WrongKind as exc:
            hint = "send: Content-Type: application/json"
            await self._refuse(scope, receive, watch, Refusal(415, "bad_input", str(exc), hint))
        except TooLarge:
            await self._refuse(scope, receive, watch, Refusal(413, "too_large", f"body: it is over {MOST} bytes"))
        except PaddockError as exc:
            status, problem = problem_of(exc)
            told = Refusal(status, problem.code, problem.message, problem.hint)
            await self._refuse(scope, receive, watch, told)
        except Exception:
            # The rim: a defect of ours ends one request, never the server.
            log.exception("a request met a defect", extra={"method": method, "route": route})
            told = Refusal(500, "broken", "server: it met a defect of its own", "look at the server's log")
            await self._refuse(scope, receive, watch, told)
        if not watch.is_stream:
            self._site.figures.served(
                method if method in _KNOWN else "other", route, watch.status, perf_counter() - began
            )

    def _route(self, scope: Scope) -> str:
        """The template of the route that will answer; `Refusal` 404 or 405 where there is none."""
        partial = False
        for route in self.routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return str(getattr(route, "path", ""))
            partial = partial or match is Match.PARTIAL
        if partial:
            raise Refusal(405, "wrong_method", f"{scope['method']}: not here")
        raise Refusal(404, "missing", "page: there is none at this address", "begin at /")

    async def _admit(self, scope: Scope, access: Access) -> Identity:
        """Who asks, if the table lets them; `Refusal` otherwise. A session's button must stand on a page of ours."""
        headers = _Headers(scope)
        identity = NOBODY
        if headers.bearer is not None:
            identity = await self._identify(headers.bearer)
        elif headers.session:
            identity = await self._of_session(headers.session)
            if identity is not NOBODY and scope["method"] not in _SAFE and not headers.is_same_origin:
                raise Refusal(403, "not_allowed", "request: it comes from another site", "use the button on the page")
        if not may(identity, access, private=access.is_reading and self._site.configuration().server.private):
            if identity is NOBODY:
                raise Refusal(
                    401, "no_token", "request: it needs a token", "log in, or send: Authorization: Bearer TOKEN"
                )
            wants = " or ".join(role.value for role in access.wants)
            raise Refusal(403, "not_allowed", f"{identity.name}: {identity.role.value} is not {wants}")
        return identity

    async def _identify(self, secret: str) -> Identity:
        try:
            return await self._site.actions.identify(secret)
        except Refused as exc:
            raise Refusal(401, "no_token", exc.message, exc.hint) from exc

    async def _of_session(self, secret: str) -> Identity:
        """A session whose token is over is no session: reading goes on as anyone."""
        try:
            return await self._site.actions.identify(secret)
        except Refused:
            return NOBODY

    async def _refuse(self, scope: Scope, receive: Receive, watch: "_Watch", refusal: Refusal) -> None:
        if watch.has_begun:
            return
        if scope["path"].startswith("/api/") or not _wants_page(scope):
            if refusal.status == 401:
                watch.challenge = True
            await refuse(watch, refusal.status, refusal.problem)
        else:
            response = self._pages.refusal(scope, refusal.status, refusal.problem)
            await response(scope, receive, watch)


_KNOWN = frozenset({"GET", "HEAD", "POST", "DELETE"})


class _Headers:
    """The few headers that the door reads, in one pass."""

    __slots__ = ("bearer", "is_same_origin", "session")

    def __init__(self, scope: Scope) -> None:
        self.bearer: str | None = None
        cookie = host = origin = site = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                kind, _, secret = value.partition(b" ")
                self.bearer = secret.strip().decode("latin-1") if kind.lower() == b"bearer" else ""
            elif name == b"cookie":
                cookie = value
            elif name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
        self.session = _cookie(cookie.decode("latin-1")) if cookie else ""
        self.is_same_origin = site == b"same-origin" if site else _is_origin(origin, host)


def _is_origin(origin: bytes, host: bytes) -> bool:
    """Whether `Origin` names the host that was asked; a browser that sends neither header is not believed."""
    try:
        return bool(host) and urlsplit(origin.decode("latin-1")).netloc == host.decode("latin-1")
    except ValueError:
        return False


def _cookie(text: str) -> str:
    try:
        morsel = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _wants_page(scope: Scope) -> bool:
    accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
    return b"text/html" in accept


class _Watch:
    """`send` that notes the status and adds the headers that every answer carries."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.has_begun = False
        self.is_stream = False
        self.challenge = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            self.status = message["status"]
            given = {name.lower() for name, _ in message["headers"]}
            self.is_stream = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
            headers = [*message["headers"], *(pair for pair in _HEADERS if pair[0] not in given)]
            if self.challenge:
                headers.append((b"www-authenticate", b"Bearer"))
            message = {**message, "headers": headers}
        await self._send(message)
