"""What a skill is: methods by name, each a read, a work, or a program under a keeper.

A skill is a module. It has `methods(place)`, which gives its deeds by method, or, if it has a life of its own, the
asynchronous context manager `opened(place)`, which gives them while it is open. One that is installed beside Paddock
is named by an entry point of the group `paddock.skills`, and has its rows of the table of methods as `METHODS`.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias, TypeVar

from paddock.agent.alerts import Alerts
from paddock.agent.channel import Carrying
from paddock.agent.cloud.facts import CloudFacts
from paddock.agent.entry import Outcome, Stream
from paddock.agent.floor import Floor
from paddock.agent.life import Life
from paddock.agent.paths import name_for
from paddock.agent.settings import Hypervisor
from paddock.core.errors import Broken, PaddockError, Refused, Stale, Unbuilt
from paddock.hands import faults
from paddock.hands.exit import Exit
from paddock.hands.order import Order
from paddock.wire.fields import BadParams
from paddock.wire.framing import JSON
from paddock.wire.hello import LOG_STREAM
from paddock.wire.messages import Code

T = TypeVar("T")
Duty: TypeAlias = Callable[[], Awaitable[None]]


def _drop(name: str, duty: Duty) -> None:
    """Nobody keeps duties here."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a skill works. Relative paths of params lie below `work`; on a machine none of them leaves it."""

    work: Path
    temporary: Path
    tasks: Path
    state: Path = Path("/nonexistent")
    """The agent's own directory, 0700; a skill keeps what must outlive the agent in a directory of its name below."""
    keep: Callable[[str, Duty], None] = _drop
    """Do something for ever beside the commands: it is begun again, later and later, when it raises or returns."""
    carrying: Carrying | None = None
    """None on a machine: it carries none."""
    environment: str = ""
    machine: str = ""
    address: str = ""
    floor: Floor | None = None
    cgroup: Path | None = None
    """The machine's own group; each task gets one below it."""
    cloud: Callable[[], CloudFacts] = CloudFacts
    """What is known of the cloud by now."""
    running: Callable[[], int] = lambda: 0
    """How many tasks run now."""
    alerts: Alerts | None = None
    """Where a skill says what a person should know; None where nobody listens."""
    life: Life = field(default_factory=Life)
    """The agent's own."""
    hypervisor: Hypervisor = field(default_factory=Hypervisor)
    """How virtual machines are made here."""

    def group_of(self, task: str) -> Path | None:
        """A control group for one task, where the machine has one."""
        return self.cgroup / f"t-{name_for(task)}" if self.cgroup is not None else None

    def resolve(self, path: str) -> Path:
        """A param's path as an absolute one. Refused on a machine if it leads out of the machine's directory."""
        wanted = Path(os.path.normpath(self.work / path))
        if self.machine and wanted != self.work and self.work not in wanted.parents:
            raise Refused(f"{path}: lies outside of the machine's directory")
        return wanted


def _silent(percent: float | None, eta: timedelta | None) -> None:
    """Nobody listens."""


def _nothing() -> None:
    """Nobody listens."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One command as a skill sees it: validated params with defaults, and the task's own directory, made at need."""

    task: str
    method: str
    params: Mapping[str, JSON] = field(repr=False)
    environment: str
    fence: int
    directory: Path
    limit: timedelta | None = None
    """What is left of the command's limit."""
    boot_id: str = ""
    """The boot in which it was accepted."""
    progress: Callable[[float | None, timedelta | None], None] = _silent
    """Say how much is done, in percent, and how long the rest may take."""
    grew: Callable[[], None] = _nothing
    """Of a Work with `streams`: the file `output` in the task's directory has more bytes now."""

    def text(self, name: str, otherwise: str = "") -> str:
        """A text param that the table has checked."""
        value = self.params.get(name)
        return otherwise if value is None else str(value)

    def number(self, name: str, otherwise: int = 0) -> int:
        """An integer param that the table has checked."""
        value = self.params.get(name)
        return value if isinstance(value, int) else otherwise

    def seconds(self, name: str, otherwise: float = 0) -> timedelta:
        """A duration param that the table has checked."""
        value = self.params.get(name)
        return timedelta(seconds=value if isinstance(value, int | float) else otherwise)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts that the table has checked."""
        value = self.params.get(name)
        return tuple(str(element) for element in value) if isinstance(value, list | tuple) else ()

    def mapping(self, name: str) -> Mapping[str, JSON]:
        """A map that the table has checked, whatever it holds."""
        value = self.params.get(name)
        return value if isinstance(value, Mapping) else {}

    def table(self, name: str) -> dict[str, str]:
        """A map of texts that the table has checked."""
        value = self.params.get(name)
        return {key: str(element) for key, element in value.items()} if isinstance(value, Mapping) else {}


@dataclass(frozen=True, kw_only=True)
class Read:
    """Changes nothing; its result is the answer."""

    answer: Callable[[Call], Awaitable[Mapping[str, JSON]]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """Done inside the agent's process; a crash of it leaves `interrupted`. Cancelled by cancelling the coroutine.

    With `streams`, the file `output` in the task's directory is sent while it grows; the outcome names its length.
    One that keeps a journal of its own has `resume`: what becomes of it at the next birth, instead of `interrupted`.
    `told` is called when the server has its end and all output, at least once: again if the agent dies meanwhile.
    """

    act: Callable[[Call], Awaitable[Outcome]]
    streams: bool = False
    resume: Callable[[Call], Awaitable[Outcome]] | None = None
    told: Callable[[str], Awaitable[None]] | None = None


@dataclass(frozen=True, kw_only=True)
class Program:
    """A process tree under a keeper. `prepare` may be called again for a task that did not run.

    What has to be fetched first is awaited: nothing has run until then, and whoever cancels it ends the fetching.
    `keep` names the params that `conclude` needs: the others are forgotten once it has started.
    """

    prepare: Callable[[Call], Order | Awaitable[Order]]
    conclude: Callable[[Call, Exit], Outcome]
    keep: tuple[str, ...] = ()


Deed: TypeAlias = Read | Work | Program

NOT_OURS = (asyncio.CancelledError, GeneratorExit, faults.Fault)
"""What ends a wait or this process: nobody who forgives a skill everything else catches it."""


def code_of(exc: Exception) -> Code:
    """The one table from what is raised on purpose to the codes of a failed command."""
    match exc:
        case BadParams():
            return Code.BAD_PARAMS
        case Stale():
            return Code.STALE
        case Refused():
            return Code.REFUSED
        case Unbuilt():
            return Code.UNBUILT
    return Code.FAILED


def failure(exc: BaseException) -> Outcome:
    """How a command ended whose skill raised."""
    if isinstance(exc, PaddockError):
        return Outcome(code=code_of(exc), msg=exc.message)
    if isinstance(exc, OSError):
        return Outcome(code=Code.FAILED, msg=f"{exc.filename or exc.__class__.__name__}: {exc.strerror}")
    return Outcome(code=Code.FAILED, msg=f"{type(exc).__name__}: {exc}")


def output_of(call: Call, ended: Exit) -> dict[str, Stream]:
    """What a program printed, as the task's one stream."""
    return {LOG_STREAM: Stream(path=str(call.directory / "output"), length=ended.output)}


_THREADS = ThreadPoolExecutor(max_workers=32, thread_name_prefix="skill")
"""Not the loop's own: a thread that never ends takes none away from the agent."""


async def in_thread(act: Callable[[], T]) -> T:
    """Disk work beside the loop. A thread cannot be ended: cancelled, this waits for it, lest it acts later."""
    job = asyncio.get_running_loop().run_in_executor(_THREADS, guarded, act)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait({job})
        raise


def guarded(act: Callable[[], T]) -> T:
    """What a skill raises to end the process ends its command only."""
    try:
        return act()
    except (SystemExit, KeyboardInterrupt) as exc:
        raise Broken(f"the skill raised {type(exc).__name__}: {exc}") from exc
