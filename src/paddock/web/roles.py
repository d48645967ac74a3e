"""Which role each route wants: one table, deny by default, one function that decides."""

from collections.abc import Mapping
from dataclasses import dataclass

from paddock.core.access import Identity, Role, is_allowed


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may use a route: whoever has one of the roles."""

    wants: tuple[Role, ...]
    is_reading: bool = False
    """Open to anyone, unless the operator said `access: private`."""


OPEN = Access(wants=(Role.ANYONE,))
READING = Access(wants=(Role.ANYONE,), is_reading=True)
KNOWN = Access(wants=(Role.LAB, Role.PERSON))
PERSON = Access(wants=(Role.PERSON,))
OPERATOR = Access(wants=(Role.OPERATOR,))

API = "/api/v1"

ROUTES: Mapping[tuple[str, str], Access] = {
    # The doors: what stands behind them checks identity by itself, or has none to check.
    ("WEBSOCKET", "/agent"): OPEN,
    ("GET", "/healthz"): OPEN,
    # Whoever installs an agent has no token yet, and finds nothing secret there.
    ("GET", "/agent/{name}"): OPEN,
    ("GET", "/enrol"): OPEN,
    ("GET", "/static/{path:path}"): OPEN,
    ("GET", "/login"): OPEN,
    ("POST", "/login"): OPEN,
    ("POST", "/logout"): OPEN,
    ("GET", "/metrics"): READING,
    ("GET", "/openapi.json"): READING,
    ("GET", "/docs"): READING,
    ("GET", "/live"): READING,
    # Pages.
    ("GET", "/"): READING,
    ("GET", "/runs"): READING,
    ("GET", "/runs/{id}"): READING,
    ("GET", "/runs/{id}/"): READING,
    ("GET", "/runs/{id}/log/{stream}"): READING,
    ("GET", "/runs/{id}/log/{stream}/lines"): READING,
    ("GET", "/runs/{id}/log/{stream}/search"): READING,
    ("GET", "/runs/{id}/log/{stream}/live"): READING,
    ("GET", "/runs/{id}/artifacts/{path:path}"): READING,
    ("GET", "/runs/{id}/results/{path:path}"): READING,
    ("GET", "/rounds/{id}"): READING,
    ("GET", "/changes/{forge}/{number}"): READING,
    ("GET", "/environments"): READING,
    ("GET", "/environments/{id}"): READING,
    ("GET", "/environments/{id}/machines/{machine}"): READING,
    # What a machine says and shows is for who has it; the engine and the page decide.
    ("GET", "/environments/{id}/machines/{machine}/screen.png"): KNOWN,
    ("GET", "/environments/{id}/machines/{machine}/log/{stream}"): KNOWN,
    ("GET", "/environments/{id}/machines/{machine}/log/{stream}/lines"): KNOWN,
    ("GET", "/environments/{id}/machines/{machine}/log/{stream}/search"): KNOWN,
    ("GET", "/environments/{id}/machines/{machine}/log/{stream}/live"): KNOWN,
    ("GET", "/images"): READING,
    ("GET", "/images/{id}"): READING,
    ("GET", "/images/{id}/log/{stream}"): READING,
    ("GET", "/images/{id}/log/{stream}/lines"): READING,
    ("GET", "/images/{id}/log/{stream}/search"): READING,
    ("GET", "/images/{id}/log/{stream}/live"): READING,
    ("GET", "/hosts"): READING,
    ("GET", "/agents/{id}"): READING,
    ("GET", "/agents/{id}/log/live"): READING,
    ("GET", "/leases"): READING,
    ("GET", "/leases/{id}"): READING,
    ("GET", "/events"): READING,
    ("GET", "/events/{id}"): READING,
    # Buttons.
    ("POST", "/runs/{id}/retry"): PERSON,
    ("POST", "/runs/{id}/cancel"): PERSON,
    ("POST", "/leases/{id}/cancel"): KNOWN,
    ("POST", "/environments/{id}/hold"): PERSON,
    ("POST", "/environments/{id}/release"): PERSON,
    ("POST", "/environments/{id}/quarantine"): OPERATOR,
    ("POST", "/environments/{id}/clean"): OPERATOR,
    ("POST", "/environments/{id}/fork"): KNOWN,
    ("POST", "/environments/{id}/machines/{machine}/power"): KNOWN,
    ("POST", "/environments/{id}/machines/{machine}/console"): KNOWN,
    ("POST", "/images/{id}/build"): OPERATOR,
    ("POST", "/hosts/{id}/drain"): OPERATOR,
    ("POST", "/hosts/{id}/resume"): OPERATOR,
    ("POST", "/alerts/{id}/acknowledge"): PERSON,
    # The API.
    ("GET", f"{API}/whoami"): KNOWN,
    ("POST", f"{API}/leases"): KNOWN,
    ("GET", f"{API}/leases"): READING,
    ("GET", f"{API}/leases/{{id}}"): READING,
    ("GET", f"{API}/leases/{{id}}/why"): READING,
    ("POST", f"{API}/leases/{{id}}/renew"): KNOWN,
    ("POST", f"{API}/leases/{{id}}/release"): KNOWN,
    ("POST", f"{API}/leases/{{id}}/cancel"): KNOWN,
    ("GET", f"{API}/environments"): READING,
    ("GET", f"{API}/environments/{{id}}"): READING,
    ("POST", f"{API}/environments/{{id}}/hold"): PERSON,
    ("POST", f"{API}/environments/{{id}}/release"): PERSON,
    ("POST", f"{API}/environments/{{id}}/quarantine"): OPERATOR,
    ("POST", f"{API}/environments/{{id}}/clean"): OPERATOR,
    ("POST", f"{API}/environments/{{id}}/fork"): KNOWN,
    # Whose machine it is decides the engine.
    ("POST", f"{API}/environments/{{id}}/machines/{{machine}}/power"): KNOWN,
    ("POST", f"{API}/environments/{{id}}/machines/{{machine}}/console"): KNOWN,
    ("POST", f"{API}/environments/{{id}}/machines/{{machine}}/type"): KNOWN,
    ("POST", f"{API}/environments/{{id}}/machines/{{machine}}/screenshot"): KNOWN,
    ("GET", f"{API}/images"): READING,
    ("GET", f"{API}/images/{{name}}"): READING,
    ("GET", f"{API}/images/{{id}}/log"): READING,
    ("POST", f"{API}/images/{{name}}/build"): OPERATOR,
    ("POST", f"{API}/images/collect"): OPERATOR,
    ("GET", f"{API}/hosts"): READING,
    ("GET", f"{API}/hosts/{{id}}"): READING,
    ("POST", f"{API}/hosts/{{id}}/drain"): OPERATOR,
    ("POST", f"{API}/hosts/{{id}}/resume"): OPERATOR,
    ("GET", f"{API}/agents"): READING,
    ("GET", f"{API}/agents/{{id}}"): READING,
    # Who may order what of which agent is the engine's to decide: it depends on who holds the machine.
    ("POST", f"{API}/agents/{{id}}/commands"): KNOWN,
    ("GET", f"{API}/agents/{{id}}/commands"): KNOWN,
    ("GET", f"{API}/agents/{{id}}/commands/{{command}}"): KNOWN,
    ("GET", f"{API}/agents/{{id}}/commands/{{command}}/output"): KNOWN,
    ("POST", f"{API}/agents/{{id}}/commands/{{command}}/cancel"): KNOWN,
    ("GET", f"{API}/agents/{{id}}/log"): READING,
    ("GET", f"{API}/alerts"): READING,
    ("GET", f"{API}/programs"): READING,
    ("POST", f"{API}/alerts/{{id}}/acknowledge"): PERSON,
    ("GET", f"{API}/runs"): READING,
    ("GET", f"{API}/runs/{{id}}"): READING,
    ("POST", f"{API}/runs/{{id}}/retry"): PERSON,
    ("POST", f"{API}/runs/{{id}}/cancel"): PERSON,
    ("GET", f"{API}/runs/{{id}}/lines"): READING,
    ("GET", f"{API}/runs/{{id}}/log/{{name}}"): READING,
    ("GET", f"{API}/rounds/{{id}}"): READING,
    ("GET", f"{API}/changes/{{forge}}/{{number}}"): READING,
    ("GET", f"{API}/events"): READING,
    ("GET", f"{API}/events/{{id}}"): READING,
    ("GET", f"{API}/reports"): READING,
    ("GET", f"{API}/tokens"): OPERATOR,
    ("POST", f"{API}/tokens"): OPERATOR,
    ("DELETE", f"{API}/tokens/{{name}}"): OPERATOR,
    ("POST", f"{API}/enrolments"): OPERATOR,
    ("POST", f"{API}/drain"): OPERATOR,
}


def access_of(method: str, route: str) -> Access | None:
    """The entry of a route; None means that nobody may use it. Who may GET may HEAD."""
    return ROUTES.get(("GET" if method == "HEAD" else method, route))


def may(identity: Identity, access: Access, *, private: bool) -> bool:
    """The one decision about routes: whether this identity may use what `access` describes."""
    if access.is_reading and private:
        return any(is_allowed(identity.role, wants=role) for role in KNOWN.wants)
    return any(is_allowed(identity.role, wants=role) for role in access.wants)
