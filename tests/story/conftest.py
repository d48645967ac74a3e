"""Every story gets a house of its own, and leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.story.house import House, house


@pytest.fixture
def paddock(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as built:
        yield built
