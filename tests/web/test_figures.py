"""Figures and health."""

import pytest

from paddock.core.errors import Broken
from tests.web.conftest import ask
from tests.web.scene import Scene, make


async def test_figures_count_rows_and_requests(scene: Scene) -> None:
    async with ask(scene) as client:
        await client.get("/runs/110/")
        await client.get("/nowhere")
        text = (await client.get("/metrics")).text
    for line in (
        'paddock_environments{pool="two-node",state="quarantined"} 1.0',
        'paddock_leases{state="queued"} 2.0',
        'paddock_queue_length{pool="two-node"} 2.0',
        'paddock_queue_age_seconds{pool="two-node"} 252.0',
        'paddock_verdicts{verdict="failure"} 2.0',
        'paddock_commands{state="running"} 2.0',
        'paddock_http_seconds_count{code="200",method="GET",route="/runs/{id}/"} 1.0',
        'paddock_http_seconds_count{code="404",method="GET",route=""} 1.0',
    ):
        assert line in text, line


async def test_health_says_what_is_wrong(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(_: object) -> None:
        raise Broken("store: a flush did not succeed")

    async with ask(scene) as client:
        answer = await client.get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"healthy": True, "draining": False, "reasons": {}})
        monkeypatch.setattr(scene.store, "read", read)
        answer = await client.get("/healthz")
        assert answer.status_code == 503
        told = {"healthy": False, "draining": False, "reasons": {"store": "store: a flush did not succeed"}}
        assert answer.json() == told


async def test_what_ails_the_server_stands_on_the_first_page_too() -> None:
    scene = await make(ailing={"review": "its stream is away"})
    async with ask(scene) as client:
        assert (await client.get("/healthz")).json()["reasons"] == {"review": "its stream is away"}
        assert "its stream is away" in (await client.get("/")).text
