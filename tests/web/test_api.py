"""The JSON API: shapes out, strict in, one table of codes."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from paddock.core.errors import Broken, Conflict, Missing, PaddockError, Refused, Stale
from paddock.core.lease import Lease
from paddock.engine import noting
from paddock.web import telling
from paddock.web.api import problem_of
from paddock.web.body import MOST
from paddock.web.hot import _told
from paddock.web.roles import ROUTES
from paddock.wire import shapes
from tests.web.conftest import ask
from tests.web.scene import OPERATOR, PERSON, Scene

API = "/api/v1"
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Refused("x: y"), 409, "refused"),
        (Stale("x: y"), 412, "stale"),
        (Conflict("x: y"), 409, "conflict"),
        (Missing("x: y"), 404, "missing"),
        (Broken("x: y"), 503, "broken"),
    ],
)
def test_what_is_raised_on_purpose_has_a_code(error: PaddockError, status: int, code: str) -> None:
    assert problem_of(error) == (status, shapes.Problem(code=code, message="x: y"))


async def test_lend_renew_and_give_back(scene: Scene) -> None:
    async with ask(scene, PERSON) as client:
        answer = await client.post(f"{API}/leases", json={"pool": "desk", "ttl": 60})
        assert answer.status_code == 201
        lease = shapes.read(shapes.Lease, answer.json())
        assert (lease.state, lease.environment, lease.holder, lease.owner) == ("granted", "desk-2", "anna", "anna")
        renewed = await client.post(f"{API}/leases/{lease.id}/renew", json={"fence": lease.fence, "ttl": 120})
        assert shapes.read(shapes.Lease, renewed.json()).ttl == 120
        stale = await client.post(f"{API}/leases/{lease.id}/release", json={"fence": lease.fence - 1})
        assert (stale.status_code, stale.json()["error"]["code"]) == (412, "stale")
        released = await client.post(f"{API}/leases/{lease.id}/release", json={"fence": lease.fence})
        assert shapes.read(shapes.Lease, released.json()).state == "released"


async def test_a_lease_that_waits_is_queued_and_says_why(scene: Scene) -> None:
    async with ask(scene, PERSON) as client:
        answer = await client.post(f"{API}/leases", json={"pool": "two-node", "holder": "anna@desk"})
        assert answer.status_code == 202
        lease = shapes.read(shapes.Lease, answer.json())
        why = shapes.read(shapes.WhyLease, (await client.get(f"{API}/leases/{lease.id}/why")).json())
        assert why.ahead == 2
        assert "at most 4" in why.waits_for


async def test_a_long_poll_answers_when_the_lease_is_no_longer_queued(scene: Scene) -> None:
    async with ask(scene, PERSON) as client:
        lease = (await client.post(f"{API}/leases", json={"pool": "two-node"})).json()
        async with asyncio.TaskGroup() as group:
            polling = group.create_task(client.get(f"{API}/leases/{lease['id']}", params={"wait": 20}))
            await asyncio.sleep(0)
            await client.post(f"{API}/leases/{lease['id']}/cancel")
    assert polling.result().json()["state"] == "cancelled"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"pool": 7}',
        b'{"pool": ""}',
        b'{"pool": "desk", "ttl": 0}',
        b'{"pool": "desk", "ttl": NaN}',
        b'{"pool": "desk", "ttl": 1e300}',
        b'{"pool": "desk", "ttl": true}',
        b'{"pool": "desk", "wait": 61}',
        b'{"pool": "de\\u0000sk"}',
        b'{"pool": "\\ud800"}',
        b'{"pool": "desk\xff"}',
        b"[" * 100_000,
    ],
)
async def test_a_bad_request_for_a_lease_is_told_what_is_wrong(scene: Scene, body: bytes) -> None:
    async with ask(scene, PERSON) as client:
        answer = await client.post(f"{API}/leases", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_input")


STRICT = [
    (b'{"name": "x", "role": "person", "role": "operator"}', "body: the key 'role' stands twice"),
    (b'{"name": "x", "role": "lab", "tl": 60}', "body: unknown key 'tl' (did you mean \"ttl\"?)"),
    (b'{"name": "x", "role": "lab", "ttl": NaN}', "body: NaN is not JSON"),
    (b'{"name": "x", "role": "lab", "ttl": 1e999}', "body: a number is out of range"),
    (b'{"name": "x", "role": ' + b"[" * 64 + b"]" * 64 + b"}", "body: more than 64 levels"),
    (b'{"name": "x\xff", "role": "lab"}', "body: invalid UTF-8 at byte 11"),
    (b'{"name": "\\ud800", "role": "lab"}', "body: a lone surrogate"),
    (b"[]", "body: not an object"),
    (b"", "body: it is empty, a JSON object is wanted"),
]


@pytest.mark.parametrize(("body", "message"), STRICT)
async def test_a_body_is_read_as_strictly_as_the_wire(scene: Scene, body: bytes, message: str) -> None:
    async with ask(scene, OPERATOR) as client:
        answer = await client.post(f"{API}/tokens", content=body, headers=JSON)
        assert (answer.status_code, answer.json()["error"]["message"]) == (422, message)
        tokens = (await client.get(f"{API}/tokens")).json()["items"]
    assert "x" not in [token["name"] for token in tokens], "no token was made"


BODIES = [
    ("leases", {"pool": "desk"}),
    ("leases/l121/release", {"fence": 1}),
    ("leases/l121/renew", {"fence": 1}),
    ("leases/l121/cancel", {}),
    ("environments/desk-1/hold", {}),
    ("environments/desk-1/release", {}),
    ("environments/desk-1/quarantine", {}),
    ("environments/desk-1/clean", {}),
    ("environments/desk-1/fork", {}),
    ("environments/desk-1/machines/one/power", {"action": "reset"}),
    ("environments/desk-1/machines/one/console", {}),
    ("environments/desk-1/machines/one/type", {"data": "Cg=="}),
    ("environments/desk-1/machines/one/screenshot", {}),
    ("images/debian/build", {}),
    ("images/collect", {}),
    ("hosts/vm-1/drain", {}),
    ("hosts/vm-1/resume", {}),
    ("agents/vm-1/commands", {"method": "status"}),
    ("agents/vm-1/commands/c1/cancel", {}),
    ("alerts/1/acknowledge", {}),
    ("runs/118/retry", {}),
    ("runs/118/cancel", {}),
    ("tokens", {"name": "x", "role": "lab"}),
    ("enrolments", {"host": "vm-1"}),
    ("drain", {}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_every_body_is_json_without_foreign_keys(scene: Scene, path: str, body: dict[str, object]) -> None:
    async with ask(scene, OPERATOR) as client:
        answer = await client.post(f"{API}/{path}", json={**body, "strange": 1})
        assert (answer.status_code, answer.json()["error"]["message"]) == (422, "body: unknown key 'strange'")
        answer = await client.post(f"{API}/{path}", content=b'{"a": 1, "a": 2}', headers=JSON)
        assert (answer.status_code, answer.json()["error"]["message"]) == (422, "body: the key 'a' stands twice")
        answer = await client.post(f"{API}/{path}", data={"a": "1"})
        message = "body: its Content-Type is 'application/x-www-form-urlencoded', not application/json"
        assert (answer.status_code, answer.json()["error"]["message"]) == (415, message)
        answer = await client.post(f"{API}/{path}", content=b"{}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "bad_input")


def test_no_route_that_takes_a_body_is_left_out(scene: Scene) -> None:
    posts = {path.removeprefix(f"{API}/") for method, path in ROUTES if method == "POST" and path.startswith(API)}
    named = {re.sub(r"(?<=/)(l121|desk-1|vm-1|118)(?=/)", "{id}", path) for path, _ in BODIES}
    named = {re.sub(r"(?<=/)c1(?=/)", "{command}", path) for path in named}
    named = {re.sub(r"(?<=/)one(?=/)", "{machine}", path) for path in named}
    named = {re.sub(r"(?<=/)debian(?=/)", "{name}", path) for path in named}
    assert {path.replace("alerts/1/", "alerts/{id}/") for path in named} == posts


async def test_a_state_that_is_none_is_told_with_those_that_are(scene: Scene) -> None:
    async with ask(scene) as client:
        answer = await client.get(f"{API}/leases", params={"state": "grantd"})
    known = "queued, granted, released, expired, revoked, cancelled, impossible"
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == f"state: 'grantd' is none of {known} (did you mean \"granted\"?)"


@pytest.mark.parametrize("path", [f"{API}/leases", f"{API}/environments/desk-1/hold", f"{API}/drain", "/login"])
async def test_a_body_in_pieces_over_the_limit_is_refused_as_too_large(scene: Scene, path: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(18):
            yield b" " * 65536

    async with ask(scene, OPERATOR) as client:
        answer = await client.post(path, content=pieces(), headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize("path", [f"{API}/leases", f"{API}/environments/desk-1/hold", "/runs/118/cancel", "/login"])
async def test_a_body_over_the_limit_is_refused(scene: Scene, path: str) -> None:
    async with ask(scene, OPERATOR) as client:
        answer = await client.post(path, content=b"x" * (MOST + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_the_quick_way_says_the_same_as_the_shape(scene: Scene) -> None:
    rows: list[Lease] = await scene.store.read(lambda tables: tables.leases.where())
    for row in rows:
        assert shapes.read(shapes.Lease, httpx.Response(200, content=_told(row)).json()) == telling.of_lease(row)


async def test_every_list_and_row_is_its_shape(client: httpx.AsyncClient, scene: Scene) -> None:
    for path, shape in {
        "/leases": shapes.Leases,
        "/leases/l118": shapes.Lease,
        "/environments": shapes.Environments,
        "/environments/two-node-1": shapes.EnvironmentDetail,
        "/hosts": shapes.Hosts,
        "/hosts/vm-1": shapes.HostDetail,
        "/agents": shapes.Agents,
        "/agents/a-vm-1": shapes.AgentDetail,
        "/runs": shapes.Runs,
        "/runs/110": shapes.RunDetail,
        "/runs/118/lines": shapes.Lines,
        "/rounds/30": shapes.Round,
        "/changes/review/912340": shapes.ChangeDetail,
        "/events": shapes.Events,
        "/events/40": shapes.EventDetail,
        "/reports": shapes.Reports,
    }.items():
        answer = await client.get(API + path)
        assert answer.status_code == 200, path
        read = shapes.read(shape, answer.json())
        assert shapes.plain(read) == answer.json(), path
    async with ask(scene, OPERATOR) as operator:
        assert shapes.read(shapes.Whoami, (await operator.get(f"{API}/whoami")).json()).role == "operator"


async def test_a_list_is_read_page_by_page(client: httpx.AsyncClient) -> None:
    seen: list[str] = []
    below: str | None = None
    while True:
        page = (await client.get(f"{API}/runs", params={"limit": 3} | ({"below": below} if below else {}))).json()
        seen += [run["id"] for run in page["items"]]
        below = page["next"]
        if below is None:
            break
    assert seen == ["121", "120", "119", "118", "110", "93", "92", "91", "90"]


async def test_filters_are_the_words_of_the_states(client: httpx.AsyncClient) -> None:
    failed = (await client.get(f"{API}/runs?verdict=failure&state=done")).json()
    assert [run["id"] for run in failed["items"]] == ["110", "92"]
    assert (await client.get(f"{API}/runs?state=nonsense")).status_code == 422


async def test_bytes_of_a_log_by_range(client: httpx.AsyncClient) -> None:
    whole = await client.get(f"{API}/runs/110/log/main-2-controller?limit=100000")
    part = await client.get(f"{API}/runs/110/log/main-2-controller?offset=10&limit=20")
    assert part.content == whole.content[10:30]
    assert whole.headers["paddock-length"] == str(len(whole.content))
    assert (whole.headers["paddock-ended"], part.headers["content-type"]) == ("yes", "text/plain; charset=utf-8")
    machine = await client.get(f"{API}/runs/110/log/controller?limit=1000000")
    assert machine.content.endswith(b"copied 14 files\n")
    assert whole.content in machine.content
    assert (await client.get(f"{API}/runs/110/log/elsewhere")).status_code == 404


async def test_lines_of_a_run_that_is_done_end(client: httpx.AsyncClient) -> None:
    first = (await client.get(f"{API}/runs/110/lines?limit=5000")).json()
    assert not first["ended"]
    rest = (await client.get(f"{API}/runs/110/lines", params={"cursor": first["cursor"], "wait": 30})).json()
    assert (rest["items"], rest["ended"]) == ([], True)


async def test_lines_wait_for_what_is_printed_next(scene: Scene) -> None:
    run = await scene.store.read(lambda tables: tables.runs.find("118"))
    assert run
    name = f"{run.archive}/logs/main-2-controller.log"
    async with ask(scene) as client:
        cursor = (await client.get(f"{API}/runs/118/lines?cursor=end")).json()["cursor"]
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(client.get(f"{API}/runs/118/lines", params={"cursor": cursor, "wait": 30}))
            await asyncio.sleep(0.01)
            length = await scene.archive.append(name, await scene.archive.length(name) or 0, b" rest\nnew line\n")
            scene.tail.grew(name, length)
    assert [line["text"] for line in waiting.result().json()["items"]][-1] == "new line"


async def test_an_agents_own_log_reads_as_lines(scene: Scene, client: httpx.AsyncClient) -> None:
    entry = b'{"level": "info", "msg": "connected", "time": "2026-01-31T09:42:00Z", "fields": {"server": "ci"}}'
    await scene.archive.append(f"{noting.place('a-local')}/{0:016d}", 0, entry + b"\n[1]\nhalf {\n{}\n")
    said = (await client.get(f"{API}/agents/a-local")).json()["log"]
    assert said == ["2026-01-31T09:42:00Z info connected (server=ci)", "info [1]", "info half {", "info"]


async def test_operating(scene: Scene) -> None:
    async with ask(scene, OPERATOR) as client:
        made = (await client.post(f"{API}/tokens", json={"name": "bob", "role": "person"})).json()
        async with ask(scene, made["secret"]) as bob:
            assert (await bob.get(f"{API}/whoami")).json() == {"name": "bob", "role": "person"}
            assert (await client.delete(f"{API}/tokens/bob")).status_code == 204
            assert (await bob.get(f"{API}/whoami")).status_code == 401
        listed = (await client.get(f"{API}/tokens")).json()
        assert "secret" not in str(listed)
        assert "digest" not in str(listed)
        assert (await client.post(f"{API}/tokens", json={"name": "x", "role": "agent"})).status_code == 422
        assert (await client.post(f"{API}/hosts/vm-1/drain")).json()["state"] == "draining"
        assert (await client.post(f"{API}/hosts/vm-1/resume")).json()["state"] == "online"
        assert (await client.post(f"{API}/runs/118/cancel", json={"reason": "enough"})).json()["ending"] == "cancelled"
        assert (await client.post(f"{API}/drain")).json()["running"] >= 1


@pytest.mark.parametrize("path", ["/runs/%00", "/runs/a%2F..%2Fb", "/runs/%ff", "/leases?pool=%00"])
async def test_odd_names_are_refused_by_the_field(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(API + path)).status_code in (404, 422)


async def test_a_wrong_method_is_told_so(client: httpx.AsyncClient) -> None:
    answer = await client.put(f"{API}/runs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "wrong_method")
