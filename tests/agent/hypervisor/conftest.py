"""What tests of real machines share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.agent.hypervisor.yards import QemuYard
from tools.maven import Unavailable


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[QemuYard]:
    """A host with the tiny guest; skipped with the reason where none can run."""
    try:
        made = QemuYard(tmp_path)
    except Unavailable as exc:
        pytest.skip(str(exc))
    yield made
    await made.close()
