"""What one item says about others: names that are used are defined, rules are kept."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from paddock.core.job import NOOP
from paddock.settings import scalars, shapes
from paddock.settings.marks import Path
from paddock.settings.problems import show, suggest

S = TypeVar("S", bound=shapes.Shape)

Finding = tuple[Path, str]
"""A place below an item, and the fact."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item of the list whose shape is right."""

    index: int
    """Its place in the file's list, from 0."""
    kind: str
    title: str
    """`job dsvm`, as messages name it."""
    shape: shapes.Shape


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the file defines, items that are not valid included: one mistake is told once."""

    hosts: frozenset[str]
    environments: frozenset[str]
    scripts: frozenset[str]
    jobs: frozenset[str]
    forges: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All valid items by kind and name, for the checks that look at several."""

    names: Names
    items: Sequence[Item]

    def of(self, kind: type[S]) -> list[S]:
        return [item.shape for item in self.items if isinstance(item.shape, kind)]

    def environment(self, name: str) -> shapes.Environment | None:
        return next((one for one in self.of(shapes.Environment) if one.name == name), None)

    def projects_of(self, job: str) -> list[shapes.Project]:
        return [one for one in self.of(shapes.Project) if job in (*one.jobs, *one.non_voting_jobs)]

    def forges_of(self, project: shapes.Project) -> list[shapes.Triggers]:
        """The forges whose changes reach a project."""
        return [one for one in self.of(shapes.Triggers) if project.forge in (None, one.name)]


def check_names(item: Item, scene: Scene) -> Iterator[Finding]:
    """Every name that an item uses and nobody defines."""
    match item.shape:
        case shapes.Environment() as environment:
            yield from _check_name(("host",), "host", environment.host, scene.names.hosts)
        case shapes.Job() as job:
            yield from _check_name(("environment",), "environment", job.environment, scene.names.environments)
            environment_of_job = scene.environment(job.environment)
            for path, step in _steps(job):
                yield from _check_names_of_step(path, step, environment_of_job, scene)
        case shapes.Project() as project:
            for path, name in _jobs(project):
                yield from _check_name(path, "job", name, scene.names.jobs | {NOOP.name})
            if project.forge is not None:
                yield from _check_name(("forge",), "forge", project.forge, scene.names.forges)


def check_rules(item: Item, scene: Scene) -> Iterator[Finding]:
    """Every rule between fields, and between items, that an item breaks."""
    match item.shape:
        case shapes.Server() as server:
            yield from _check_server(server)
        case shapes.Environment() as environment:
            yield from _check_environment(environment)
        case shapes.Job() as job:
            yield from _check_job(job, scene)
        case shapes.Project() as project:
            if not (project.jobs or project.non_voting_jobs):
                yield (), "has no jobs"
            yield from _check_unique("job", _jobs(project))


def _steps(job: shapes.Job) -> Iterator[tuple[Path, shapes.Step]]:
    for phase, steps in (("before", job.before), ("steps", job.steps), ("after", job.after)):
        for index, step in enumerate(steps):
            yield (phase, index), step


def _jobs(project: shapes.Project) -> Iterator[tuple[Path, str]]:
    for key, names in (("jobs", project.jobs), ("non-voting-jobs", project.non_voting_jobs)):
        for index, name in enumerate(names):
            yield (key, index), name


def _check_names_of_step(
    path: Path, step: shapes.Step, environment: shapes.Environment | None, scene: Scene
) -> Iterator[Finding]:
    if step.script is not None:
        yield from _check_name((*path, "script"), "script", step.script, scene.names.scripts)
    if environment is not None:
        machines = frozenset(machine.name for machine in environment.machines)
        for index, name in enumerate(step.on or ()):
            yield from _check_name((*path, "on", index), f"machine of {environment.name}", name, machines)


def _check_name(path: Path, what: str, name: str, known: frozenset[str]) -> Iterator[Finding]:
    if name not in known:
        yield path, f"{spell(path)}: no {what} {show(name)}{suggest(name, known)}"


def _check_server(server: shapes.Server) -> Iterator[Finding]:
    if not scalars.is_loopback(server.listen) and server.tls is None and not server.insecure:
        yield (
            ("listen",),
            f"listen {show(server.listen)} is open to others without TLS: give it `tls`, or say `insecure: true`",
        )


def _check_environment(environment: shapes.Environment) -> Iterator[Finding]:
    machines = environment.machines
    yield from _check_unique("machine", [(("machines", index, "name"), one.name) for index, one in enumerate(machines)])
    if environment.min_ready > environment.max:
        yield ("min-ready",), f"min-ready {environment.min_ready} is more than max {environment.max}"


def _check_job(job: shapes.Job, scene: Scene) -> Iterator[Finding]:
    if job.name == NOOP.name:
        yield ("name",), f"name {show(job.name)} is built in"
    for path, step in _steps(job):
        yield from _check_step(path, step)
    yield from _check_trust(job, scene)
    yield from _check_sources(job, scene)


def _check_step(path: Path, step: shapes.Step) -> Iterator[Finding]:
    if (step.script is None) == (step.run is None):
        yield path, f"{spell(path)} wants either `script` or `run`"
    if step.script is not None and step.interpreter is not None:
        yield (*path, "interpreter"), f"{spell((*path, 'interpreter'))} is the script's own to say"
    if step.background and path[0] == "after":
        yield (*path, "background"), f"{spell((*path, 'background'))}: nothing comes after `after` that it could serve"
    yield from _check_unique("machine", [((*path, "on", index), name) for index, name in enumerate(step.on or ())])


def _check_trust(job: shapes.Job, scene: Scene) -> Iterator[Finding]:
    """Whatever a stranger pushes would run as the host's own user."""
    environment = scene.environment(job.environment)
    if job.trusted or environment is None:
        return
    fed = [project for project in scene.projects_of(job.name) if scene.forges_of(project)]
    if fed:
        yield (
            ("environment",),
            f"environment {show(environment.name)} has no isolation (host {environment.host}), and project "
            f"{fed[0].name} lets a forge's changes into it: say `trusted: true` if they may",
        )


def _check_sources(job: shapes.Job, scene: Scene) -> Iterator[Finding]:
    forges = [forge for project in scene.projects_of(job.name) for forge in scene.forges_of(project)]
    lacking = [forge.name for forge in forges if forge.sources is None]
    if job.sources and lacking:
        yield ("sources",), f"sources wants to know where from: give forge {lacking[0]} a `sources` address"


def _check_unique(what: str, names: Iterable[tuple[Path, str]]) -> Iterator[Finding]:
    seen: set[str] = set()
    for path, name in names:
        if name in seen:
            yield path, f"{spell(path)}: {what} {show(name)} is listed twice"
        seen.add(name)


def spell(path: Path) -> str:
    """`steps[0].on[1]`, as a message names a field."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
