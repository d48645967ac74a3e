"""Tells the stored rows as the shapes of the HTTP API."""

from collections.abc import Sequence
from datetime import datetime

from paddock.core import (
    agent,
    alert,
    command,
    environment,
    event,
    history,
    host,
    image,
    lease,
    machine,
    queue,
    report,
    results,
    run,
)
from paddock.core.access import Token
from paddock.core.capacity import Room
from paddock.core.round import Round
from paddock.engine import noting
from paddock.web.spelling import iso
from paddock.wire import shapes


def moment(at: datetime | None) -> str | None:
    return None if at is None else iso(at)


def of_lease(row: lease.Lease) -> shapes.Lease:
    return shapes.Lease(
        id=row.id,
        pool=row.pool,
        holder=row.holder,
        owner=row.owner,
        run=row.run,
        state=row.state.value,
        environment=row.environment,
        fence=row.fence,
        ttl=None if row.ttl is None else row.ttl.total_seconds(),
        asked=iso(row.asked),
        granted=moment(row.granted),
        deadline=moment(row.deadline),
        ended=moment(row.ended),
        reason=row.reason,
        fork_of=row.fork_of,
    )


def of_why(why: queue.WhyLease) -> shapes.WhyLease:
    return shapes.WhyLease(
        lease=why.lease,
        state=why.state,
        asked=why.asked,
        waits_for=why.waits_for,
        ahead=why.ahead,
        next_free=why.next_free,
        would_help=why.would_help,
    )


def of_transition(step: history.Transition) -> shapes.Transition:
    return shapes.Transition(
        noun=step.noun,
        id=step.id,
        at=iso(step.at),
        before=step.before,
        after=step.after,
        signal=step.signal,
        fence=step.fence,
        by=step.by,
        note=step.note,
    )


def _environment_fields(row: environment.Environment) -> dict[str, object]:
    return {
        "id": row.id,
        "pool": row.pool,
        "host": row.host,
        "state": row.state.value,
        "since": iso(row.since),
        "fence": row.fence,
        "lease": row.lease,
        "machines": tuple(of_machine(row, place) for place in range(len(row.machines))),
        "held_by": row.held_by,
        "hold_until": moment(row.hold_until),
        "retiring": row.retiring,
        "reason": row.reason,
        "created": moment(row.created),
        "size": None if row.size is None else of_size(row.size),
        "fork_of": row.fork_of,
        "saving": row.wants_saving,
    }


def of_size(size: machine.Size) -> shapes.Size:
    return shapes.Size(memory=size.memory, vcpus=size.vcpus, disk=size.disk)


def of_machine(row: environment.Environment, place: int) -> shapes.Machine:
    """The `place`th machine of an environment; what a virtual one is made of comes from what was booked."""
    each, spec = row.machines[place], row.spec
    if spec is None:
        return shapes.Machine(name=each.name, agent=each.agent, address=each.address)
    made = spec.machines[place]
    cards = machine.nics(row.id, each.name, place, made.nets, spec.networks, maker=row.maker)
    return shapes.Machine(
        name=each.name,
        agent=each.agent,
        address=each.address,
        addresses=each.addresses,
        image=made.image,
        digest=spec.images.get(made.image, ""),
        memory=made.memory,
        vcpus=made.vcpus,
        disks=made.disks,
        nics=tuple(shapes.Nic(network=card.network, mac=card.mac, address=card.address) for card in cards),
        display=made.display,
        start=each.start,
        why=each.why,
        host_key=each.host_key,
    )


def of_networks(spec: environment.Spec | None) -> tuple[shapes.Network, ...]:
    return tuple(
        shapes.Network(
            name=each.name,
            subnet="" if each.bridge else str(machine.subnet(each, place)),
            latency=each.latency.total_seconds(),
            loss=each.loss,
            rate=each.rate,
            bridge=each.bridge,
        )
        for place, each in enumerate(spec.networks if spec is not None else ())
    )


def of_environment(row: environment.Environment) -> shapes.Environment:
    return shapes.Environment(**_environment_fields(row))  # type: ignore[arg-type]


def of_environment_detail(
    row: environment.Environment, steps: Sequence[history.Transition]
) -> shapes.EnvironmentDetail:
    told = tuple(of_transition(step) for step in steps)
    return shapes.EnvironmentDetail(
        **_environment_fields(row),  # type: ignore[arg-type]
        history=told,
        networks=of_networks(row.spec),
        egress=row.spec.egress if row.spec is not None else (),
    )


def of_stored(stored: host.Stored) -> shapes.Stored:
    return shapes.Stored(images=stored.images, templates=stored.templates)


def _host_fields(row: host.Host, room: Room | None) -> dict[str, object]:
    return {
        "name": row.id,
        "state": row.state.value,
        "since": iso(row.since),
        "agent": row.agent,
        "skills": row.skills,
        "drained_by": row.drained_by,
        "reason": row.reason,
        "labels": room.labels if room is not None else (),
        "capacity": of_size(room.whole) if room is not None and room.whole is not None else None,
        "booked": of_size(room.booked) if room is not None else None,
        "stored": of_stored(room.stored) if room is not None and room.stored is not None else None,
    }


def of_host(row: host.Host, room: Room | None = None) -> shapes.Host:
    """`room`: what is booked on it, where something can be."""
    return shapes.Host(**_host_fields(row, room))  # type: ignore[arg-type]


def of_host_detail(
    row: host.Host,
    carried: Sequence[environment.Environment],
    *,
    room: Room | None = None,
    images: Sequence[shapes.HostImage] = (),
) -> shapes.HostDetail:
    told = tuple(of_environment(each) for each in carried)
    return shapes.HostDetail(**_host_fields(row, room), environments=told, images=tuple(images))  # type: ignore[arg-type]


def of_host_image(
    row: image.HostImage, *, is_current: bool, percent: float | None = None, eta: float | None = None
) -> shapes.HostImage:
    """`percent`, `eta`: of the build that is under way."""
    return shapes.HostImage(
        id=row.id,
        image=row.image,
        host=row.host,
        state=row.state.value,
        since=iso(row.since),
        serves=row.serves,
        current=is_current,
        digest=row.digest,
        bytes=row.bytes,
        apparent=row.apparent,
        built=moment(row.built),
        layers=tuple(
            shapes.Layer(
                digest=layer.digest,
                image=layer.image,
                script=layer.script,
                bytes=layer.bytes,
                seconds=layer.seconds,
                built=moment(layer.built),
            )
            for layer in row.layers
        ),
        attempts=row.attempts,
        reason=row.reason,
        again=moment(image.again(row)),
        percent=percent,
        eta=eta,
    )


def stream_of(row: command.Command) -> str:
    """The name of the log that a command writes, empty where it writes none."""
    directory, _, name = row.archive.rpartition("/")
    return name if directory.endswith("/logs") or directory == "logs" else ""


def of_command(row: command.Command) -> shapes.Command:
    return shapes.Command(
        id=row.id,
        agent=row.agent,
        seq=row.seq,
        method=row.method,
        state=row.state.value,
        run=row.run,
        environment=row.environment,
        fence=row.fence,
        phase=row.phase.value if row.phase else None,
        step=row.step,
        machine=row.machine,
        exit=row.exit,
        code=row.code,
        message=row.message,
        percent=row.percent,
        eta=row.eta,
        log=stream_of(row),
        asked=iso(row.asked),
        sent=moment(row.sent),
        started=moment(row.started),
        ended=moment(row.ended),
    )


def of_order(row: command.Command, *, is_open: bool = True) -> shapes.AgentCommand:
    """`is_open`: whether what it brought is to be told to whoever asks."""
    return shapes.AgentCommand(
        id=row.id,
        agent=row.agent,
        seq=row.seq,
        method=row.method,
        by=row.by,
        run=row.run,
        environment=row.environment,
        fence=row.fence,
        state=row.state.value,
        code=row.code,
        message=row.message,
        result=row.result if is_open else {},
        outputs=row.outputs if is_open else {},
        percent=row.percent,
        eta=row.eta,
        exit=row.exit,
        asked=iso(row.asked),
        sent=moment(row.sent),
        started=moment(row.started),
        ended=moment(row.ended),
    )


def of_alert(row: alert.Alert) -> shapes.Alert:
    return shapes.Alert(
        id=row.id,
        agent=row.agent,
        name=row.name,
        subject=row.subject,
        level=row.level.value,
        state=row.state.value,
        message=row.message,
        at=iso(row.at),
        told=iso(row.told),
        count=row.count,
        acknowledged=moment(row.acknowledged),
        acknowledged_by=row.acknowledged_by,
        ended=moment(row.ended),
    )


def of_agent_lines(found: noting.Lines) -> shapes.AgentLines:
    return shapes.AgentLines(
        items=tuple(
            shapes.AgentLine(at=line.at, level=line.level, message=line.message, fields=line.fields)
            for line in found.items
        ),
        cursor=found.cursor,
    )


def _agent_fields(row: agent.Agent) -> dict[str, object]:
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind.value,
        "host": row.host,
        "environment": row.environment,
        "machine": row.machine,
        "software": row.software,
        "skills": row.skills,
        "methods": row.methods,
        "connected": row.is_connected,
        "shut_out": row.shut_out,
        "boot_id": row.boot_id,
        "seen": moment(row.seen),
        "created": moment(row.created),
    }


def of_agent(row: agent.Agent) -> shapes.Agent:
    return shapes.Agent(**_agent_fields(row))  # type: ignore[arg-type]


def of_agent_detail(
    row: agent.Agent, open_commands: Sequence[command.Command], log: Sequence[str]
) -> shapes.AgentDetail:
    told = tuple(of_command(each) for each in open_commands)
    return shapes.AgentDetail(**_agent_fields(row), commands=told, log=tuple(log))  # type: ignore[arg-type]


def _run_fields(row: run.Run, public_url: str) -> dict[str, object]:
    return {
        "id": row.id,
        "round": row.round,
        "job": row.job,
        "attempt": row.attempt,
        "voting": row.voting,
        "forge": row.forge,
        "project": row.project,
        "number": row.number,
        "patchset": row.patchset,
        "state": row.state.value,
        "verdict": row.verdict.value if row.verdict else None,
        "reason": row.reason,
        "ending": row.ending.value if row.ending else None,
        "phase": row.phase.value if row.phase else None,
        "pool": row.spec.environment,
        "lease": row.lease,
        "environment": row.environment,
        "created": iso(row.created),
        "started": moment(row.started),
        "ended": moment(row.ended),
        "url": f"{public_url}/runs/{row.id}/",
    }


def of_run(row: run.Run, *, public_url: str) -> shapes.Run:
    return shapes.Run(**_run_fields(row, public_url))  # type: ignore[arg-type]


def of_run_detail(
    row: run.Run,
    *,
    public_url: str,
    commands: Sequence[command.Command],
    logs: Sequence[shapes.Log],
    found: results.Results | None,
    artifacts: Sequence[shapes.Artifact],
    had: environment.Environment | None = None,
) -> shapes.RunDetail:
    cases = found.cases if found else ()
    return shapes.RunDetail(
        **_run_fields(row, public_url),  # type: ignore[arg-type]
        spans=tuple(
            shapes.Span(phase=str(span.phase), began=iso(span.began), ended=moment(span.ended)) for span in row.spans
        ),
        commands=tuple(of_command(each) for each in commands),
        logs=tuple(logs),
        cases=tuple(
            shapes.Case(
                suite=case.suite,
                name=case.name,
                outcome=case.outcome.value,
                seconds=case.seconds,
                message=case.message,
            )
            for case in cases
        ),
        problems=found.problems if found else (),
        artifacts=tuple(artifacts),
        held_until=moment(left_until(row, had)),
    )


def left_until(row: run.Run, had: environment.Environment | None) -> datetime | None:
    """Until when what a run had is held for it; None where it is not, or a person has taken it over."""
    if had is None or had.state not in environment.KEPT or had.held_for is None or had.held_for.run != row.id:
        return None
    return had.hold_until


def of_change(row: event.Change) -> shapes.Change:
    return shapes.Change(
        forge=row.forge,
        project=row.project,
        branch=row.branch,
        number=row.number,
        patchset=row.patchset,
        ref=row.ref,
        revision=row.revision,
        subject=row.subject,
        url=row.url,
        owner=row.owner,
    )


def of_report(row: report.Report) -> shapes.Report:
    return shapes.Report(
        round=row.id,
        forge=row.forge,
        message=row.message,
        labels=row.labels,
        state=row.state.value,
        created=moment(row.created),
        sent=moment(row.sent),
        attempts=row.attempts,
        reason=row.reason,
    )


def of_round(row: Round, runs: Sequence[run.Run], written: report.Report | None, *, public_url: str) -> shapes.Round:
    return shapes.Round(
        id=row.id,
        event=row.event,
        forge=row.forge,
        project=row.project,
        number=row.number,
        patchset=row.patchset,
        state=row.state.value,
        reason=row.reason,
        created=iso(row.created),
        ended=moment(row.ended),
        change=of_change(row.change) if row.change else None,
        runs=tuple(of_run(each, public_url=public_url) for each in runs),
        report=of_report(written) if written else None,
    )


def _event_fields(row: event.Event) -> dict[str, object]:
    return {
        "id": row.id,
        "forge": row.forge,
        "session": row.session,
        "position": row.position,
        "heard": iso(row.heard),
        "kind": row.kind.value,
        "type": row.type,
        "author": row.author,
        "comment": row.comment,
        "project": row.project,
        "number": row.number,
        "change": of_change(row.change) if row.change else None,
        "state": row.state.value,
        "outcome": row.outcome,
        "whys": tuple(shapes.Why(job=why.job, runs=why.runs, reason=why.reason, where=why.where) for why in row.whys),
        "round": row.round,
    }


def of_event(row: event.Event) -> shapes.Event:
    return shapes.Event(**_event_fields(row))  # type: ignore[arg-type]


def of_event_detail(row: event.Event) -> shapes.EventDetail:
    return shapes.EventDetail(**_event_fields(row), raw=row.raw)  # type: ignore[arg-type]


def of_token(row: Token) -> shapes.Token:
    return shapes.Token(
        name=row.id,
        role=row.role.value,
        created=iso(row.created),
        expires=moment(row.expires),
        revoked=moment(row.revoked),
    )
