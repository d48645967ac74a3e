"""What the HTTP API says: plain dataclasses, written by the server, read by the client.

Moments are text in UTC (`2026-01-31T09:42:00.125Z`), durations are seconds, absent moments are null. Ids are text.
A list is `{"items": [...], "next": ID or null}`; `next` is what to give as `below` for the following page.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import TypeVar

from paddock.core.errors import Broken

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a request was not carried out. `code` is one word that programs may rely on."""

    code: str
    """bad_input | no_token | not_allowed | missing | refused | unknown_method | conflict | stale | too_large |
    wrong_method | broken."""
    message: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The body of every answer that is not a success."""

    error: Problem


@dataclass(frozen=True, kw_only=True)
class AcquireLease:
    """POST /leases."""

    pool: str
    ttl: float | None = None
    """Seconds until it expires unless renewed; 1 to 604800. Null: what the pool says, or 3600."""
    holder: str = ""
    """Who asks, for a person; empty: the token's name."""
    wait: float = 0.0
    """Seconds to wait for the grant before the answer, at most 60; the lease stays queued after it."""


@dataclass(frozen=True, kw_only=True)
class RenewLease:
    """POST /leases/{id}/renew."""

    fence: int
    ttl: float | None = None
    """Another length from now on, in seconds; null keeps the old one."""


@dataclass(frozen=True, kw_only=True)
class ReleaseLease:
    """POST /leases/{id}/release."""

    fence: int


@dataclass(frozen=True, kw_only=True)
class Lease:
    """queued | granted | released | expired | revoked | cancelled | impossible."""

    id: str
    pool: str
    holder: str
    owner: str
    run: str
    state: str
    environment: str
    fence: int
    ttl: float | None
    asked: str
    granted: str | None
    deadline: str | None
    ended: str | None
    reason: str
    fork_of: str = ""
    """The environment whose saved disks it wants, brought up again."""


@dataclass(frozen=True, kw_only=True)
class Leases:
    items: tuple[Lease, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class WhyLease:
    """What a lease waits for, in sentences for a person; an empty one has nothing to say."""

    lease: str
    state: str
    asked: str
    waits_for: str
    ahead: int
    """How many are granted before it."""
    next_free: str
    would_help: str


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One step that was made: who moved what from which state to which."""

    noun: str
    id: str
    at: str
    before: str
    after: str
    signal: str
    fence: int
    by: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Size:
    """What something takes of a host, or what a host has: bytes, count, bytes."""

    memory: int
    vcpus: int
    disk: int


@dataclass(frozen=True, kw_only=True)
class Nic:
    """A network card. Its network is empty where it is connected to nothing, its address where it has none."""

    network: str
    mac: str
    address: str


@dataclass(frozen=True, kw_only=True)
class Network:
    """A private network of an environment. Latency in seconds, loss from 0 to 1, rate in bytes a second; 0: none."""

    name: str
    subnet: str
    latency: float = 0.0
    loss: float = 0.0
    rate: int = 0
    bridge: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What follows the address is a virtual machine's; without an image it is a process on its host."""

    name: str
    agent: str
    address: str
    addresses: tuple[str, ...] = ()
    """Of its cards, in their order."""
    image: str = ""
    digest: str = ""
    """Of the image as it was built, where its disk comes from."""
    memory: int = 0
    vcpus: int = 0
    disks: tuple[int, ...] = ()
    """Sizes of its blank disks."""
    nics: tuple[Nic, ...] = ()
    display: bool = False
    start: str = ""
    """How it came to life: fork | boot."""
    why: str = ""
    """Why it was booted although a fork was wanted."""
    host_key: str = ""
    """Its public ssh host key."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """requested | building | ready | leased | held | saving | saved | dirty | cleaning | broken | quarantined | gone.

    A saved one has no machines any more, only copies of their disks.
    """

    id: str
    pool: str
    host: str
    state: str
    since: str
    fence: int
    lease: str
    machines: tuple[Machine, ...]
    held_by: str
    hold_until: str | None
    retiring: bool
    reason: str
    created: str | None
    size: Size | None = None
    """What is booked of its host for it; null where its machines are processes."""
    fork_of: str = ""
    """The environment from whose saved disks it was made."""
    saving: bool = False
    """Whether its disks are going to be kept once it is held, and its machines let go."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentDetail(Environment):
    history: tuple[Transition, ...]
    networks: tuple[Network, ...] = ()
    egress: tuple[str, ...] = ()
    """What its machines may reach outside."""


@dataclass(frozen=True, kw_only=True)
class Environments:
    items: tuple[Environment, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class HoldEnvironment:
    """POST /environments/{id}/hold."""

    ttl: float = 3600.0
    disks: bool = False
    """Keep copies of its disks and let its machines go, once it is held; `fork` brings them up again."""


@dataclass(frozen=True, kw_only=True)
class ForkEnvironment:
    """POST /environments/{id}/fork: a lease of a new environment, booted cold from the disks that this one saved."""

    ttl: float | None = None
    """Like a lease's."""
    holder: str = ""
    wait: float = 0.0
    """Seconds to wait for it, at most 60; the lease stays queued after it."""


@dataclass(frozen=True, kw_only=True)
class PowerMachine:
    """POST /environments/{id}/machines/{machine}/power."""

    action: str
    """on | off (as in a power cut) | shutdown (as one asks for it) | reset."""
    boot: tuple[str, ...] = ()
    """Boot order from now on: disk, network; empty: as it is."""
    fence: int | None = None
    """The fence under which whoever asks holds it: refused as stale where it is over. Null: the present one."""
    id: str | None = None
    """Names the command, as in POST /agents/{id}/commands. So in the next three."""


@dataclass(frozen=True, kw_only=True)
class FollowConsole:
    """POST /environments/{id}/machines/{machine}/console: its serial line as the command's output, until cancelled."""

    offset: int = 0
    """Begin at this byte of it."""
    seconds: float | None = None
    """Ends it by itself."""
    fence: int | None = None
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class TypeMachine:
    """POST /environments/{id}/machines/{machine}/type: say something on its serial line."""

    data: str
    """Base64, at most 4 KiB of bytes."""
    fence: int | None = None
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScreenshotMachine:
    """POST /environments/{id}/machines/{machine}/screenshot: the command's result is {png: base64, at}."""

    fence: int | None = None
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Because:
    """POST /environments/{id}/quarantine and /runs/{id}/cancel: why, for a person."""

    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Bytes of a host's disk that no environment owns."""

    images: int
    templates: int


@dataclass(frozen=True, kw_only=True)
class Host:
    """joining | online | draining | offline | lost."""

    name: str
    state: str
    since: str
    agent: str
    skills: tuple[str, ...]
    drained_by: str
    reason: str
    labels: tuple[str, ...] = ()
    capacity: Size | None = None
    """What may be booked on it in all, its overcommit included; null where nothing is booked, or not known yet."""
    booked: Size | None = None
    """By environments, images and templates, and by what builds them."""
    stored: Stored | None = None
    """What of it images and templates take, as its agent counted it last; null where it has not."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an image that was built."""

    digest: str
    image: str
    script: str
    """Empty: a base, the agent put in, or a larger disk."""
    bytes: int
    seconds: float
    built: str | None


@dataclass(frozen=True, kw_only=True)
class HostImage:
    """wanted | building | ready | failed. What served before goes on serving while it is not ready."""

    id: str
    """`IMAGE@HOST`."""
    image: str
    host: str
    state: str
    since: str
    serves: bool
    """Whether machines can be made from it now."""
    current: bool
    """Whether what serves is what is configured."""
    digest: str
    bytes: int
    """What it takes of the host's disk."""
    apparent: int
    """The size of its disk, as a machine sees it."""
    built: str | None
    layers: tuple[Layer, ...]
    attempts: int
    reason: str
    again: str | None
    """When a failed one is tried again by itself."""
    percent: float | None = None
    eta: float | None = None


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image as configured, and where it is."""

    name: str
    parent: str
    source: str
    """Its url or path; empty for one with a parent."""
    size: int
    """Bytes of its disk as configured; 0: as large as what it is made from."""
    scripts: tuple[str, ...]
    recipe: str
    """Named by the hash of all that it is made of, as far as the configuration says."""
    pools: tuple[str, ...]
    """Whose machines are made from it."""
    hosts: tuple[HostImage, ...]
    where: str


@dataclass(frozen=True, kw_only=True)
class Images:
    items: tuple[Image, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class BuildImage:
    """POST /images/{name}/build: build it, or build it anew although nothing that is configured changed."""

    host: str = ""
    """Empty: every host that has it; if none has, those that may carry one of its pools."""


@dataclass(frozen=True, kw_only=True)
class CollectImages:
    """POST /images/collect: remove layers and templates that nobody needs. The commands' results say what went."""

    host: str = ""
    """Empty: every host that has images."""
    unused: float | None = None
    """Only what was not used for so many seconds."""
    room: int | None = None
    """The longest unused first, until so many bytes are free."""
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class HostDetail(Host):
    environments: tuple[Environment, ...]
    images: tuple[HostImage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Hosts:
    items: tuple[Host, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class Command:
    """queued | sent | accepted | running | complete | failed. Its parameters are not told here."""

    id: str
    agent: str
    seq: int
    method: str
    state: str
    run: str
    environment: str
    fence: int
    phase: str | None
    step: int
    machine: str
    exit: int | None
    code: str
    message: str
    percent: float | None
    eta: float | None
    log: str
    """Name of its log in /runs/{run}/log/{name}, empty where it has none."""
    asked: str
    sent: str | None
    started: str | None
    ended: str | None


@dataclass(frozen=True, kw_only=True)
class Agent:
    """Kind: host | machine."""

    id: str
    name: str
    kind: str
    host: str
    environment: str
    machine: str
    software: str
    skills: tuple[str, ...]
    methods: tuple[str, ...]
    """All that it carries out, as it said in its last hello."""
    connected: bool
    shut_out: str
    boot_id: str
    seen: str | None
    created: str | None


@dataclass(frozen=True, kw_only=True)
class AgentDetail(Agent):
    commands: tuple[Command, ...]
    """The open ones."""
    log: tuple[str, ...]
    """Its last log lines, oldest first."""


@dataclass(frozen=True, kw_only=True)
class Agents:
    items: tuple[Agent, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class OrderCommand:
    """POST /agents/{id}/commands."""

    method: str
    """`script.run`, `file.put`...: one of the agent's `methods`; docs/methods.md says what each takes."""
    params: Mapping[str, object] = field(default_factory=dict)
    """As the table of methods has them, without `environment` and `fence`, which the server fills in."""
    id: str | None = None
    """Names the command: the same id again is the same command, and is not executed again. Absent: the server's own."""


@dataclass(frozen=True, kw_only=True)
class CancelCommand:
    """POST /agents/{id}/commands/{command}/cancel."""

    grace: float | None = None
    """Seconds between TERM and KILL; null: the agent's own 10."""


@dataclass(frozen=True, kw_only=True)
class AgentCommand:
    """queued | sent | accepted | running | complete | failed. A command that somebody, or the engine, gave an agent."""

    id: str
    agent: str
    seq: int
    method: str
    by: str
    """Who ordered it; empty: the engine, for a run or for upkeep."""
    run: str
    environment: str
    fence: int
    state: str
    code: str
    """Why it failed: interrupted, expired, cancelled, timed_out, refused..."""
    message: str
    result: Mapping[str, object]
    """What its method answers with; empty where it is not yours to see."""
    outputs: Mapping[str, int]
    """Stream → length in bytes, once it is over."""
    percent: float | None
    eta: float | None
    exit: int | None
    asked: str
    sent: str | None
    started: str | None
    ended: str | None


@dataclass(frozen=True, kw_only=True)
class AgentCommands:
    items: tuple[AgentCommand, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class Alert:
    """raised | acknowledged | over. Level: warning | error. One condition of one agent, however often it was told."""

    id: str
    agent: str
    name: str
    """What the agent calls the condition."""
    subject: str
    level: str
    state: str
    message: str
    at: str
    told: str
    """When it was told last."""
    count: int
    acknowledged: str | None
    acknowledged_by: str
    ended: str | None


@dataclass(frozen=True, kw_only=True)
class Alerts:
    items: tuple[Alert, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class Program:
    """The agent's program in one of its forms, as this server offers it."""

    name: str
    url: str
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Programs:
    items: tuple[Program, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class AgentLine:
    """One line of an agent's own log. Level: debug | info | warning | error; `at` is by the agent's clock."""

    at: str
    level: str
    message: str
    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class AgentLines:
    """Lines of an agent's own log, oldest first. Give `cursor` back to read on."""

    items: tuple[AgentLine, ...]
    cursor: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """queued | leasing | preparing | running | collecting | done; the verdict is final when it is done."""

    id: str
    round: str
    job: str
    attempt: int
    voting: bool
    forge: str
    project: str
    number: int
    patchset: int
    state: str
    verdict: str | None
    reason: str
    ending: str | None
    phase: str | None
    pool: str
    lease: str
    environment: str
    created: str
    started: str | None
    ended: str | None
    url: str


@dataclass(frozen=True, kw_only=True)
class Span:
    """When a phase lasted."""

    phase: str
    began: str
    ended: str | None


@dataclass(frozen=True, kw_only=True)
class Log:
    """One stream of a run: what one step printed on one machine."""

    name: str
    """`main-1-one`: phase, number of the step from 1, machine."""
    phase: str
    step: int
    title: str
    machine: str
    length: int
    ended: bool


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a log, escape sequences taken out. `at` is when it was written, as far as that is known."""

    stream: str
    machine: str
    offset: int
    at: str | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines of all streams of a run in the order of time. Give `cursor` back to read on."""

    items: tuple[Line, ...]
    cursor: str
    ended: bool
    """The run is done and nothing follows."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Outcome: passed | failed | error | skipped."""

    suite: str
    name: str
    outcome: str
    seconds: float
    message: str


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A collected file. Its path begins with the machine's name."""

    path: str
    size: int


@dataclass(frozen=True, kw_only=True)
class RunDetail(Run):
    spans: tuple[Span, ...]
    commands: tuple[Command, ...]
    logs: tuple[Log, ...]
    cases: tuple[Case, ...]
    problems: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    held_until: str | None = None
    """Until when its environment is kept, where its job wants that of what fails; null: it is not."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    items: tuple[Run, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """One patch set of one change."""

    forge: str
    project: str
    branch: str
    number: int
    patchset: int
    ref: str
    revision: str
    subject: str
    url: str
    owner: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """intended | sending | sent."""

    round: str
    forge: str
    message: str
    labels: Mapping[str, int]
    state: str
    created: str | None
    sent: str | None
    attempts: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Reports:
    items: tuple[Report, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class Round:
    """planned | running | reporting | done | superseded | cancelled."""

    id: str
    event: str
    forge: str
    project: str
    number: int
    patchset: int
    state: str
    reason: str
    created: str
    ended: str | None
    change: Change | None
    runs: tuple[Run, ...]
    report: Report | None


@dataclass(frozen=True, kw_only=True)
class Why:
    """Why a job runs, or does not."""

    job: str
    runs: bool
    reason: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """heard | planned | ignored."""

    id: str
    forge: str
    session: str
    position: int
    heard: str
    kind: str
    type: str
    author: str
    comment: str
    project: str
    number: int
    change: Change | None
    state: str
    outcome: str
    whys: tuple[Why, ...]
    round: str


@dataclass(frozen=True, kw_only=True)
class EventDetail(Event):
    raw: str
    """The line as the forge sent it."""


@dataclass(frozen=True, kw_only=True)
class Events:
    items: tuple[Event, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChangeDetail:
    """All that is known of a change: its rounds and events, newest first."""

    forge: str
    number: int
    project: str
    subject: str
    url: str
    rounds: tuple[Round, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True, kw_only=True)
class NewToken:
    """POST /tokens."""

    name: str
    role: str
    """lab | person | operator."""
    ttl: float | None = None


@dataclass(frozen=True, kw_only=True)
class Token:
    name: str
    role: str
    created: str
    expires: str | None
    revoked: str | None


@dataclass(frozen=True, kw_only=True)
class MadeToken:
    """The only answer that ever holds the secret."""

    name: str
    role: str
    secret: str


@dataclass(frozen=True, kw_only=True)
class Tokens:
    items: tuple[Token, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class NewEnrolment:
    """POST /enrolments."""

    host: str
    ttl: float = 3600.0


@dataclass(frozen=True, kw_only=True)
class MadeEnrolment:
    """A code with which one agent may join as the host; told once. `command` installs the agent and uses it."""

    host: str
    code: str
    ttl: float
    command: str = ""
    skills: tuple[str, ...] = ()
    """Those that the agent is to be told; empty: what it has by itself."""


@dataclass(frozen=True, kw_only=True)
class Drain:
    """What is still under way once no new run is started."""

    running: int
    waiting: int


@dataclass(frozen=True, kw_only=True)
class Whoami:
    """GET /whoami."""

    name: str
    role: str


def read(shape: type[S], value: object, *, path: str = "answer") -> S:
    """Read decoded JSON as a shape. Unknown fields are ignored; `Broken`, naming the field, where one does not fit."""
    if not isinstance(value, Mapping):
        raise Broken(f"{path}: {shape.__name__} is an object, not {type(value).__name__}")
    if not is_dataclass(shape):
        raise AssertionError(f"{shape.__name__} is no shape")
    wanted = typing.get_type_hints(shape)
    given: dict[str, object] = {}
    for each in fields(shape):
        if each.name in value:
            given[each.name] = _field(wanted[each.name], value[each.name], f"{path}.{each.name}")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise Broken(f"{path}.{each.name}: it is missing")
    return shape(**given)


def _field(wanted: object, value: object, path: str) -> object:
    origin, parts = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in parts:
            return None
        return _field(next(part for part in parts if part is not types.NoneType), value, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise Broken(f"{path}: it is a list, not {type(value).__name__}")
        return tuple(_field(parts[0], item, f"{path}[{index}]") for index, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise Broken(f"{path}: it is an object, not {type(value).__name__}")
        return {str(key): _field(parts[1], item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(wanted, type) and is_dataclass(wanted):
        return read(wanted, value, path=path)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(wanted, type) or not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise Broken(f"{path}: it is {getattr(wanted, '__name__', wanted)}, not {type(value).__name__}")
    return value


def plain(shape: object) -> object:
    """The shape as what JSON can hold. Cheaper than `dataclasses.asdict`, which copies every leaf."""
    if isinstance(shape, str | int | float | None):
        return shape
    if isinstance(shape, Mapping):
        return {key: plain(item) for key, item in shape.items()}
    if isinstance(shape, tuple | list):
        return [plain(item) for item in shape]
    if isinstance(shape, type) or not is_dataclass(shape):
        raise AssertionError(f"{type(shape).__name__} is no shape")
    return {each.name: plain(getattr(shape, each.name)) for each in fields(shape)}
