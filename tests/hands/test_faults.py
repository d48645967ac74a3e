import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.hands import faults


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.arm({})


def test_a_point_is_nothing_where_none_is_armed() -> None:
    faults.arm({})
    faults.at("keeper.held")


def test_only_the_armed_point_fires() -> None:
    faults.arm({"PADDOCK_FAULT": "keeper.held", "PADDOCK_FAULT_ACT": "raise"})
    faults.at("keeper.ended")
    with pytest.raises(faults.Fault, match=r"keeper\.held"):
        faults.at("keeper.held")


def test_the_nth_passing_fires_and_no_other() -> None:
    faults.arm({"PADDOCK_FAULT": "keeper.held:2", "PADDOCK_FAULT_ACT": "raise"})
    faults.at("keeper.held")
    with pytest.raises(faults.Fault):
        faults.at("keeper.held")
    faults.at("keeper.held")


def test_a_restart_with_the_same_environment_lives(tmp_path: Path) -> None:
    environment = {"PADDOCK_FAULT": "a", "PADDOCK_FAULT_ACT": "raise", "PADDOCK_FAULT_ONCE": str(tmp_path / "once")}
    faults.arm(environment)
    with pytest.raises(faults.Fault):
        faults.at("a")
    faults.arm(environment)
    faults.at("a")


def test_an_unknown_act_is_refused() -> None:
    with pytest.raises(ValueError, match="sing is none of"):
        faults.arm({"PADDOCK_FAULT": "a", "PADDOCK_FAULT_ACT": "sing"})


def test_a_process_dies_of_sigkill_at_its_point() -> None:
    root = str(Path(faults.__file__).parents[2])
    script = "from paddock.hands import faults; faults.at('a.b'); print('alive')"
    run = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PADDOCK_FAULT": "a.b", "PYTHONPATH": root},
        capture_output=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (-9, b"")
