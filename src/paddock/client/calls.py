"""The HTTP API as values: each call names method, path, body and shape of the answer."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar
from urllib.parse import quote

from paddock.wire import shapes

API = "/api/v1"

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class Call(Generic[S]):
    """One request. `shape` is what its answer is read as. `wait`: seconds that the server may take on purpose.

    `is_safe`: sent again after a connection that broke, because twice is the same as once.
    """

    method: str
    path: str
    shape: type[S]
    body: object = None
    query: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    wait: float = 0.0
    is_safe: bool = False


def _read(path: str, shape: type[S], *, wait: float = 0.0, **query: object) -> Call[S]:
    said = {key: str(value) for key, value in query.items() if value not in (None, "")}
    if wait:
        said["wait"] = f"{wait:g}"
    return Call(method="GET", path=f"{API}{path}", shape=shape, query=said, wait=wait, is_safe=True)


def _ask(path: str, shape: type[S], body: object = None, *, wait: float = 0.0, is_safe: bool = False) -> Call[S]:
    told = {} if body is None else shapes.plain(body)
    return Call(method="POST", path=f"{API}{path}", shape=shape, body=told, wait=wait, is_safe=is_safe)


def _part(text: str) -> str:
    """One segment of a path, whatever somebody typed."""
    return quote(text, safe="")


def whoami() -> Call[shapes.Whoami]:
    return _read("/whoami", shapes.Whoami)


# ---- leases ----------------------------------------------------------------------------------------------------------


def acquire(pool: str, *, ttl: float | None = None, holder: str = "", wait: float = 0.0) -> Call[shapes.Lease]:
    """Ask for an environment. Granted, queued or impossible; `wait` seconds (at most 60) for the grant.

    Without a ttl it lasts as long as its pool says, or an hour.
    """
    body = shapes.AcquireLease(pool=pool, ttl=ttl, holder=holder, wait=wait)
    return _ask("/leases", shapes.Lease, body, wait=wait)


def leases(
    *, below: str | None = None, state: str = "", pool: str = "", limit: int | None = None
) -> Call[shapes.Leases]:
    return _read("/leases", shapes.Leases, below=below, state=state, pool=pool, limit=limit)


def lease(id: str, *, wait: float = 0.0) -> Call[shapes.Lease]:
    """One lease; with `wait`, answered when it stops being queued or after so many seconds."""
    return _read(f"/leases/{_part(id)}", shapes.Lease, wait=wait)


def why(id: str) -> Call[shapes.WhyLease]:
    return _read(f"/leases/{_part(id)}/why", shapes.WhyLease)


def renew(id: str, *, fence: int, ttl: float | None = None) -> Call[shapes.Lease]:
    body = shapes.RenewLease(fence=fence, ttl=ttl)
    return _ask(f"/leases/{_part(id)}/renew", shapes.Lease, body, is_safe=True)


def release(id: str, *, fence: int) -> Call[shapes.Lease]:
    """Give it back. Released before under the same fence is the same answer again."""
    return _ask(f"/leases/{_part(id)}/release", shapes.Lease, shapes.ReleaseLease(fence=fence), is_safe=True)


def cancel_lease(id: str) -> Call[shapes.Lease]:
    return _ask(f"/leases/{_part(id)}/cancel", shapes.Lease)


# ---- environments and hosts ------------------------------------------------------------------------------------------


def environments(*, below: str | None = None, state: str = "", pool: str = "") -> Call[shapes.Environments]:
    return _read("/environments", shapes.Environments, below=below, state=state, pool=pool)


def environment(id: str) -> Call[shapes.EnvironmentDetail]:
    return _read(f"/environments/{_part(id)}", shapes.EnvironmentDetail)


def hold(id: str, *, ttl: float, disks: bool = False) -> Call[shapes.Environment]:
    """Keep it for a person; `disks`: only copies of its disks, to be brought up again with `fork`."""
    return _ask(f"/environments/{_part(id)}/hold", shapes.Environment, shapes.HoldEnvironment(ttl=ttl, disks=disks))


def fork(id: str, *, ttl: float | None = None, holder: str = "", wait: float = 0.0) -> Call[shapes.Lease]:
    """A lease of a new environment, booted cold from the disks that this one saved."""
    body = shapes.ForkEnvironment(ttl=ttl, holder=holder, wait=wait)
    return _ask(f"/environments/{_part(id)}/fork", shapes.Lease, body, wait=wait)


def power(
    id: str, machine: str, action: str, *, boot: Sequence[str] = (), fence: int | None = None, name: str | None = None
) -> Call[shapes.AgentCommand]:
    """on | off | shutdown | reset. The command is its host's agent's; `name` is its id, as in `order`."""
    body = shapes.PowerMachine(action=action, boot=tuple(boot), fence=fence, id=name)
    return _ask(_machine(id, machine, "power"), shapes.AgentCommand, body, is_safe=name is not None)


def console(
    id: str,
    machine: str,
    *,
    offset: int = 0,
    seconds: float | None = None,
    fence: int | None = None,
    name: str | None = None,
) -> Call[shapes.AgentCommand]:
    """Follow its serial line: read the command's `output`, and cancel the command when done."""
    body = shapes.FollowConsole(offset=offset, seconds=seconds, fence=fence, id=name)
    return _ask(_machine(id, machine, "console"), shapes.AgentCommand, body, is_safe=name is not None)


def type_on(
    id: str, machine: str, data: bytes, *, fence: int | None = None, name: str | None = None
) -> Call[shapes.AgentCommand]:
    """Say something on its serial line, at most 4 KiB."""
    body = shapes.TypeMachine(data=b64encode(data).decode("ascii"), fence=fence, id=name)
    return _ask(_machine(id, machine, "type"), shapes.AgentCommand, body, is_safe=name is not None)


def screenshot(
    id: str, machine: str, *, fence: int | None = None, name: str | None = None
) -> Call[shapes.AgentCommand]:
    """What its display shows: the command's result has `png`, in base64."""
    body = shapes.ScreenshotMachine(fence=fence, id=name)
    return _ask(_machine(id, machine, "screenshot"), shapes.AgentCommand, body, is_safe=name is not None)


def _machine(id: str, machine: str, what: str) -> str:
    return f"/environments/{_part(id)}/machines/{_part(machine)}/{what}"


def images() -> Call[shapes.Images]:
    """What is configured, and what each host has of it."""
    return _read("/images", shapes.Images)


def image(name: str) -> Call[shapes.Image]:
    return _read(f"/images/{_part(name)}", shapes.Image)


def build_image(name: str, *, host: str = "") -> Call[shapes.Image]:
    """Build it, or build it anew although nothing that is configured changed."""
    return _ask(f"/images/{_part(name)}/build", shapes.Image, shapes.BuildImage(host=host))


def collect_images(
    *, host: str = "", unused: float | None = None, room: int | None = None, dry_run: bool = False
) -> Call[shapes.AgentCommands]:
    """Remove what nobody needs; a command a host, whose result says what went or would go."""
    body = shapes.CollectImages(host=host, unused=unused, room=room, dry_run=dry_run)
    return _ask("/images/collect", shapes.AgentCommands, body)


def image_log(id: str, *, offset: int = 0, wait: float = 0.0) -> "Call[Piece]":
    """The log of a build, of `IMAGE@HOST` or of an image that one host has; with `wait`, as soon as there is more."""
    return _read(f"/images/{_part(id)}/log", Piece, wait=wait, offset=offset)


def release_environment(id: str) -> Call[shapes.Environment]:
    return _ask(f"/environments/{_part(id)}/release", shapes.Environment)


def quarantine(id: str, *, reason: str) -> Call[shapes.Environment]:
    return _ask(f"/environments/{_part(id)}/quarantine", shapes.Environment, shapes.Because(reason=reason))


def clean(id: str) -> Call[shapes.Environment]:
    return _ask(f"/environments/{_part(id)}/clean", shapes.Environment)


def hosts(*, below: str | None = None) -> Call[shapes.Hosts]:
    return _read("/hosts", shapes.Hosts, below=below)


def host(name: str) -> Call[shapes.HostDetail]:
    return _read(f"/hosts/{_part(name)}", shapes.HostDetail)


def drain_host(name: str) -> Call[shapes.Host]:
    return _ask(f"/hosts/{_part(name)}/drain", shapes.Host)


def resume_host(name: str) -> Call[shapes.Host]:
    return _ask(f"/hosts/{_part(name)}/resume", shapes.Host)


def agents(*, below: str | None = None) -> Call[shapes.Agents]:
    return _read("/agents", shapes.Agents, below=below)


def agent(id: str) -> Call[shapes.AgentDetail]:
    return _read(f"/agents/{_part(id)}", shapes.AgentDetail)


# ---- commands to agents ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Bytes of a stream from `offset` on. `is_last`: nothing follows them."""

    data: bytes
    offset: int
    length: int
    """How long the stream is by now."""
    is_last: bool


def order(agent: str, method: str, params: Mapping[str, object], *, id: str | None = None) -> Call[shapes.AgentCommand]:
    """Have an agent do something. With an id it may be asked again after a lost answer: it is the same command."""
    body = shapes.OrderCommand(method=method, params=params, id=id)
    return _ask(f"/agents/{_part(agent)}/commands", shapes.AgentCommand, body, is_safe=id is not None)


def commands(
    agent: str, *, below: str | None = None, state: str = "", limit: int | None = None
) -> Call[shapes.AgentCommands]:
    path = f"/agents/{_part(agent)}/commands"
    return _read(path, shapes.AgentCommands, below=below, state=state, limit=limit)


def command(agent: str, id: str, *, wait: float = 0.0) -> Call[shapes.AgentCommand]:
    """One command; with `wait`, answered when it is over or after so many seconds."""
    return _read(f"/agents/{_part(agent)}/commands/{_part(id)}", shapes.AgentCommand, wait=wait)


def output(agent: str, id: str, *, stream: str = "out", offset: int = 0, wait: float = 0.0) -> Call[Piece]:
    """What it printed, or a file that it brought; with `wait`, as soon as there is more than `offset` bytes."""
    path = f"/agents/{_part(agent)}/commands/{_part(id)}/output"
    return _read(path, Piece, wait=wait, stream=stream, offset=offset)


def cancel_command(agent: str, id: str, *, grace: float | None = None) -> Call[shapes.AgentCommand]:
    body = shapes.CancelCommand(grace=grace)
    return _ask(f"/agents/{_part(agent)}/commands/{_part(id)}/cancel", shapes.AgentCommand, body)


def agent_log(
    agent: str, *, level: str = "debug", cursor: int | None = None, limit: int = 200, wait: float = 0.0
) -> Call[shapes.AgentLines]:
    """The last lines of an agent's own log; with a cursor those that came since, with `wait` once there are some."""
    path = f"/agents/{_part(agent)}/log"
    return _read(path, shapes.AgentLines, wait=wait, level=level, cursor=cursor, limit=limit)


def alerts(
    *, below: str | None = None, agent: str = "", states: Sequence[str] = (), limit: int | None = None
) -> Call[shapes.Alerts]:
    """What agents want a person to know; without states what is not over."""
    call = _read("/alerts", shapes.Alerts, below=below, agent=agent, limit=limit)
    return replace(call, query={**call.query, "state": tuple(states)}) if states else call


def acknowledge(alert: str) -> Call[shapes.Alert]:
    return _ask(f"/alerts/{_part(alert)}/acknowledge", shapes.Alert, is_safe=True)


def programs() -> Call[shapes.Programs]:
    """The agent's program in each form that the server offers."""
    return _read("/programs", shapes.Programs)


# ---- runs, rounds, changes, events -----------------------------------------------------------------------------------


def runs(
    *, below: str | None = None, state: str = "", job: str = "", project: str = "", limit: int | None = None
) -> Call[shapes.Runs]:
    return _read("/runs", shapes.Runs, below=below, state=state, job=job, project=project, limit=limit)


def run(id: str) -> Call[shapes.RunDetail]:
    return _read(f"/runs/{_part(id)}", shapes.RunDetail)


def retry(id: str) -> Call[shapes.Run]:
    return _ask(f"/runs/{_part(id)}/retry", shapes.Run)


def cancel_run(id: str, *, reason: str = "") -> Call[shapes.Run]:
    return _ask(f"/runs/{_part(id)}/cancel", shapes.Run, shapes.Because(reason=reason))


def lines(id: str, *, machine: str = "", cursor: str = "", limit: int = 1000, wait: float = 0.0) -> Call[shapes.Lines]:
    """Lines of all logs of a run in the order of time, from `cursor` on; with `wait`, as soon as there are some.

    The cursor `end` begins with about the last `limit` lines.
    """
    return _read(f"/runs/{_part(id)}/lines", shapes.Lines, wait=wait, cursor=cursor, limit=limit, machine=machine)


def round(id: str) -> Call[shapes.Round]:
    return _read(f"/rounds/{_part(id)}", shapes.Round)


def change(forge: str, number: int) -> Call[shapes.ChangeDetail]:
    return _read(f"/changes/{_part(forge)}/{number}", shapes.ChangeDetail)


def events(
    *, below: str | None = None, state: str = "", project: str = "", limit: int | None = None
) -> Call[shapes.Events]:
    return _read("/events", shapes.Events, below=below, state=state, project=project, limit=limit)


def event(id: str) -> Call[shapes.EventDetail]:
    return _read(f"/events/{_part(id)}", shapes.EventDetail)


def reports(*, below: str | None = None) -> Call[shapes.Reports]:
    return _read("/reports", shapes.Reports, below=below)


# ---- operating -------------------------------------------------------------------------------------------------------


def tokens(*, below: str | None = None) -> Call[shapes.Tokens]:
    return _read("/tokens", shapes.Tokens, below=below)


def create_token(name: str, *, role: str, ttl: float | None = None) -> Call[shapes.MadeToken]:
    return _ask("/tokens", shapes.MadeToken, shapes.NewToken(name=name, role=role, ttl=ttl))


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """The answer of a call that has nothing to tell."""


def revoke_token(name: str) -> Call[Nothing]:
    return Call(method="DELETE", path=f"{API}/tokens/{_part(name)}", shape=Nothing)


def enrol(host: str, *, ttl: float) -> Call[shapes.MadeEnrolment]:
    return _ask("/enrolments", shapes.MadeEnrolment, shapes.NewEnrolment(host=host, ttl=ttl))


def drain() -> Call[shapes.Drain]:
    return _ask("/drain", shapes.Drain)
