"""Two servers on one store: the second refuses to start, and the first does not notice."""

import subprocess
import sys

import pytest

from tests.story.house import RECHECK, House

pytestmark = pytest.mark.slow

CONFIG = """
- environment: {name: single, machines: [{name: one}], host: local}
- job: {name: short, environment: single, trusted: true, steps: [{run: "echo short"}]}
- project: {name: openstack-dev/ci-sandbox, jobs: [short]}
"""


def test_a_second_server_on_the_same_store_refuses_to_start(paddock: House) -> None:
    paddock.configure(CONFIG)
    paddock.tell(RECHECK)
    paddock.start_server()

    argv = [sys.executable, "-m", "paddock", "serve", str(paddock.config), "--listen", "127.0.0.1:0"]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=30, env=paddock.surroundings({}), check=False)

    assert second.returncode != 0
    assert "has this store open" in second.stderr
    assert "Traceback" not in second.stderr
    paddock.start_agent()
    assert paddock.run("done")["verdict"] == "success"
    assert len(paddock.until_reported()) == 1
    paddock.kill(paddock.server)
    paddock.start_server()
    assert paddock.run("done")["verdict"] == "success"
