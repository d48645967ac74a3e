"""An event loop whose clock runs ahead whenever all would wait: ten seconds of silence take no time."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


class _Selector(selectors.DefaultSelector):
    """Never waits: what would have been waited is added to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and timeout is None:
            raise AssertionError("everybody waits for ever")
        if not found and timeout:
            self.passed += timeout
        return found


class SteadyLoop(asyncio.SelectorEventLoop):
    """The clock stands still while anything can run."""

    def __init__(self) -> None:
        self._ahead = _Selector()
        super().__init__(self._ahead)

    def time(self) -> float:
        return self._ahead.passed


def without_waiting(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on a loop of its own on which time costs nothing."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=SteadyLoop) as runner:
            runner.run(test(*args, **kwargs))

    # The fixtures are the test's own; what is not a coroutine function is left to plain pytest.
    return run
