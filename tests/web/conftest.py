"""The scene as an app, and browsers and programs that ask it."""

from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from tests.web.scene import Scene, make

HTML = {"accept": "text/html"}


@pytest.fixture
async def scene() -> Scene:
    return await make()


@pytest.fixture
async def client(scene: Scene) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody without a token."""
    async with ask(scene) as client:
        yield client


def ask(scene: Scene, secret: str = "", **headers: str) -> httpx.AsyncClient:
    """A program that shows `secret`; an empty one shows none."""
    if secret:
        headers["authorization"] = f"Bearer {secret}"
    transport = httpx.ASGITransport(app=scene.app)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://ci.example.org", headers=headers)


@pytest.fixture
def asking(scene: Scene) -> Callable[..., httpx.AsyncClient]:
    return lambda secret="", **headers: ask(scene, secret, **headers)
