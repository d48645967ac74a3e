"""Networks with root, each case in a network namespace of the test's own: nothing of the host's is touched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.hypervisor.test_networks_contract import ALONE

CASES = Path(__file__).with_name("rooted_cases.py")
CONTRACT = CASES.with_name("test_networks_contract.py")
ROOT = CASES.parents[3]
TOOLS = {"unshare": "util-linux", "ip": "iproute2", "nft": "nftables", "dnsmasq": "dnsmasq-base"}
_SETUP = "mount --make-rprivate / && mkdir -p /run/netns && mount -t tmpfs netns /run/netns && ip link set lo up && "


@pytest.mark.e2e
@pytest.mark.slow
def test_bridges_leases_filters_and_metadata_in_a_namespace_of_their_own(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("bridges and namespaces take root")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for tool, package in TOOLS.items():
        if shutil.which(tool, path=path) is None:
            pytest.skip(f"there is no {tool} here; on Debian: apt-get install {package}")
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 't'}"]
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", _SETUP + 'exec "$@"', "sh", *words, str(CASES), str(CONTRACT)],
        cwd=ROOT,
        env={**os.environ, "PATH": path, ALONE: "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode == 1 and "unshare failed" in done.stderr:
        pytest.skip(f"no namespace can be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
