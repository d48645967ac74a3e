"""What holds for every test: pure rooms are watched, slow tests without the mark are named."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.witness import Witness

# A shell that starts the tests in the background has them ignore Ctrl-C, and everything that they start would inherit
# that: what the tests say of Ctrl-C is about programs that hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).resolve().parent
PURE = (HERE / "core", HERE / "wire")
SLOW_SECONDS = 0.25
_unmarked: list[tuple[float, str]] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test of core or wire during which their code touches the world has failed, whatever it asserts."""
    if not any(item.path.is_relative_to(room) for room in PURE):
        return (yield)
    with Witness.installed().watching() as seen:
        result = yield
    if seen:
        pytest.fail("pure code touched the world:\n" + "\n".join(seen), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    is_marked = any(marker.name in ("slow", "e2e") for marker in item.iter_markers())
    if call.when == "call" and call.duration > SLOW_SECONDS and not is_marked:
        _unmarked.append((call.duration, item.nodeid))
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # A note, not a failure: a busy machine is slow too.
    if _unmarked:
        terminalreporter.section(f"over {SLOW_SECONDS} s without the mark slow")
        for seconds, name in sorted(_unmarked, reverse=True):
            terminalreporter.line(f"{seconds:6.2f} s  {name}")
