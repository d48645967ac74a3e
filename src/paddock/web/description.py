"""The OpenAPI document: what FastAPI derives, and what the door adds."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from paddock.core.access import Role
from paddock.web.roles import access_of

_BEARER = "bearer"
_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token: `paddock token create NAME --role lab`; each route names the roles that may use it.",
}


def described(app: FastAPI) -> Mapping[str, Any]:
    """The whole document; made once, FastAPI keeps it."""
    document = app.openapi()
    parts = document.setdefault("components", {})
    if "securitySchemes" in parts:
        return document
    parts["securitySchemes"] = {_BEARER: _SCHEME}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            access = access_of(method.upper(), path)
            wants = access.wants if access else ()
            # A list of two is a choice: what anyone may read wants a token only where the operator said `private`.
            operation["security"] = [{}, {_BEARER: []}] if Role.ANYONE in wants else [{_BEARER: []}]
            operation["x-roles"] = [role.value for role in wants]
            _close(operation, parts["schemas"])
    return document


def _close(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> None:
    """Say of a request's body what web.body enforces: other keys are refused."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schemas[content["schema"]["$ref"].rpartition("/")[2]]["additionalProperties"] = False
