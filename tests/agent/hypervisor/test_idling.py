"""Whether a machine has nothing to do is seen at its process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from paddock.agent.skills.hypervisor.drivers.qemu.idling import until_idle
from paddock.hands import trees
from paddock.hands.trees import Identity

pytestmark = pytest.mark.slow
LIMIT = timedelta(seconds=1)
WAITS = "import time; print(flush=True); time.sleep(60)"


@contextmanager
def _process(script: str) -> Iterator[Identity]:
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            found = trees.identify(process.pid)
            assert found is not None
            yield found
        finally:
            process.kill()


async def test_one_that_waits_is_idle() -> None:
    with _process(WAITS) as waiting:
        assert await until_idle(waiting, limit=LIMIT)


async def test_one_that_works_is_waited_for_no_longer_than_that() -> None:
    with _process("print(flush=True)\nwhile True: pass") as working:
        assert not await until_idle(working, limit=LIMIT)


async def test_one_that_is_gone_is_not_waited_for() -> None:
    with _process(WAITS) as gone:
        pass  # and it is killed
    assert await until_idle(gone, limit=LIMIT)
