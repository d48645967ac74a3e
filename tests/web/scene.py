"""A server in the middle of a working day, for tests and screenshots: runs, waiting leases, a broken environment, logs.

`python -m tests.web.scene [PORT]` serves it, with a run that goes on printing.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from paddock.core import access, agent, alert, command, environment, event, host, lease, report
from paddock.core import round as rounds
from paddock.core import run as runs
from paddock.core.access import Role, Token
from paddock.core.agent import Agent
from paddock.core.alert import Alert
from paddock.core.command import Command
from paddock.core.configuration import Configuration, Forge, ForgeKind, HostSettings, Project, ProjectJob, Server
from paddock.core.environment import Environment, Machine, Pool
from paddock.core.event import Change, Event, Kind, Why
from paddock.core.history import Transition
from paddock.core.host import Host
from paddock.core.job import NOOP, Job, Limits, Phase, Step
from paddock.core.lease import Lease
from paddock.core.results import Case, Outcome, Results
from paddock.core.round import Round
from paddock.core.run import Run, Span, Verdict
from paddock.engine import noting
from paddock.engine.leasing import Leasing
from paddock.engine.means import Means
from paddock.engine.operating import Operating
from paddock.ports import Clock, Tables
from paddock.testing import FakeChance, FakeClock, FakeLinks, MemoryArchive, MemoryStore
from paddock.web.app import create_app
from paddock.web.door import Door
from paddock.web.kit import Kit
from paddock.web.live import Tail
from paddock.wire import methods
from tests.web import lab

METHODS_OF_HOSTS = tuple(name for name, row in methods.METHODS.items() if row.toward is methods.Toward.AGENT)
OPERATOR, PERSON, LAB = "operator-secret", "person-secret", "lab-secret"
HOSTILE = "<script>alert(1)</script>"
PUBLIC = "https://ci.example.org"

_STEPS = (Step(name="prepare", run="./prepare.sh"), Step(name="migrate", run="./migrate.sh"))
MIGRATE = Job(
    name="dsvm-migrate",
    environment="two-node",
    trusted=True,
    sources=True,
    before=(Step(name="devstack", run="./stack.sh"),),
    steps=_STEPS,
    after=(Step(name="copy logs", run="cp -r log $PADDOCK_RESULTS/"),),
    results=("result.xml",),
    artifacts=("log/**",),
    limits=Limits(main=timedelta(minutes=90)),
)
GREET = Job(
    name="two-machines",
    environment="two-machines",
    trusted=True,
    steps=(Step(name="serve", run="./serve.sh", background=True), Step(name="fetch", run="./fetch.sh")),
    limits=Limits(main=timedelta(minutes=10)),
)


def pool(name: str, count: int, **rest: object) -> Pool:
    return Pool(name=name, host="vm-1", machines=("controller", "compute"), max=count, **rest)  # type: ignore[arg-type]


def configuration(*, private: bool = False) -> Configuration:
    pools = [
        pool("two-node", 4, isolated=True),
        Pool(name="two-machines", host="local", machines=("one", "two"), max=6),
        Pool(name="desk", host="local", machines=("one",), max=3, reset=environment.Reset.NONE),
    ]
    return Configuration(
        server=Server(public_url=PUBLIC, private=private),
        forges={"review": Forge(name="review", kind=ForgeKind.GERRIT, account="my-ci", bots=("jenkins",))},
        hosts={
            "vm-1": HostSettings(name="vm-1", skills=("hypervisor",), isolation=True),
            "local": HostSettings(name="local", skills=("local",)),
        },
        pools={each.name: each for each in pools},
        jobs={each.name: each for each in (NOOP, MIGRATE, GREET)},
        projects=(Project(name="openstack/nova", jobs=(ProjectJob(job="dsvm-migrate"),)),),
    )


def change(number: int, patchset: int, subject: str, *, project: str = "openstack/nova", owner: str = "anna") -> Change:
    return Change(
        forge="review",
        project=project,
        branch="master",
        number=number,
        patchset=patchset,
        ref=f"refs/changes/{number % 100:02}/{number}/{patchset}",
        revision=access.digest(f"{number},{patchset}")[:40],
        subject=subject,
        url=f"https://review.example.org/{number}",
        owner=owner,
    )


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that a test needs of it."""

    store: MemoryStore
    archive: MemoryArchive
    clock: Clock
    tail: Tail
    app: Door
    actions: Operating


class Filler:
    """Writes the rows; every moment is told in minutes before now."""

    def __init__(self, store: MemoryStore, archive: MemoryArchive, now: datetime) -> None:
        self.store, self.archive, self.now = store, archive, now
        self.serial = 0

    def ago(self, minutes: float) -> datetime:
        return self.now - timedelta(minutes=minutes)

    async def event(self, number: int, at: float, *, of: Change | None, outcome: str, **rest: object) -> Event:
        self.serial += 1
        fields: dict[str, object] = {
            "kind": Kind.COMMENT_ADDED,
            "type": "comment-added",
            "author": "anna",
            "comment": "Patch Set 1:\n\nrecheck",
            "state": event.State.IGNORED,
            **rest,
        }
        row = Event(
            id=str(number),
            forge="review",
            session="2026-01-31T06:00:00Z",
            position=self.serial,
            heard=self.ago(at),
            raw=json.dumps({"type": fields["type"], "change": {"number": of.number if of else 0}}),
            change=of,
            project=of.project if of else "",
            number=of.number if of else 0,
            outcome=outcome,
            **fields,  # type: ignore[arg-type]
        )
        return await self.store.write(lambda tables: tables.events.add(row))

    async def round(self, id: str, at: float, of: Change, event_id: str, **rest: object) -> Round:
        row = Round(
            id=id,
            event=event_id,
            forge=of.forge,
            project=of.project,
            number=of.number,
            patchset=of.patchset,
            change=of,
            created=self.ago(at),
            **rest,  # type: ignore[arg-type]
        )
        return await self.store.write(lambda tables: tables.rounds.add(row))

    async def run(
        self, id: str, of: Round, job: Job, at: float, spans: list[tuple[Phase, float, float | None]], **rest: object
    ) -> Run:
        row = Run(
            id=id,
            round=of.id,
            job=job.name,
            spec=job,
            forge=of.forge,
            project=of.project,
            number=of.number,
            patchset=of.patchset,
            created=self.ago(at),
            archive=f"review/{of.project}/{of.number}/{of.patchset}/{of.id}/{job.name}/1",
            spans=tuple(
                Span(phase=phase, began=self.ago(began), ended=None if ended is None else self.ago(ended))
                for phase, began, ended in spans
            ),
            **rest,  # type: ignore[arg-type]
        )
        return await self.store.write(lambda tables: tables.runs.add(row))

    async def log(self, run: Run, phase: Phase, step: int, machine: str, at: float, text: str, **rest: object) -> None:
        """A command of a run and what it printed, a line every 137 ms."""
        self.serial += 1
        name = f"{run.archive}/logs/{phase.value}-{step}-{machine}"
        fields: dict[str, object] = {
            "state": command.State.COMPLETE,
            "result": {"exit": 0},
            "ended": self.ago(at) + timedelta(seconds=40),
            **rest,
        }
        row = Command(
            id=f"c-{self.serial}",
            agent=f"{run.environment}.{machine}",
            seq=self.serial,
            method="sources.checkout" if phase is Phase.SOURCES else "script.run",
            asked=self.ago(at),
            started=self.ago(at),
            environment=run.environment,
            fence=run.fence,
            run=run.id,
            phase=phase,
            step=step,
            machine=machine,
            archive=name,
            outputs={"output": len(text.encode())} if fields["state"] == command.State.COMPLETE else {},
            **fields,  # type: ignore[arg-type]
        )
        await self.store.write(lambda tables: tables.commands.add(row))
        data, times, moment = text.encode(), [], self.ago(at)
        offset = 0
        for line in data.splitlines(keepends=True):
            times.append(f"{offset} {moment.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}\n")
            offset += len(line)
            moment += timedelta(milliseconds=137)
        await self.archive.write(f"{name}.log", data)
        await self.archive.write(f"{name}.times", "".join(times).encode())

    async def environment(self, id: str, pool: str, state: environment.State, since: float, **rest: object) -> None:
        names = configuration().pools[pool].machines
        machines = tuple(
            Machine(name=name, agent=f"{id}.{name}", address=f"127.77.0.{place + 1}")
            for place, name in enumerate(names)
        )
        carried_by = configuration().pools[pool].host
        row = Environment(
            id=id,
            pool=pool,
            host=carried_by,
            since=self.ago(since),
            machines=machines,
            state=state,
            fence=int(rest.pop("fence", 7)),  # type: ignore[call-overload]
            created=self.ago(300),
            **rest,  # type: ignore[arg-type]
        )

        def write(tables: Tables) -> None:
            tables.environments.add(row)
            for machine in machines:
                tables.agents.add(
                    Agent(
                        id=machine.agent,
                        name=machine.name,
                        kind=agent.Kind.MACHINE,
                        host=carried_by,
                        environment=id,
                        machine=machine.name,
                        software="paddock 0.1.0",
                        skills=("script", "file", "sources", "system"),
                        session="" if state is environment.State.BROKEN else f"s-{machine.agent}",
                        seen=self.ago(since),
                        boot_id="0f1c3f0e-7a55-4f0c-9d41-8f4f3b7c2a10",
                        ledger="ledger-1",
                        seq=41,
                    )
                )

        await self.store.write(write)

    def alerts(self, tables: Tables) -> None:
        """One that nobody knows of yet, one that somebody does, one that is over."""
        full = Alert(
            id="1",
            agent="a-vm-1",
            name="disk:/",
            subject="/var/lib/paddock",
            level=alert.Level.ERROR,
            message=f"1.2 GiB of 480 GiB are left {HOSTILE}",
            at=self.ago(130),
            told=self.ago(3),
            count=26,
        )
        tables.alerts.add(full)
        slow = replace(full, id="2", name="load", subject="load", level=alert.Level.WARNING, count=3, at=self.ago(90))
        slow = replace(slow, message="41.2 over 15 minutes on 16 processors")
        tables.alerts.add(alert.acknowledge(slow, by="anna", now=self.ago(60)))
        tables.alerts.add(alert.end(replace(slow, id="3", at=self.ago(900)), now=self.ago(870)))

    def own_lines(self) -> list[dict[str, object]]:
        """What an agent logs about itself."""
        told: list[tuple[float, str, str, dict[str, object]]] = [
            (400, "info", "session began", {"agent": "a-vm-1"}),
            (399, "debug", "pruned", {"entries": 14}),
            (210, "warning", "server: closed: the server is going away", {"retry": "1.4 s"}),
            (209, "info", "session began", {"agent": "a-vm-1"}),
            (130, "error", f"the disk is nearly full {HOSTILE}", {"left": "1.2 GiB", "path": "/var/lib/paddock"}),
            (2, "info", "machine was built", {"environment": "two-node-1", "machine": "controller", "took": "48 s"}),
        ]
        return [
            {"kind": "log", "time": self.ago(at).isoformat(), "level": level, "msg": text, "fields": fields}
            for at, level, text, fields in told
        ]

    async def past(self, id: str, steps: list[tuple[float, str, str, str, str]]) -> None:
        """The history of an environment: (minutes ago, before, after, signal, by)."""

        def write(tables: Tables) -> None:
            for number, (at, before, after, signal, by) in enumerate(steps):
                tables.history.add(
                    Transition(
                        noun="environments",
                        id=id,
                        at=self.ago(at),
                        before=before,
                        after=after,
                        signal=signal,
                        fence=number + 1,
                        by=by,
                    )
                )

        await self.store.write(write)

    async def lease(self, id: str, pool: str, holder: str, asked: float, **rest: object) -> None:
        row = Lease(id=id, pool=pool, holder=holder, asked=self.ago(asked), **rest)  # type: ignore[arg-type]
        await self.store.write(lambda tables: tables.leases.add(row))

    async def done(
        self, id: str, of: Round, job: Job, at: float, took: float, verdict: Verdict, failing: str = ""
    ) -> Run:
        """A run that ended, with its tests and logs."""
        end = at - took
        spans: list[tuple[Phase, float, float | None]] = [
            (Phase.HELLO, at - 0.2, at - 0.25),
            (Phase.SOURCES, at - 0.25, at - 0.6),
            (Phase.BEFORE, at - 0.6, at - took * 0.3),
            (Phase.MAIN, at - took * 0.3, end + took * 0.08),
            (Phase.AFTER, end + took * 0.08, end + took * 0.03),
            (Phase.COLLECT, end + took * 0.03, end),
        ]
        machines = configuration().pools[job.environment].machines
        bad = verdict is Verdict.FAILURE
        run = await self.run(
            id,
            of,
            job,
            at,
            spans,
            state=runs.State.DONE,
            verdict=verdict,
            reason=f"step 2 (migrate) on {machines[0]} exited 1" if bad else "",
            started=self.ago(at - 0.6),
            ended=self.ago(end),
            environment="two-node-3",
            lease=f"l{id}",
            fence=4,
        )
        for machine in machines:
            await self.log(run, Phase.SOURCES, 1, machine, at - 0.25, "fetch refs\nHEAD is now at 5f0e1b2\n")
            await self.log(run, Phase.BEFORE, 1, machine, at - 0.6, stack_log(240))
            await self.log(run, Phase.MAIN, 1, machine, at - took * 0.3, "Reading state\n\x1b[32mok\x1b[0m prepared\n")
            failed = bad and machine == machines[0]
            await self.log(
                run,
                Phase.MAIN,
                2,
                machine,
                at - took * 0.5,
                migrate_log(failed=failed, extra=failing),
                result={"exit": 1 if failed else 0},
            )
            await self.log(run, Phase.AFTER, 1, machine, end + took * 0.08, "copied 14 files\n")
        cases = tuple(test_cases(failed=bad))
        await self.store.write(lambda tables: tables.results.add(Results(id=run.id, cases=cases)))
        for path in ("controller/log/nova-compute.log", "controller/log/libvirtd.log", "compute/log/console.txt"):
            await self.archive.write(f"{run.archive}/artifacts/{path}", b"2026-01-31 INFO started\n" * 900)
        await self.archive.write(f"{run.archive}/artifacts/controller/log/report.html", HOSTILE.encode() * 40)
        await self.archive.write(f"{run.archive}/results/controller/result.xml", b"<testsuite/>")
        return run


def stack_log(count: int) -> str:
    lines = ["\x1b[1m+ ./stack.sh\x1b[0m"]
    for number in range(count):
        lines.append(
            f"09:{number // 60 % 60:02}:{number % 60:02} \x1b[36mINFO\x1b[0m unpacking package {number} of {count}"
        )
        if number % 37 == 11:
            lines.append(f"\x1b[33mWARNING\x1b[0m deprecated option \x1b[1mworkers\x1b[0m in section {number}")
    return "\n".join(lines) + "\n\x1b[1;32mThis is your host IP address: 10.0.0.11\x1b[0m\n"


def migrate_log(*, failed: bool, extra: str = "") -> str:
    lines = ["\x1b[1m+ ./migrate.sh --live\x1b[0m"]
    lines += [f"instance {number}: \x1b[32mACTIVE\x1b[0m on controller" for number in range(1, 41)]
    lines += [f"migrating instance {number}: {number * 2.5:.1f} % of memory copied" for number in range(1, 41)]
    if failed:
        lines += [
            "\x1b[31mERROR\x1b[0m instance 17: migration aborted by the destination",
            "Traceback (most recent call last):",
            '  File "/opt/stack/nova/nova/virt/libvirt/driver.py", line 9871, in _live_migration_monitor',
            "\x1b[1;31mnova.exception.LiveMigrationAborted\x1b[0m: unable to read from monitor: reset by peer",
        ]
    else:
        lines += ["\x1b[1;32mall 40 instances migrated\x1b[0m"]
    return "\n".join([*lines, *filter(None, [extra])]) + "\n"


def test_cases(*, failed: bool) -> list[Case]:
    cases = []
    for suite, count in (("tempest.api.compute.test_live_migration", 9), ("tempest.scenario.test_volume_boot", 22)):
        for number in range(count):
            outcome, said = Outcome.PASSED, ""
            if failed and suite.endswith("migration") and number in (2, 5):
                outcome = Outcome.FAILED
                said = f"Traceback (most recent call last):\nAssertionError: 'ERROR' != 'ACTIVE' {HOSTILE}"
            elif number == 7:
                outcome, said = Outcome.SKIPPED, "needs shared storage"
            cases.append(
                Case(
                    suite=suite,
                    name=f"test_case_{number:02}",
                    outcome=outcome,
                    seconds=0.4 + number * 1.31,
                    message=said,
                )
            )
    return cases


test_cases.__test__ = False  # type: ignore[attr-defined]


async def fill(store: MemoryStore, archive: MemoryArchive, now: datetime) -> None:
    """A morning: two runs under way, one waiting, some done, a gap in the stream."""
    f = Filler(store, archive, now)
    ready, leased = environment.State.READY, environment.State.LEASED

    def people(tables: Tables) -> None:
        for name, secret, role in (
            ("ops", OPERATOR, Role.OPERATOR),
            ("anna", PERSON, Role.PERSON),
            ("lab-7", LAB, Role.LAB),
        ):
            tables.tokens.add(Token(id=name, role=role, digest=access.digest(secret), created=now))
        for name, skills in (("vm-1", ("hypervisor", "sources")), ("local", ("local",))):
            tables.hosts.add(Host(id=name, skills=skills, since=f.ago(400), agent=f"a-{name}", state=host.State.ONLINE))
            tables.agents.add(
                Agent(
                    id=f"a-{name}",
                    name=name,
                    kind=agent.Kind.HOST,
                    host=name,
                    software="paddock 0.1.0",
                    skills=skills,
                    methods=METHODS_OF_HOSTS,
                    session=f"s-{name}",
                    seen=f.ago(400),
                    seq=912,
                    boot_id="5b0a4bf8-6f59-4b0f-8a55-d3f8f4c9c111",
                    ledger="ledger-host",
                    facts={"hostname": name, "arch": "x86_64", "os": "Debian 12", "addresses": ["10.0.0.5"]},
                )
            )

    await store.write(people)
    await store.write(f.alerts)
    await noting.note(archive, "a-vm-1", f.own_lines())
    await f.environment("two-node-1", "two-node", leased, 12, lease="l118", fence=9)
    await f.environment("two-node-2", "two-node", environment.State.CLEANING, 1)
    await f.environment(
        "two-node-3", "two-node", environment.State.HELD, 31, held_by="anna", hold_until=now + timedelta(hours=2)
    )
    await f.environment(
        "two-node-4",
        "two-node",
        environment.State.QUARANTINED,
        95,
        reason="cleaning: 2 processes would not end",
        attempts=3,
    )
    await f.environment("two-machines-1", "two-machines", leased, 3, lease="l120", fence=12)
    for number in (2, 3):
        await f.environment(f"two-machines-{number}", "two-machines", ready, 60)
    await f.environment(
        "two-machines-4", "two-machines", environment.State.BROKEN, 6, reason="host local: its agent was away"
    )
    await f.environment("two-machines-5", "two-machines", environment.State.BUILDING, 0.2)
    await f.environment("desk-1", "desk", leased, 44, lease="l9f2c", fence=3)
    await f.environment("desk-2", "desk", ready, 200)
    await f.past(
        "two-node-1",
        [
            (240, "requested", "building", "build", "pool two-node"),
            (236, "building", "ready", "built", "agent vm-1"),
            (190, "ready", "leased", "lease", "run 91"),
            (141, "leased", "dirty", "release", "run 91"),
            (140, "dirty", "cleaning", "clean", "cleaning"),
            (138, "cleaning", "ready", "cleaned", "agent vm-1"),
            (90, "ready", "leased", "lease", "anna@desk"),
            (52, "leased", "broken", "break", "host vm-1"),
            (38, "broken", "cleaning", "clean", "cleaning"),
            (35, "cleaning", "ready", "cleaned", "agent vm-1"),
            (12, "ready", "leased", "lease", "run 118"),
        ],
    )

    whys = (
        Why(
            job="dsvm-migrate",
            runs=True,
            reason="project openstack/nova, comment matches ^recheck$",
            where="paddock.yaml:31",
        ),
        Why(job="noop", runs=True, reason="same", where="paddock.yaml:31"),
        Why(job="dsvm-stable", runs=False, reason="branch: wants stable/.*, is master", where="paddock.yaml:44:7"),
    )
    # Earlier runs of the job, for the sparklines and the last success.
    for place, (verdict, at) in enumerate(
        [(Verdict.SUCCESS, 600), (Verdict.SUCCESS, 480), (Verdict.FAILURE, 400), (Verdict.SUCCESS, 300)]
    ):
        old = change(912000 + place, 2, "Earlier work")
        heard = await f.event(
            10 + place,
            at,
            of=old,
            outcome=f"round {20 + place}: dsvm-migrate",
            state=event.State.PLANNED,
            round=str(20 + place),
            whys=whys,
        )
        of = await f.round(str(20 + place), at, old, heard.id, state=rounds.State.DONE, ended=f.ago(at - 40))
        await f.done(str(90 + place), of, MIGRATE, at, 38, verdict)

    hostile = change(912340, 2, f"Fix {HOSTILE} in the scheduler", owner="mallory")
    heard = await f.event(
        30,
        75,
        of=hostile,
        outcome="round 30: dsvm-migrate",
        state=event.State.PLANNED,
        round="30",
        whys=whys,
        comment=f"Patch Set 2:\n\nrecheck {HOSTILE}",
        author="mallory",
    )
    of = await f.round("30", 75, hostile, heard.id, state=rounds.State.DONE, ended=f.ago(33))
    failed = await f.done("110", of, MIGRATE, 75, 42, Verdict.FAILURE, failing=f"{HOSTILE} \x1b]0;title\x07 done")
    message = "\n".join(
        [
            "Build failed.",
            "",
            f"- dsvm-migrate {PUBLIC}/runs/110/ : FAILURE in 41m 24s",
            "",
            "Contact: https://wiki.example.org/My_CI",
            f"{PUBLIC}/rounds/30",
        ]
    )
    posted = report.Report(
        id="30",
        forge="review",
        change=hostile,
        message=message,
        link=f"{PUBLIC}/rounds/30",
        state=report.State.SENT,
        created=f.ago(33),
        sent=f.ago(33),
        attempts=1,
    )
    await store.write(lambda tables: tables.reports.add(posted))
    await f.lease(
        "l110",
        "two-node",
        "run 110",
        75,
        run="110",
        state=lease.State.RELEASED,
        environment="two-node-3",
        fence=4,
        granted=f.ago(74.8),
        ended=f.ago(33),
    )
    assert failed.verdict is Verdict.FAILURE

    await f.event(
        40,
        28,
        of=None,
        outcome="from 09:02:11 to 09:06:40: connection reset by peer",
        kind=Kind.GAP,
        type="gap",
        author="",
        comment="",
        state=event.State.IGNORED,
    )
    await f.event(
        41,
        20,
        of=change(912344, 7, "Bump requirements", project="openstack/rally"),
        outcome="no project openstack/rally",
    )
    await f.event(
        42,
        18,
        of=change(912345, 3, "Live migration of instances with volumes"),
        outcome="bot jenkins",
        author="jenkins",
        comment="Patch Set 3: Verified+1\n\nBuild succeeded.",
    )

    nova = change(912345, 3, "Live migration of instances with attached volumes")
    heard = await f.event(
        43, 12.2, of=nova, outcome="round 41: dsvm-migrate, noop", state=event.State.PLANNED, round="41", whys=whys
    )
    of = await f.round("41", 12.2, nova, heard.id, state=rounds.State.RUNNING)
    live = await f.run(
        "118",
        of,
        MIGRATE,
        12.2,
        [(Phase.HELLO, 11.5, 11.4), (Phase.SOURCES, 11.4, 10.6), (Phase.BEFORE, 10.6, 6), (Phase.MAIN, 6, None)],
        state=runs.State.RUNNING,
        phase=Phase.MAIN,
        phase_since=f.ago(6),
        environment="two-node-1",
        lease="l118",
        fence=9,
        started=f.ago(10.6),
    )
    await f.lease(
        "l118",
        "two-node",
        "run 118",
        12.2,
        run="118",
        state=lease.State.GRANTED,
        environment="two-node-1",
        fence=9,
        granted=f.ago(11.5),
    )
    for machine in ("controller", "compute"):
        await f.log(
            live,
            Phase.SOURCES,
            1,
            machine,
            11.4,
            " * branch refs/changes/45/912345/3 -> FETCH_HEAD\nHEAD is now at 5f0e1b2\n",
        )
        await f.log(live, Phase.BEFORE, 1, machine, 10.6, stack_log(1200 if machine == "controller" else 300))
        await f.log(live, Phase.MAIN, 1, machine, 6, "Reading state\n\x1b[32mok\x1b[0m prepared\n")
        await f.log(
            live,
            Phase.MAIN,
            2,
            machine,
            5,
            migrate_log(failed=False)[:2600],
            state=command.State.RUNNING,
            result={},
            ended=None,
        )
    noop = await f.run("119", of, NOOP, 12.2, [], state=runs.State.DONE, verdict=Verdict.SUCCESS, ended=f.ago(12.2))
    assert noop.is_done

    small = change(912346, 1, "Say hello to the other machine", project="openstack-dev/ci-sandbox", owner="bob")
    heard = await f.event(
        44,
        3.3,
        of=small,
        outcome="round 42: two-machines",
        state=event.State.PLANNED,
        round="42",
        kind=Kind.PATCHSET_CREATED,
        type="patchset-created",
        comment="",
        author="bob",
    )
    of = await f.round("42", 3.3, small, heard.id, state=rounds.State.RUNNING)
    await f.run(
        "120",
        of,
        GREET,
        3.3,
        [(Phase.HELLO, 3, 2.9), (Phase.SOURCES, 2.9, None)],
        state=runs.State.PREPARING,
        phase=Phase.SOURCES,
        phase_since=f.ago(2.9),
        environment="two-machines-1",
        lease="l120",
        fence=12,
    )
    await f.lease(
        "l120",
        "two-machines",
        "run 120",
        3.3,
        run="120",
        state=lease.State.GRANTED,
        environment="two-machines-1",
        fence=12,
        granted=f.ago(3),
    )
    await f.lease(
        "l9f2c",
        "desk",
        "anna@desk",
        44,
        owner="anna",
        ttl=timedelta(hours=2),
        state=lease.State.GRANTED,
        environment="desk-1",
        fence=3,
        granted=f.ago(44),
        deadline=now + timedelta(minutes=76),
    )

    waits = change(912350, 4, "Evacuate with NUMA topology")
    heard = await f.event(
        45, 4.2, of=waits, outcome="round 43: dsvm-migrate", state=event.State.PLANNED, round="43", whys=whys
    )
    of = await f.round("43", 4.2, waits, heard.id, state=rounds.State.RUNNING)
    await f.run("121", of, MIGRATE, 4.2, [], state=runs.State.LEASING, lease="l121")
    await f.lease("l121", "two-node", "run 121", 4.2, run="121")
    await f.lease("l77aa", "two-node", "bob@desk", 1.5, owner="bob", ttl=timedelta(hours=1))


async def make(
    *,
    clock: Clock | None = None,
    private: bool = False,
    empty: bool = False,
    virtual: bool = False,
    ailing: Mapping[str, str] | None = None,
) -> Scene:
    """The scene as an app. `empty`: a server on its first day, with people but nothing else; `virtual`: with a lab."""
    clock = clock or FakeClock()
    store, archive, tail = MemoryStore(), MemoryArchive(), Tail()
    settings = configuration(private=private)
    if virtual:
        settings = lab.configured(settings)
    means = Means(
        store=store,
        archive=archive,
        clock=clock,
        chance=FakeChance(),
        links=FakeLinks(),
        configuration=lambda: settings,
    )
    leasing = Leasing(means)
    actions = Operating(means, leasing)
    if empty:
        token = Token(id="ops", role=Role.OPERATOR, digest=access.digest(OPERATOR), created=clock.now())
        await store.write(lambda tables: tables.tokens.add(token))
    else:
        await fill(store, archive, clock.now())
    if virtual:
        await lab.furnish(store, archive, settings, clock.now())
    app = create_app(
        store,
        archive,
        actions,
        means.configuration,
        clock,
        Kit(Path("/nonexistent"), lambda: b"the agent"),
        tail=tail,
        ailing=lambda: ailing or {},
        draining=lambda: leasing.is_draining,
    )
    return Scene(store=store, archive=archive, clock=clock, tail=tail, app=app, actions=actions)


class Wall:
    """The real clock, for a scene that a person looks at."""

    def now(self) -> datetime:
        from datetime import UTC

        return datetime.now(UTC)

    async def sleep_until(self, moment: datetime) -> None:
        await asyncio.sleep(max(0.0, (moment - self.now()).total_seconds()))


async def print_on(scene: Scene) -> None:
    """The run that is under way goes on printing."""
    run = await scene.store.read(lambda tables: tables.runs.find("118"))
    assert run
    name, number = f"{run.archive}/logs/main-2-controller", 0
    while True:
        await asyncio.sleep(0.7)
        number += 1
        data = f"migrating instance {number}: \x1b[36m{number * 0.5:.1f} %\x1b[0m of memory copied\n".encode()
        offset = await scene.archive.length(f"{name}.log") or 0
        at = scene.clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        times = await scene.archive.length(f"{name}.times") or 0
        await scene.archive.append(f"{name}.times", times, f"{offset} {at}\n".encode())
        scene.tail.grew(f"{name}.log", await scene.archive.append(f"{name}.log", offset, data))
        if number % 5 == 0:
            await scene.store.write(lambda tables: _touch(tables))


def _touch(tables: Tables) -> None:
    row = tables.runs.find("118")
    if row:
        tables.runs.swap(row, replace(row))


async def _serve(port: int) -> None:
    import uvicorn

    scene = await make(clock=Wall(), empty="--empty" in sys.argv, virtual="--empty" not in sys.argv)
    server = uvicorn.Server(uvicorn.Config(scene.app, port=port, log_level="warning", access_log=False))
    async with asyncio.TaskGroup() as group:
        if "--empty" not in sys.argv:
            group.create_task(print_on(scene))
        await server.serve()
        raise SystemExit


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]) if len(sys.argv) > 1 else 8099))
