"""Every route names its role in one table, and the table is obeyed."""

import re

import httpx
import pytest
from starlette.routing import BaseRoute, Route

from paddock.core.access import Identity, Role
from paddock.web.roles import KNOWN, OPEN, OPERATOR, PERSON, READING, ROUTES, Access, access_of, may
from tests.web.conftest import ask
from tests.web.scene import LAB, Scene, make
from tests.web.scene import OPERATOR as OPERATOR_SECRET
from tests.web.scene import PERSON as PERSON_SECRET

SECRETS = {Role.ANYONE: "", Role.LAB: LAB, Role.PERSON: PERSON_SECRET, Role.OPERATOR: OPERATOR_SECRET}


def served(routes: list[BaseRoute]) -> set[tuple[str, str]]:
    return {
        (method, route.path)
        for route in routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }


async def test_each_route_has_an_entry_and_each_entry_a_route(scene: Scene) -> None:
    entries = {key for key in ROUTES if key[0] != "WEBSOCKET"}
    assert served(scene.app.routes) == entries


async def test_a_route_without_an_entry_is_nobodys(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ROUTES, ("GET", "/runs"))  # type: ignore[arg-type]
    async with ask(scene, OPERATOR_SECRET) as client:
        assert (await client.get("/runs")).status_code == 403


def _address(template: str) -> str:
    names = {
        "id": "none-such",
        "stream": "main-1-one",
        "name": "nobody",
        "path": "x",
        "forge": "review",
        "number": "1",
        "command": "c1",
        "machine": "one",
    }
    return re.sub(r"\{(\w+)(?::path)?\}", lambda found: names[found[1]], template)


def _is_let_in(status: int) -> bool:
    """Behind the door it may be missing, refused or badly asked; before it, it is 401 or 403."""
    return status not in (401, 403)


@pytest.mark.slow
@pytest.mark.parametrize("role", SECRETS)
@pytest.mark.parametrize("private", [False, True])
async def test_every_route_for_every_role(role: Role, private: bool) -> None:
    scene = await make(private=private)
    for (method, template), access in ROUTES.items():
        if method == "WEBSOCKET" or template in ("/live", "/login"):
            continue
        async with ask(scene, SECRETS[role]) as client:
            answer = await client.request(method, _address(template))
        expected = may(Identity(name="x", role=role), access, private=private)
        assert _is_let_in(answer.status_code) is expected, (method, template, answer.status_code)
        assert answer.status_code != 500, (method, template)


@pytest.mark.parametrize(
    ("access", "allowed"),
    [
        (OPEN, {"anyone", "agent", "lab", "person", "operator"}),
        (READING, {"anyone", "agent", "lab", "person", "operator"}),
        (KNOWN, {"lab", "person", "operator"}),
        (PERSON, {"person", "operator"}),
        (OPERATOR, {"operator"}),
    ],
)
def test_who_may_what(access: Access, allowed: set[str]) -> None:
    assert {role.value for role in Role if may(Identity(name="x", role=role), access, private=False)} == allowed


def test_in_private_reading_takes_a_token_of_a_person_or_lab() -> None:
    let_in = {role.value for role in Role if may(Identity(name="x", role=role), READING, private=True)}
    assert let_in == {"lab", "person", "operator"}


def test_who_may_get_may_head() -> None:
    assert access_of("HEAD", "/runs") is READING
    assert access_of("PUT", "/runs") is None


async def test_an_unknown_token_is_told_so(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/runs", headers={"authorization": "Bearer wrong"})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "no_token"
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_socket_elsewhere_than_the_agents_door_is_closed(scene: Scene) -> None:
    said: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, object]) -> None:
        said.append(message)

    await scene.app({"type": "websocket", "path": "/runs", "headers": []}, receive, send)  # type: ignore[arg-type]
    assert said == [{"type": "websocket.close", "code": 1008, "reason": "no such door"}]
