"""What to run, as configured: jobs, their steps and scripts; the built-in job `noop`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum


class Phase(StrEnum):
    """The parts of a run, in order. `hello` and `sources` prepare; the other four are the job's own."""

    HELLO = "hello"
    SOURCES = "sources"
    BEFORE = "before"
    MAIN = "main"
    AFTER = "after"
    COLLECT = "collect"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long each phase may take; a phase that is over its limit is ended, whole trees included."""

    hello: timedelta = timedelta(minutes=2)
    sources: timedelta = timedelta(minutes=10)
    before: timedelta = timedelta(minutes=10)
    main: timedelta = timedelta(hours=1)
    after: timedelta = timedelta(minutes=5)
    collect: timedelta = timedelta(minutes=5)

    def of(self, phase: Phase) -> timedelta:
        """The limit of `phase`: the field of the same name."""
        limit: timedelta = getattr(self, phase.value)
        return limit


@dataclass(frozen=True, kw_only=True)
class Script:
    """A named piece of shell (or of another interpreter) that steps refer to."""

    name: str
    run: str
    interpreter: str = "/bin/sh -e"


class StepKind(StrEnum):
    """What a step does to its machines."""

    SCRIPT = "script"
    REBOOT = "reboot"
    """They boot anew; it has ended when their agents say hello under new boot ids."""
    KEXEC = "kexec"
    """The same, into another kernel, past firmware and boot loader."""
    POWER = "power"
    """Their buttons are pressed by who carries them."""


@dataclass(frozen=True, kw_only=True)
class Kexec:
    """The kernel that a machine goes on with: files of the machine itself."""

    kernel: str
    initrd: str = ""
    cmdline: str = ""
    """Empty: the one that runs now."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One script on some machines at once; the next step starts when it has ended on all of them."""

    name: str
    run: str
    interpreter: str = "/bin/sh -e"
    on: tuple[str, ...] = ()
    """Names of machines of the environment; empty means all of them."""
    env: Mapping[str, str] = field(default_factory=dict)
    background: bool = False
    """Started and left running while the next steps run; ended after `main`."""
    kind: StepKind = StepKind.SCRIPT
    power: str = ""
    """on, off, shutdown or reset."""
    boot: tuple[str, ...] = ()
    """With `power`: the boot order from then on; empty: as it is."""
    kexec: Kexec | None = None
    within: timedelta = timedelta(minutes=10)
    """How long machines may take to go down and come back, within the limit of the phase."""

    @property
    def ends_boot(self) -> bool:
        """Whether its machines come back under new boot ids."""
        return self.kind in (StepKind.REBOOT, StepKind.KEXEC) or self.power in ("on", "reset")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of a run is kept; what is over is dropped and said so where a person looks."""

    log: int = 64 * 1024 * 1024
    """Bytes of output of one step on one machine."""
    file: int = 64 * 1024 * 1024
    """Bytes of one artifact."""
    run: int = 512 * 1024 * 1024
    """Bytes of all artifacts of one machine of a run."""
    files: int = 10_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run for a change. Without an environment it is the built-in `noop`: success at once."""

    name: str
    environment: str = ""
    """Name of the pool that lends the environment; empty: no machines, success at once."""
    trusted: bool = False
    sources: bool = False
    """Whether the change's revision is checked out on every machine before the job's own steps."""
    before: tuple[Step, ...] = ()
    steps: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    results: tuple[str, ...] = ()
    """Globs of JUnit files below $PADDOCK_RESULTS of each machine."""
    artifacts: tuple[str, ...] = ()
    limits: Limits = Limits()
    sizes: Sizes = Sizes()
    env: Mapping[str, str] = field(default_factory=dict)
    hold_on_failure: timedelta | None = None
    """How long what a run leaves that did not go well is held for a person; None: it is cleaned at once."""
    hold_disks: bool = False
    """Whether of what is held so only the disks are kept."""
    where: str = ""

    def steps_of(self, phase: Phase) -> tuple[Step, ...]:
        return {Phase.BEFORE: self.before, Phase.MAIN: self.steps, Phase.AFTER: self.after}.get(phase, ())


NOOP = Job(name="noop", where="built in")
