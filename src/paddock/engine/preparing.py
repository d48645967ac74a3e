"""Preparing: what a run's orders say: sources, steps with their variables, limits.

Effects: none (writes the params; running orders them)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from paddock.core.configuration import Configuration
from paddock.core.environment import Environment, Machine
from paddock.core.job import Phase, Step, StepKind
from paddock.core.phases import CONSOLE, POWER, REBOOT, remaining
from paddock.core.round import Round
from paddock.core.run import Run
from paddock.core.variables import variables

SOURCES = "sources"
"""Where the revision under test is checked out, below the machine's directory."""
RESULTS = "results"
"""What `$PADDOCK_RESULTS` names, below the machine's directory."""
GRACE = 10
"""Seconds between TERM and KILL for a step that is over its limit or cancelled."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One command to order for a run on one machine."""

    method: str
    params: Mapping[str, object]
    archive: str
    background: bool = False
    links: Mapping[str, str] = field(default_factory=dict)
    by_host: bool = False
    """Whether the agent that carries the machine does it, not the machine's own."""


def checkout(run: Run, round: Round, configuration: Configuration, machine: str, *, now: datetime) -> Work:
    """The change's revision on the machine, as a user's own git would fetch it."""
    change = round.change
    assert change is not None  # the loader refuses `sources: true` where a project has no forge with sources
    template = configuration.forges[run.forge].sources if run.forge in configuration.forges else ""
    params: dict[str, object] = {
        "url": template.replace("{project}", change.project),
        "ref": change.ref,
        "path": SOURCES,
        "limit": remaining(run, now=now),
    }
    if change.revision:
        params["revision"] = change.revision
    return Work(method="sources.checkout", params=params, archive=f"{run.archive}/logs/sources-1-{machine}")


def step(
    run: Run,
    round: Round,
    environment: Environment,
    machine: Machine,
    what: Step,
    index: int,
    *,
    public_url: str,
    now: datetime,
) -> Work:
    """One step on one machine: the script as it stands in the configuration, values beside it in variables."""
    assert run.phase is not None
    if what.kind is not StepKind.SCRIPT:
        return boot(run, machine, what, now=now)
    env = variables(
        run=run,
        round=round,
        environment=environment,
        machine=machine,
        phase=run.phase,
        step=what,
        public_url=public_url,
        workspace=".",
        sources=SOURCES if run.spec.sources else "",
        results=RESULTS,
    )
    limit = remaining(run, now=now)
    if what.background and run.phase is Phase.BEFORE:
        limit += round_up(run.spec.limits.main)  # it runs on through main
    return Work(
        method="script.run",
        params={
            "run": what.run,
            "interpreter": what.interpreter,
            "env": env,
            "limit": limit,
            "grace": GRACE,
            "output_limit": run.spec.sizes.log,
            "background": what.background,
        },
        archive=f"{run.archive}/logs/{run.phase.value}-{index}-{machine.name}",
        background=what.background,
    )


def boot(run: Run, machine: Machine, what: Step, *, now: datetime) -> Work:
    """The machine goes down, or comes up: by its own agent, or by its buttons."""
    limit = min(remaining(run, now=now), round_up(what.within))
    if what.kind is StepKind.POWER:
        params: dict[str, object] = {"machine": machine.name, "action": what.power, "limit": limit}
        if what.boot:
            params["boot"] = list(what.boot)
        return Work(method=POWER, params=params, archive="", by_host=True)
    # It has a limit above its delay, and is complete when the machine is back.
    params = {"reason": f"run {run.id}: {what.name}", "delay": 0, "limit": max(2, limit)}
    if what.kexec is not None:
        told = {"kernel": what.kexec.kernel, "initrd": what.kexec.initrd, "cmdline": what.kexec.cmdline}
        params["kexec"] = {name: value for name, value in told.items() if value}
    return Work(method=REBOOT, params=params, archive="")


def console(run: Run, machine: str) -> Work:
    """What the machine says on its serial line, from its first byte on, beside the logs of the steps."""
    return Work(
        method=CONSOLE,
        params={"machine": machine},
        archive=f"{run.archive}/logs/console-1-{machine}",
        background=True,
        by_host=True,
    )


def round_up(limit: timedelta) -> int:
    """A limit in whole seconds."""
    return math.ceil(limit.total_seconds())


def collect(run: Run, machine: str, index: int, *, now: datetime) -> Work:
    """The files of one machine that the job names: first the test results, then the artifacts."""
    globs, folder = ((run.spec.results, "results"), (run.spec.artifacts, "artifacts"))[index - 1]
    return Work(
        method="file.collect",
        params={
            "root": RESULTS,
            "globs": list(globs),
            "file_limit": run.spec.sizes.file,
            "total_limit": run.spec.sizes.run,
            "names_limit": run.spec.sizes.files,
            "limit": remaining(run, now=now),
        },
        archive=f"{run.archive}/{folder}/{machine}",
    )


def work(
    run: Run,
    round: Round,
    environment: Environment,
    machine: Machine,
    index: int,
    configuration: Configuration,
    *,
    now: datetime,
) -> Work:
    """The command of the `index`-th step (from 1) of the run's present phase on one machine."""
    assert run.phase is not None
    if run.phase is Phase.SOURCES:
        return checkout(run, round, configuration, machine.name, now=now)
    if run.phase is Phase.COLLECT:
        return collect(run, machine.name, index, now=now)
    what = run.spec.steps_of(run.phase)[index - 1]
    url = configuration.server.public_url
    return step(run, round, environment, machine, what, index, public_url=url, now=now)
