"""What one item says about others: names that are used are defined, rules are kept."""

from collections.abc import Iterator

from paddock.core.job import NOOP
from paddock.core.report import spell as brief
from paddock.settings import scalars, shapes, virtual
from paddock.settings.marks import Path
from paddock.settings.problems import show
from paddock.settings.scene import Finding, Item, Scene, check_name, check_unique, spell


def check_names(item: Item, scene: Scene) -> Iterator[Finding]:
    """Every name that an item uses and nobody defines."""
    match item.shape:
        case shapes.Environment() | shapes.Image() as shape:
            yield from virtual.check_names(shape, scene)
        case shapes.Job() as job:
            yield from check_name(("environment",), "environment", job.environment, scene.names.environments)
            environment_of_job = scene.environment(job.environment)
            for path, step in _steps(job):
                yield from _check_names_of_step(path, step, environment_of_job, scene)
        case shapes.Project() as project:
            for path, name in _jobs(project):
                yield from check_name(path, "job", name, scene.names.jobs | {NOOP.name})
            if project.forge is not None:
                yield from check_name(("forge",), "forge", project.forge, scene.names.forges)


def check_rules(item: Item, scene: Scene) -> Iterator[Finding]:
    """Every rule between fields, and between items, that an item breaks."""
    match item.shape:
        case shapes.Server() as server:
            yield from _check_server(server)
        case shapes.Host() as host:
            yield from virtual.check_host(host)
        case shapes.Image() as image:
            yield from virtual.check_image(image, scene)
        case shapes.Environment() as environment:
            yield from _check_environment(environment, scene)
        case shapes.Job() as job:
            yield from _check_job(job, scene)
        case shapes.Project() as project:
            if not (project.jobs or project.non_voting_jobs):
                yield (), "has no jobs"
            yield from check_unique("job", _jobs(project))


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
        yield from check_name((*path, "script"), "script", step.script, scene.names.scripts)
    if environment is not None:
        machines = frozenset(one.name for one in virtual.expanded(environment))
        for index, name in enumerate(step.on or ()):
            yield from check_name((*path, "on", index), f"machine of {environment.name}", name, machines)


def _check_server(server: shapes.Server) -> Iterator[Finding]:
    if not scalars.is_loopback(server.listen) and server.tls is None and not server.insecure:
        yield (
            ("listen",),
            f"listen {show(server.listen)} is open to others without TLS: give it `tls`, or say `insecure: true`",
        )


def _check_environment(environment: shapes.Environment, scene: Scene) -> Iterator[Finding]:
    yield from virtual.check_environment(environment, scene)
    if environment.min_ready > environment.max:
        yield ("min-ready",), f"min-ready {environment.min_ready} is more than max {environment.max}"


def _check_job(job: shapes.Job, scene: Scene) -> Iterator[Finding]:
    if job.name == NOOP.name:
        yield ("name",), f"name {show(job.name)} is built in"
    environment = scene.environment(job.environment)
    is_virtual = environment is not None and any(machine.image is not None for machine in environment.machines)
    for path, step in _steps(job):
        yield from _check_step(path, step)
        if environment is not None and not is_virtual:
            yield from _check_boots(path, step)
    yield from _check_hold(job, environment, is_virtual=is_virtual)
    yield from _check_trust(job, scene)
    yield from _check_sources(job, scene)


def _check_hold(job: shapes.Job, environment: shapes.Environment | None, *, is_virtual: bool) -> Iterator[Finding]:
    """What its pool would refuse a person who asked for it."""
    ttl = job.hold_on_failure
    if job.hold_disks and ttl is None:
        yield ("hold-disks",), "hold-disks goes with `hold-on-failure`, which says for how long"
    if environment is None:
        return
    if job.hold_disks and not is_virtual:
        yield ("hold-disks",), "hold-disks: machines without an image have no disks of their own"
    if ttl is not None and ttl > environment.hold.longest:
        longest = brief(environment.hold.longest)
        yield (
            ("hold-on-failure",),
            f"hold-on-failure {brief(ttl)} is more than environment {environment.name} is held for, {longest}",
        )


_BOOTS = ("reboot", "kexec", "power")


def _check_step(path: Path, step: shapes.Step) -> Iterator[Finding]:
    given = [key for key in ("script", "run", *_BOOTS) if getattr(step, key) not in (None, False)]
    if len(given) != 1:
        is_usual = set(given) <= {"script", "run"}
        what = "either `script` or `run`" if is_usual else f"one of {', '.join(f'`{key}`' for key in given)}"
        yield path, f"{spell(path)} wants {what}"
    elif given[0] in _BOOTS:
        for key in ("env", "background", "interpreter"):
            if getattr(step, key):
                yield (*path, key), f"{spell((*path, key))}: {given[0]} runs no script that it would be for"
    else:
        for key in ("boot", "within"):
            if getattr(step, key):
                yield (*path, key), f"{spell((*path, key))} goes with `reboot`, `kexec` or `power`"
    if step.boot and step.power is None and given and given[0] in _BOOTS:
        yield (*path, "boot"), f"{spell((*path, 'boot'))} goes with `power`"
    if step.script is not None and step.interpreter is not None:
        yield (*path, "interpreter"), f"{spell((*path, 'interpreter'))} is the script's own to say"
    if step.background and path[0] == "after":
        yield (*path, "background"), f"{spell((*path, 'background'))}: nothing comes after `after` that it could serve"
    yield from check_unique("machine", [((*path, "on", index), name) for index, name in enumerate(step.on or ())])


def _check_boots(path: Path, step: shapes.Step) -> Iterator[Finding]:
    for key in _BOOTS:
        if getattr(step, key):
            yield (*path, key), f"{spell((*path, key))}: machines without an image share their host's kernel and power"


def _check_trust(job: shapes.Job, scene: Scene) -> Iterator[Finding]:
    """Whatever a stranger pushes would run as the host's own user."""
    environment = scene.environment(job.environment)
    if job.trusted or environment is None or virtual.is_isolated(environment, scene):
        return
    fed = [project for project in scene.projects_of(job.name) if scene.forges_of(project)]
    if fed:
        yield (
            ("environment",),
            f"environment {show(environment.name)} has no isolation (host {_carriers(environment, scene)}), and "
            f"project {fed[0].name} lets a forge's changes into it: say `trusted: true` if they may",
        )


def _carriers(environment: shapes.Environment, scene: Scene) -> str:
    return environment.host or ", ".join(host.name for host in virtual.carriers(environment, scene)) or "unknown"


def _check_sources(job: shapes.Job, scene: Scene) -> Iterator[Finding]:
    forges = [forge for project in scene.projects_of(job.name) for forge in scene.forges_of(project)]
    lacking = [forge.name for forge in forges if forge.sources is None]
    if job.sources and lacking:
        yield ("sources",), f"sources wants to know where from: give forge {lacking[0]} a `sources` address"
