"""Valid items of a settings file as core values, each with the line that it came from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import TypeVar

from paddock.core.configuration import (
    Configuration,
    Forge,
    ForgeKind,
    HostSettings,
    Keep,
    Project,
    ProjectJob,
    Server,
    Ssh,
)
from paddock.core.environment import Hold, Pool, Reset
from paddock.core.image import Image
from paddock.core.job import NOOP, Job, Kexec, Limits, Phase, Script, Sizes, Step, StepKind
from paddock.core.machine import Start
from paddock.core.report import Vote
from paddock.settings import making, shapes, virtual
from paddock.settings.marks import Path
from paddock.settings.scene import NOTHING, Item, Scene

S = TypeVar("S", bound=shapes.Shape)
Where = Callable[[Path], str]
"""Below an item: where a field stands, as `paddock.yaml:31:5`."""


def translate(
    items: Sequence[Item], *, where: Callable[[Item, Path], str], directory: FilePath, path: str
) -> Configuration:
    """The configuration that checked items make. Relative paths in them are relative to `directory`."""
    translation = _Translation(items, where, directory)
    return Configuration(
        server=translation.server(),
        forges=translation.forges(),
        hosts=translation.hosts(),
        images=translation.images(),
        pools=translation.pools(),
        jobs={NOOP.name: NOOP, **translation.jobs()},
        projects=translation.projects(),
        path=path,
    )


class _Translation:
    def __init__(self, items: Sequence[Item], where: Callable[[Item, Path], str], directory: FilePath) -> None:
        self._items = items
        self._where = where
        self._directory = directory

    def _of(self, kind: type[S]) -> Iterator[tuple[S, Where]]:
        for item in self._items:
            if isinstance(item.shape, kind):
                yield item.shape, self._where_of(item)

    def _where_of(self, item: Item) -> Where:
        return lambda path: self._where(item, path)

    def _file(self, name: str) -> str:
        return str(self._directory / name)

    def server(self) -> Server:
        given, where = next(self._of(shapes.Server), (shapes.Server.model_validate({}), lambda path: ""))
        scheme = "https" if given.tls else "http"
        return Server(
            public_url=given.public_url or f"{scheme}://{given.listen}",
            listen=given.listen,
            state=self._file(given.state),
            keep=Keep(runs=given.keep.runs, events=given.keep.events),
            host_grace=given.host_grace,
            heartbeat=given.heartbeat,
            private=given.access == "private",
            store=given.store or "",
            certificate=self._file(given.tls.certificate) if given.tls else "",
            certificate_key=self._file(given.tls.key) if given.tls else "",
            insecure=given.insecure,
            where=where(()),
        )

    def forges(self) -> Mapping[str, Forge]:
        gerrits = [self._gerrit(given, where) for given, where in self._of(shapes.Gerrit)]
        replays = [self._replay(given, where) for given, where in self._of(shapes.Replay)]
        return {forge.name: forge for forge in (*gerrits, *replays)}

    def _gerrit(self, given: shapes.Gerrit, where: Where) -> Forge:
        ssh = given.ssh
        is_key = " " in ssh.host_key.strip()
        return self._forge(
            given,
            where,
            kind=ForgeKind.GERRIT,
            account=ssh.user,
            account_where=where(("ssh", "user")),
            ssh=Ssh(
                host=ssh.host,
                port=ssh.port,
                user=ssh.user,
                key=self._file(ssh.key),
                host_key=ssh.host_key.strip() if is_key else self._file(ssh.host_key),
            ),
        )

    def _replay(self, given: shapes.Replay, where: Where) -> Forge:
        return self._forge(
            given,
            where,
            kind=ForgeKind.REPLAY,
            account=given.account,
            account_where=where(("account",)),
            file=self._file(given.file),
        )

    def _forge(
        self,
        given: shapes.Triggers,
        where: Where,
        *,
        kind: ForgeKind,
        account: str,
        account_where: str,
        ssh: Ssh | None = None,
        file: str = "",
    ) -> Forge:
        return Forge(
            name=given.name,
            kind=kind,
            account=account,
            account_where=account_where,
            ssh=ssh,
            file=file,
            bots=tuple(given.bots),
            bots_where=where(("bots",)),
            recheck=tuple(given.recheck),
            recheck_where=tuple(where(("recheck", index)) for index in range(len(given.recheck))),
            vote=Vote(given.report.vote),
            label=given.report.label,
            contact=given.report.contact or "",
            sources=given.sources or "",
            where=where(()),
        )

    def hosts(self) -> Mapping[str, HostSettings]:
        return {given.name: making.host(given, where(())) for given, where in self._of(shapes.Host)}

    def images(self) -> Mapping[str, Image]:
        scripts, directory = self._scripts(), self._directory
        return {
            given.name: making.image(given, scripts, directory, where(())) for given, where in self._of(shapes.Image)
        }

    def pools(self) -> Mapping[str, Pool]:
        scene = Scene(names=NOTHING, items=self._items, directory=self._directory)
        return {
            given.name: Pool(
                name=given.name,
                host=given.host or "",
                machines=tuple(one.name for one in virtual.expanded(given)),
                max=given.max,
                min_ready=given.min_ready,
                reset=Reset(given.reset),
                isolated=virtual.is_isolated(given, scene),
                where=where(()),
                labels=tuple(given.labels),
                settings=making.machines(given),
                networks=tuple(making.network(network) for network in given.networks),
                start=Start(given.start),
                egress=tuple(given.egress),
                ttl=given.ttl,
                hold=Hold(longest=given.hold.longest, space=given.hold.space or 0),
            )
            for given, where in self._of(shapes.Environment)
        }

    def _scripts(self) -> Mapping[str, Script]:
        return {
            given.name: Script(name=given.name, run=given.run, interpreter=given.interpreter)
            for given, _ in self._of(shapes.Script)
        }

    def jobs(self) -> Mapping[str, Job]:
        scripts = self._scripts()
        return {given.name: _job(given, scripts, where(())) for given, where in self._of(shapes.Job)}

    def projects(self) -> Sequence[Project]:
        return tuple(
            Project(
                name=given.name,
                jobs=(
                    *_listed(given.jobs, "jobs", where, voting=True),
                    *_listed(given.non_voting_jobs, "non-voting-jobs", where, voting=False),
                ),
                branches=tuple(given.branches),
                on=tuple(given.on),
                forge=given.forge or "",
                where=where(()),
                branches_where=where(("branches",)) if given.branches else "",
            )
            for given, where in self._of(shapes.Project)
        )


def _listed(names: Sequence[str], key: str, where: Where, *, voting: bool) -> Iterator[ProjectJob]:
    for index, name in enumerate(names):
        yield ProjectJob(job=name, voting=voting, where=where((key, index)))


def _job(given: shapes.Job, scripts: Mapping[str, Script], where: str) -> Job:
    limits, sizes = given.limits, given.sizes
    return Job(
        name=given.name,
        environment=given.environment,
        trusted=given.trusted,
        sources=given.sources,
        before=_steps(given.before, Phase.BEFORE, scripts),
        steps=_steps(given.steps, Phase.MAIN, scripts),
        after=_steps(given.after, Phase.AFTER, scripts),
        results=tuple(given.results),
        artifacts=tuple(given.artifacts),
        limits=Limits(
            hello=limits.hello,
            sources=limits.sources,
            before=limits.before,
            main=given.limit,
            after=limits.after,
            collect=limits.collect,
        ),
        sizes=Sizes(log=sizes.log, file=sizes.file, run=sizes.run, files=sizes.files),
        env=dict(given.env),
        hold_on_failure=given.hold_on_failure,
        hold_disks=given.hold_disks,
        where=where,
    )


def _steps(given: Sequence[shapes.Step], phase: Phase, scripts: Mapping[str, Script]) -> tuple[Step, ...]:
    return tuple(_step(step, f"{phase.value}-{number}", scripts) for number, step in enumerate(given, start=1))


def _step(given: shapes.Step, fallback: str, scripts: Mapping[str, Script]) -> Step:
    """A script's text is copied into the step: a run keeps what it was planned with."""
    if given.reboot or given.kexec is not None or given.power is not None:
        return _boot(given)
    if given.script is not None:
        script = scripts[given.script]
    elif given.interpreter is not None:
        script = Script(name=fallback, run=given.run or "", interpreter=given.interpreter)
    else:
        script = Script(name=fallback, run=given.run or "")
    return Step(
        name=given.name or script.name,
        run=script.run,
        interpreter=script.interpreter,
        on=tuple(given.on or ()),
        env=dict(given.env),
        background=given.background,
    )


def _boot(given: shapes.Step) -> Step:
    """A step that no script carries out: its machines go down, or come up."""
    kind = StepKind.POWER if given.power else StepKind.KEXEC if given.kexec else StepKind.REBOOT
    plain = Step(name="", run="")
    return Step(
        name=given.name or given.power or kind.value,
        run="",
        on=tuple(given.on or ()),
        kind=kind,
        power=given.power or "",
        boot=tuple(given.boot),
        kexec=None
        if given.kexec is None
        else Kexec(kernel=given.kexec.kernel, initrd=given.kexec.initrd or "", cmdline=given.kexec.cmdline or ""),
        within=given.within or plain.within,
    )
