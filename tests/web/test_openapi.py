"""The OpenAPI document is whole, and no request that it allows, or forbids, meets a defect."""

import asyncio
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error

from paddock.core.access import Role
from paddock.web.roles import API, ROUTES
from tests.web.conftest import ask
from tests.web.scene import OPERATOR, Scene, make


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_request_meets_a_defect() -> None:
    scene = asyncio.run(make())
    schema = schemathesis.openapi.from_asgi("/openapi.json", scene.app)
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        # Revoking tokens would end the asking; following lines only waits.
        if operation.method == "delete" or operation.path.endswith("/lines"):
            continue
        _ask_all(operation)
        asked += 1
    assert asked > 30


def _ask_all(operation: Any) -> None:
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy())
    def each(case: Any) -> None:
        if case.query and "wait" in case.query:
            case.query["wait"] = 0
        case.call_and_validate(checks=[not_a_server_error], headers={"Authorization": f"Bearer {OPERATOR}"})

    each()


async def test_acquire_and_release_are_documented_though_they_take_a_shorter_way(scene: Scene) -> None:
    async with ask(scene) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert paths["/api/v1/leases"]["post"]["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/AcquireLease"
    }
    release = paths["/api/v1/leases/{id}/release"]["post"]
    assert release["responses"]["4XX"]["content"]["application/json"]["schema"]["$ref"].endswith("/Failure")


async def test_the_document_refers_to_nothing_outside_and_to_nothing_that_is_missing(scene: Scene) -> None:
    async with ask(scene) as client:
        document = (await client.get("/openapi.json")).json()
        page = (await client.get("/docs")).text
    names = document["components"]["schemas"].keys()
    refs = set(_refs(document))
    assert refs <= {f"#/components/schemas/{name}" for name in names}
    assert all(f'id="{name}"' in page for name in names)


def _refs(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in _refs(value)]
    if isinstance(node, list):
        return [ref for value in node for ref in _refs(value)]
    return []


async def test_it_says_which_routes_want_a_token_and_that_other_keys_are_refused(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for (method, path), access in ROUTES.items():
        if path.startswith(API):
            security = document["paths"][path][method.lower()]["security"]
            assert ({} in security) == (Role.ANYONE in access.wants), (method, path)
            assert {"bearer": []} in security, (method, path)
    assert document["components"]["schemas"]["NewToken"]["additionalProperties"] is False
    assert "additionalProperties" not in document["components"]["schemas"]["Token"]
