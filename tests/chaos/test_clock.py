"""A calendar that somebody moves: times of day follow, steady clocks do not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.chaos import clock

pytestmark = pytest.mark.slow

PROBE = """
import json, time
from datetime import UTC, datetime
before, steady = time.time(), time.monotonic()
now = datetime.now(UTC)
print(json.dumps({
    "time": time.time(), "ns": time.time_ns() / 1e9, "now": now.timestamp(),
    "real": time.clock_gettime(time.CLOCK_REALTIME), "steady": time.monotonic(),
    "boot": time.clock_gettime(time.CLOCK_BOOTTIME), "is": isinstance(now, datetime),
    "plain": type(now).__name__, "same": datetime.fromisoformat("2026-01-01").year,
}))
"""


@pytest.mark.parametrize("seconds", [0, 3600, -3600])
def test_every_way_to_ask_for_the_time_of_day_is_told_the_same(tmp_path: Path, seconds: float) -> None:
    import time

    (tmp_path / "probe.py").write_text(PROBE)
    clock.write(tmp_path / "clock", seconds)
    argv = [sys.executable, "-m", "paddock.chaos.clock", str(tmp_path / "clock"), "probe"]
    source = Path(clock.__file__).parents[2]
    environment = {"PYTHONPATH": f"{source}:{tmp_path}"}
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
    told = json.loads(done.stdout)
    for name in ("time", "ns", "now", "real"):
        assert told[name] == pytest.approx(time.time() + seconds, abs=60)
    assert told["steady"] == pytest.approx(time.monotonic(), abs=60)
    assert told["boot"] == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=60)
    assert (told["is"], told["plain"], told["same"]) == (True, "datetime", 2026)
