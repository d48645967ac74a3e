"""What agents say of themselves: alerts until a person knows, and a log that is read by level and followed."""

import asyncio
import hashlib
import json

from paddock.engine import noting
from paddock.ports import Touched
from paddock.testing import MemoryStore
from paddock.web.live import topics_of
from tests.web.conftest import HTML, ask
from tests.web.scene import OPERATOR, PERSON, Scene

API = "/api/v1"
LOG = f"{API}/agents/vm-1/log"


async def note(scene: Scene, text: str, level: str = "info") -> None:
    entry = {"level": level, "msg": text, "time": "2026-01-31T09:42:00Z", "fields": {"path": "/a b", "left": "1"}}
    scene.tail.grew(noting.place("a-vm-1"), await noting.note(scene.archive, "a-vm-1", [entry]))


async def test_open_alerts_are_listed_and_acknowledged_once(scene: Scene) -> None:
    async with ask(scene, PERSON) as client:
        listed = (await client.get(f"{API}/alerts")).json()["items"]
        assert [(one["id"], one["state"]) for one in listed] == [("2", "acknowledged"), ("1", "raised")]
        assert [one["id"] for one in (await client.get(f"{API}/alerts?agent=vm-1&state=over")).json()["items"]] == ["3"]
        assert (await client.get(f"{API}/alerts?agent=local")).json()["items"] == []
        for _ in range(2):
            known = (await client.post(f"{API}/alerts/1/acknowledge")).json()
            assert (known["state"], known["acknowledged_by"], known["count"]) == ("acknowledged", "anna", 26)
        over = await client.post(f"{API}/alerts/3/acknowledge")
        assert (over.status_code, over.json()["error"]["code"]) == (409, "refused")


async def test_a_person_acknowledges_with_a_button_and_the_first_page_is_calm_again(scene: Scene) -> None:
    headers = {**HTML, "cookie": f"paddock={PERSON}", "sec-fetch-site": "same-origin"}
    async with ask(scene, **headers) as client:
        assert "<strong>1 alert</strong> that nobody has acknowledged" in (await client.get("/")).text
        assert "/alerts/1/acknowledge" in (await client.get("/agents/vm-1")).text
        pressed = await client.post("/alerts/1/acknowledge")
        assert (pressed.status_code, pressed.headers["location"]) == (303, "/agents/a-vm-1")
        assert "that nobody has acknowledged" not in (await client.get("/")).text
        page = (await client.get("/agents/a-vm-1")).text
        assert "/alerts/1/acknowledge" not in page
        assert "anna knows" in page


async def test_who_may_not_acknowledge_sees_no_button(scene: Scene) -> None:
    async with ask(scene) as client:
        assert "/alerts/1/acknowledge" not in (await client.get("/agents/vm-1")).text
        assert (await client.post(f"{API}/alerts/1/acknowledge")).status_code == 401


async def test_an_agents_page_hears_of_its_alerts(scene: Scene) -> None:
    assert isinstance(scene.store, MemoryStore)
    row = await scene.store.read(lambda tables: tables.alerts.find("1"))
    topics = topics_of(Touched(noun="alerts", id="1", row=row))
    assert {"agent:a-vm-1", "alerts", "now", "alert:1"} == set(topics)


async def test_the_log_is_read_by_level_and_waited_for(scene: Scene) -> None:
    async with ask(scene) as client:
        shown = (await client.get(LOG, params={"level": "warning"})).json()
        assert [one["level"] for one in shown["items"]] == ["warning", "error"]
        waiting = asyncio.ensure_future(
            client.get(LOG, params={"level": "warning", "cursor": shown["cursor"], "wait": 30})
        )
        await asyncio.sleep(0)
        await note(scene, "of no interest")
        await note(scene, "look here", "error")
        told = (await waiting).json()
        assert [one["message"] for one in told["items"]] == ["look here"]
        rest = (await client.get(LOG, params={"cursor": told["cursor"]})).json()
        assert (rest["items"], rest["cursor"]) == ([], told["cursor"])
        assert (await client.get(LOG, params={"level": "loud"})).status_code == 422


async def test_the_page_shows_its_lines_with_their_fields(scene: Scene) -> None:
    await note(scene, "low on space")
    async with ask(scene, **HTML) as client:
        page = (await client.get("/agents/vm-1")).text
        assert "low on space  path=&#34;/a b&#34; left=1" in page
        assert "pruned" not in page, "debug is below the page's first level"
        assert "pruned" in (await client.get("/agents/vm-1?level=debug")).text
        assert (await client.get("/agents/vm-1?level=loud")).status_code == 404


async def test_the_log_is_followed_from_where_the_page_ends(scene: Scene) -> None:
    cursor = (await noting.last(scene.archive, "a-vm-1", count=1)).cursor
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        if body := message.get("body"):
            heard.put_nowait(body)

    query = f"level=info&cursor={cursor}".encode()
    scope = {"type": "http", "method": "GET", "path": "/agents/vm-1/log/live", "query_string": query, "headers": []}
    listening = asyncio.ensure_future(scene.app(scope, asyncio.Event().wait, send))  # type: ignore[arg-type]
    assert await heard.get() == b"retry: 1000\n\n"
    await note(scene, "one more")
    event = (await heard.get()).decode()
    listening.cancel()
    lines = dict(line.split(": ", 1) for line in event.strip().splitlines())
    assert lines["event"] == "lines"
    assert int(lines["id"]) > cursor
    assert json.loads(lines["data"]) == [
        {"at": "2026-01-31T09:42:00Z", "level": "info", "text": 'one more  path="/a b" left=1'}
    ]


async def test_a_place_that_is_none_is_missing(scene: Scene) -> None:
    async with ask(scene, OPERATOR) as client:
        for query in ("level=loud", "cursor=-1", "cursor=9999999999999999"):
            assert (await client.get(f"/agents/vm-1/log/live?{query}")).status_code == 404


async def test_the_programs_that_are_offered_have_their_address_and_digest(scene: Scene) -> None:
    async with ask(scene) as client:
        (program,) = (await client.get(f"{API}/programs")).json()["items"]
        content = (await client.get(f"/agent/{program['name']}")).content
    assert program["url"] == f"https://ci.example.org/agent/{program['name']}"
    assert (hashlib.sha256(content).hexdigest(), len(content)) == (program["sha256"], program["size"])
