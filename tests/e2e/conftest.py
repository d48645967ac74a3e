"""The big real parts that the large tests share, each started once and only where it can run."""

from collections.abc import Iterator

import pytest

from tools import gerrit as tool


@pytest.fixture(scope="session")
def gerrit() -> Iterator[tool.Gerrit]:
    """A real Gerrit; skipped with the reason where none can run."""
    try:
        with tool.running() as started:
            yield started
    except tool.Unavailable as exc:
        pytest.skip(str(exc))
