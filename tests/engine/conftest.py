"""What every test of the engine begins with: an empty one, and one whose host is here."""

from collections.abc import AsyncIterator

import pytest

from tests.engine.scene import Scene, open_scene


@pytest.fixture
async def empty() -> AsyncIterator[Scene]:
    """A server that was just started: no agent has ever enrolled."""
    async with open_scene() as scene:
        yield scene


@pytest.fixture
async def scene(empty: Scene) -> Scene:
    """A server whose host is online; slots are in stock."""
    await empty.host_arrives()
    return empty
