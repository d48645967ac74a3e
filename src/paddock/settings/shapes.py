"""The shape of each item of a settings file: its keys, their types, defaults and meanings."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from paddock.core.configuration import Keep as CoreKeep
from paddock.core.configuration import Server as CoreServer
from paddock.core.environment import Hold as CoreHold
from paddock.core.image import Image as CoreImage
from paddock.core.job import Limits as CoreLimits
from paddock.core.job import Sizes as CoreSizes
from paddock.core.machine import NetworkSettings
from paddock.core.machine import Overcommit as CoreOvercommit
from paddock.settings import scalars

_OVERCOMMIT, _IMAGE, _HOLD, _NETWORK = CoreOvercommit(), CoreImage(name=""), CoreHold(), NetworkSettings(name="")
_KEEP, _SERVER, _LIMITS, _SIZES = CoreKeep(), CoreServer(), CoreLimits(), CoreSizes()


class Shape(BaseModel):
    """A mapping whose keys are all known, in the file's spelling: `host-key`, not `host_key`."""

    model_config = ConfigDict(
        alias_generator=lambda name: name.replace("_", "-"),
        extra="forbid",
        frozen=True,
        strict=True,
    )


class Keep(Shape):
    runs: scalars.Age = Field(_KEEP.runs, description="ended runs with their logs, artifacts and reports")
    events: scalars.Age = Field(_KEEP.events, description="events that were heard and what became of them")


class Tls(Shape):
    certificate: scalars.Text = Field(description="file with the certificate and its chain (PEM)")
    key: scalars.Text = Field(description="file with its private key (PEM)")


class Server(Shape):
    """The server itself. At most one; without it everything has its default."""

    public_url: scalars.Url | None = Field(
        None, description="where people reach the pages; stands in reports. Default: made from `listen`"
    )
    listen: scalars.Listen = Field(_SERVER.listen, description="address and port of pages, API and agents")
    state: scalars.Text = Field("paddock-state", description="directory of the database, the archive and the tokens")
    store: scalars.Store | None = Field(
        None, description="the database: `postgresql://...` or `sqlite:///...`. Default: SQLite in `state`"
    )
    keep: Keep = Field(default_factory=lambda: Keep.model_validate({}), description="how long ended things are kept")
    host_grace: scalars.Limit = Field(
        _SERVER.host_grace, description="how long an agent may stay away before what it carried counts as lost"
    )
    heartbeat: scalars.Heartbeat = Field(
        _SERVER.heartbeat,
        description="silence of an agent's connection after which either side asks whether the other is still there; "
        "three unanswered in a row end it",
    )
    access: Literal["public", "private"] = Field(
        "public", description="who reads pages and logs: anyone, or whoever has a token"
    )
    tls: Tls | None = Field(None, description="certificate and key with which the server speaks TLS itself")
    insecure: bool = Field(
        default=False, description="`true` lets the server listen beyond loopback without TLS, where a proxy speaks it"
    )


class Ssh(Shape):
    host: Annotated[scalars.Text, Field(pattern=r"^[A-Za-z0-9\[][A-Za-z0-9.:\]_-]*$")] = Field(
        description="name or address of the Gerrit"
    )
    port: scalars.Port = Field(29418, description="port of its SSH daemon")
    user: scalars.Account = Field(description="our account there, which may stream events and review")
    key: scalars.Text = Field(description="file with the account's private key")
    host_key: scalars.HostKey = Field(
        description="the Gerrit's public key, `ssh-ed25519 AAAA...`, or a known_hosts file that has it"
    )


class Report(Shape):
    vote: Literal["none", "plus-one-only", "full"] = Field(
        "none", description="`none` never votes, `plus-one-only` never against a change, `full` does both"
    )
    label: Annotated[scalars.Text, Field(pattern=r"^[A-Za-z0-9-]+$")] = Field(
        "Verified", description="the label that is voted on"
    )
    contact: scalars.Text | None = Field(None, description="where people complain about this CI; stands in reports")


class Triggers(Shape):
    name: scalars.Name = Field(description="what this forge is called here")
    recheck: list[scalars.Expression] = Field(
        ["^recheck$"],
        description="expressions, searched in each line of a comment below its `Patch Set N:` header",
    )
    bots: list[scalars.Account] = Field(
        [], description="accounts of other programs: like our own account's, their events never trigger"
    )
    report: Report = Field(default_factory=lambda: Report.model_validate({}), description="how results are told")
    sources: scalars.Sources | None = Field(
        None, description="where machines fetch a project from: an address with `{project}` in it"
    )


class Gerrit(Triggers):
    """A Gerrit (2.8 or later) that is listened to over SSH and reported to."""

    ssh: Ssh = Field(description="how to reach it")


class Replay(Triggers):
    """A recorded stream of Gerrit, played as a forge; reports go nowhere but to the pages."""

    file: scalars.Text = Field(description="the stream: one JSON object a line")
    account: scalars.Account = Field("paddock", description="our own account in the stream")


class Overcommit(Shape):
    memory: scalars.Factor = Field(_OVERCOMMIT.memory, description="times the host's memory; forks share what is equal")
    vcpus: scalars.Factor = Field(_OVERCOMMIT.vcpus, description="times its virtual processors")
    disk: scalars.Factor = Field(_OVERCOMMIT.disk, description="times its disk; clones take what they write")


def _overcommit(value: object) -> object:
    """One number is all three."""
    return dict.fromkeys(("memory", "vcpus", "disk"), value) if isinstance(value, int | str) else value


class Host(Shape):
    """A machine whose agent carries environments."""

    name: scalars.Name = Field(description="name of the host; its agent enrols under it")
    skills: Annotated[list[Literal["local", "hypervisor"]], Field(min_length=1)] = Field(
        description="`local`: a machine is a directory and a process; `hypervisor`: a virtual machine made of an image"
    )
    isolation: Literal["none"] | None = Field(
        None,
        description="what keeps a job from the host: the machines of `hypervisor`, nothing with `local`. "
        "`none` says that there is nothing",
    )
    labels: list[scalars.Name] = Field([], description="what environments ask for that name no host")
    memory: scalars.Size | None = Field(
        None, description="what all its machines may have together. Default: what its agent says. So with the next two"
    )
    vcpus: Annotated[int, Field(ge=1, le=100_000)] | None = Field(None, description="virtual processors")
    disk: scalars.Size | None = Field(None, description="images, disks of machines, and saved ones")
    overcommit: Annotated[Overcommit, BeforeValidator(_overcommit, json_schema_input_type=int | str | Overcommit)] = (
        Field(
            default_factory=lambda: Overcommit.model_validate({}),
            description="how many times of that may be booked: one number, or one for each",
        )
    )


Env = dict[scalars.VariableName, scalars.VariableText]


class BuildScript(Shape):
    script: scalars.Name | None = Field(None, description="name of a script; either this or `run`")
    run: scalars.Text | None = Field(None, description="the script itself")
    name: scalars.Name | None = Field(
        None, description="what pages and logs call its layer. Default: the script's name"
    )
    interpreter: scalars.Text | None = Field(None, description="the program that runs it. Default: `/bin/sh -e`")
    env: Env = Field({}, description="its variables")
    files: dict[scalars.Absolute, scalars.Text] = Field(
        {}, description="what is put into the machine before: path there → file here, text of at most 256 KiB"
    )


def _script(value: object) -> object:
    return {"script": value} if isinstance(value, str) else value


class Image(Shape):
    """A disk to clone: fetched, or made of another image; each script is one layer, kept until it changes."""

    name: scalars.Name = Field(description="what machines and other images call it")
    url: scalars.Download | None = Field(
        None, description="where its host fetches it: qcow2 or raw, plain or packed (gz, xz, zst)"
    )
    path: scalars.Absolute | None = Field(None, description="or the file on its host")
    parent: scalars.Name | None = Field(None, description="or the image that it is made of")
    sha256: scalars.Sha256 | None = Field(None, description="of what `url` or `path` holds, as it is there")
    size: scalars.Size | None = Field(None, description="of its disk. Default: as large as what it is made of")
    scripts: list[Annotated[BuildScript, BeforeValidator(_script, json_schema_input_type=str | BuildScript)]] = Field(
        [], description="what makes it, in order; a plain name is a script's"
    )
    memory: scalars.Size = Field(_IMAGE.memory, description="of the machine that builds it")
    vcpus: Annotated[int, Field(ge=1, le=256)] = Field(_IMAGE.vcpus, description="of the machine that builds it")
    limit: scalars.Limit = Field(_IMAGE.limit, description="for each script, its machine's boot included")
    egress: Annotated[list[scalars.Door], Field(max_length=200)] = Field(
        [],
        description="what its scripts may reach outside while it is built, as `HOST:PORT` or `*.DOMAIN:PORT`. "
        "Default: nothing",
    )
    entry: Literal["nocloud", "helper", "none"] = Field(
        _IMAGE.entry.value,
        description="how our agent gets into a `url` or `path`: by its cloud-init, by a helper machine, or it is in it",
    )
    kernel: scalars.Absolute | None = Field(
        None, description="a file on its host that is booted directly, for a disk without a boot loader"
    )
    initrd: scalars.Absolute | None = Field(None, description="with the kernel: its first file system")
    cmdline: scalars.Text | None = Field(None, description="with the kernel: its command line")
    warm_up: scalars.Text | None = Field(
        None, description="a script that is run in a booted machine before it is frozen, for forks to find done"
    )
    restart: list[scalars.Name] = Field([], description="services that are started anew in a fork")


class Nic(Shape):
    network: scalars.MachineName | None = Field(
        None, description="a network of the environment. Default: connected to nothing"
    )
    mac: scalars.Mac | None = Field(None, description="its address. Default: made of the environment's name")


def _nic(value: object) -> object:
    return {"network": value} if isinstance(value, str) else value


class Machine(Shape):
    name: scalars.MachineName = Field(description="unique in its environment")
    image: scalars.Name | None = Field(None, description="what it is made of, on a host with the skill `hypervisor`")
    memory: scalars.Size | None = Field(None, description="what it has. Default: 1GiB")
    vcpus: Annotated[int, Field(ge=1, le=256)] | None = Field(None, description="processors. Default: 1")
    disks: Annotated[list[scalars.Size], Field(max_length=16)] = Field([], description="blank disks beside its own")
    nets: Annotated[
        list[Annotated[Nic, BeforeValidator(_nic, json_schema_input_type=str | Nic)]], Field(max_length=16)
    ] = Field([], description="its network cards; a plain name is a network's")
    count: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="more than one of `node` are `node-1`, `node-2`..."
    )
    display: bool = Field(default=False, description="`true`: it has a screen, to be looked at")
    boot: Annotated[list[Literal["disk", "network"]], Field(min_length=1, max_length=2)] | None = Field(
        None, description="boot order. Default: disk"
    )


class Network(Shape):
    name: scalars.MachineName = Field(description="what cards call it; nobody else is on it")
    subnet: scalars.Subnet | None = Field(
        None,
        description="where machines have their addresses. Default: 192.168.80.0/24, the next one 192.168.81.0/24...",
    )
    latency: scalars.Latency = Field(_NETWORK.latency, description="of each frame, one way: `20ms`")
    loss: scalars.Loss = Field(_NETWORK.loss, description="share of frames that are lost: `5%`")
    rate: scalars.Size | None = Field(None, description="bytes a second that each machine may send: `1MiB`")
    bridge: Annotated[scalars.Text, Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$")] | None = Field(
        None, description="an existing bridge of the host instead, which its agent's configuration must allow"
    )


class Hold(Shape):
    longest: scalars.Age = Field(_HOLD.longest, description="how long one may be held")
    space: scalars.Size | None = Field(
        None, description="of all disks of this pool that are saved. Default: as much as its host has"
    )


class Environment(Shape):
    """A pool of environments: machines that are lent as one."""

    name: scalars.Name = Field(description="name of the pool")
    machines: Annotated[list[Machine], Field(min_length=1, max_length=64)] = Field(description="what one is made of")
    networks: Annotated[list[Network], Field(max_length=16)] = Field([], description="its private networks")
    host: scalars.Name | None = Field(None, description="the host that carries them")
    labels: list[scalars.Name] = Field(
        [], description="or what a host has to have that carries them. Neither: any host with the skill `hypervisor`"
    )
    start: Literal["fork", "boot"] = Field(
        "fork", description="how machines come to life: from the frozen memory of a warm one, or cold"
    )
    egress: Annotated[list[scalars.Door], Field(max_length=200)] = Field(
        [], description="what machines may reach outside, as `HOST:PORT` or `*.DOMAIN:PORT`. Default: nothing"
    )
    ttl: scalars.Limit | None = Field(
        None, description="of leases from outside: the longest, and what one gets who does not say. Default: 7d and 1h"
    )
    hold: Hold = Field(default_factory=lambda: Hold.model_validate({}), description="how much may be kept for a person")
    max: Annotated[int, Field(ge=1, le=1000)] = Field(1, description="how many there may be at once")
    min_ready: Annotated[int, Field(ge=0, le=1000)] = Field(0, description="how many are kept ready ahead of demand")
    reset: Literal["clean", "none"] = Field(
        "clean",
        description="what makes one lendable again: its host's agent cleans it; `none` for a mere reservation",
    )


class Script(Shape):
    """A named script, which steps of jobs refer to."""

    name: scalars.Name = Field(description="what steps call it")
    run: scalars.Text = Field(description="the script itself")
    interpreter: scalars.Text = Field("/bin/sh -e", description="the program that runs it, and its options")


class Kexec(Shape):
    kernel: scalars.Absolute = Field(description="the kernel's file on the machine")
    initrd: scalars.Absolute | None = Field(None, description="its first file system")
    cmdline: scalars.Text | None = Field(None, description="its command line. Default: the one that runs now")


class Step(Shape):
    script: scalars.Name | None = Field(
        None, description="name of a script; a step has one of this, `run`, `reboot`, `kexec` and `power`"
    )
    run: scalars.Text | None = Field(None, description="the script itself")
    reboot: bool = Field(
        default=False, description="`true`: the machines boot anew; done when all their agents are back"
    )
    kexec: Kexec | None = Field(None, description="the same, into another kernel, past firmware and boot loader")
    power: Literal["off", "shutdown", "on", "reset"] | None = Field(
        None,
        description="press their buttons: `off` as in a power cut, `shutdown` as one asks for it; after `on` and "
        "`reset` it is done when all their agents are back",
    )
    boot: Annotated[list[Literal["disk", "network"]], Field(max_length=2)] = Field(
        [], description="with `power`: the boot order from then on"
    )
    within: scalars.Limit | None = Field(
        None, description="with `reboot`, `kexec` and `power`: how long it may take. Default: 10m"
    )
    on: scalars.OneOrMany | None = Field(None, description="the machines that run it, at once. Default: all")
    name: scalars.Name | None = Field(None, description="what pages and logs call it. Default: the script's name")
    env: Env = Field({}, description="variables of this step, over the job's")
    background: bool = Field(
        default=False,
        description="`true`: the next step starts at once, and this one is ended after the last of `steps`",
    )
    interpreter: scalars.Text | None = Field(None, description="the program that runs it. Default: `/bin/sh -e`")


class Limits(Shape):
    hello: scalars.Limit = Field(_LIMITS.hello, description="until all machines' agents said hello")
    sources: scalars.Limit = Field(_LIMITS.sources, description="until the revision is checked out everywhere")
    before: scalars.Limit = Field(_LIMITS.before, description="all steps of `before`")
    after: scalars.Limit = Field(_LIMITS.after, description="all steps of `after`")
    collect: scalars.Limit = Field(_LIMITS.collect, description="fetching results and artifacts")


class Sizes(Shape):
    log: scalars.Size = Field(_SIZES.log, description="output of one step on one machine")
    file: scalars.Size = Field(_SIZES.file, description="one artifact")
    run: scalars.Size = Field(_SIZES.run, description="all artifacts of one machine")
    files: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        _SIZES.files, description="number of artifacts of one machine"
    )


class Job(Shape):
    """What to run for a change. `noop` is built in: no environment, success."""

    name: scalars.Name = Field(description="name of the job")
    environment: scalars.Name = Field(description="the pool that lends it machines")
    trusted: bool = Field(default=False, description="`true`: changes of a forge may run where isolation is `none`")
    sources: bool = Field(
        default=False, description="`true`: the revision under test is checked out on every machine first"
    )
    before: list[Step] = Field(
        [],
        description="steps that prepare: one that does not exit 0 makes the run a `failure`, and `steps` are left out",
    )
    steps: list[Step] = Field([], description="the steps of the job: one that does not exit 0 makes it a `failure`")
    after: list[Step] = Field([], description="steps that run whatever happened")
    limit: scalars.Limit = Field(_LIMITS.main, description="all of `steps`")
    limits: Limits = Field(
        default_factory=lambda: Limits.model_validate({}), description="how long the other phases may take"
    )
    results: list[scalars.Glob] = Field([], description="JUnit files, as globs below `$PADDOCK_RESULTS`")
    artifacts: list[scalars.Glob] = Field([], description="files to keep, as globs below `$PADDOCK_RESULTS`")
    sizes: Sizes = Field(default_factory=lambda: Sizes.model_validate({}), description="how much of a run is kept")
    env: Env = Field({}, description="variables of all steps")
    hold_on_failure: scalars.HoldTime | None = Field(
        None,
        description="how long the environment of a run that fails is held instead of being cleaned, one a job at a "
        "time. Default: not at all",
    )
    hold_disks: bool = Field(
        default=False, description="with `hold-on-failure`: only its disks are kept, its machines let go"
    )


class Project(Shape):
    """Which jobs run for the changes of a project. Several entries may match one change: their jobs add up."""

    name: scalars.NameOrExpression = Field(
        description="exact name, or an expression for the whole name, beginning with `^`"
    )
    branches: list[scalars.NameOrExpression] = Field([], description="like `name`. Default: every branch")
    jobs: list[scalars.Name] = Field([], description="jobs whose verdict counts")
    non_voting_jobs: list[scalars.Name] = Field([], description="jobs that are reported, but do not count")
    on: Annotated[list[Literal["patchset-created", "recheck"]], Field(min_length=1)] = Field(
        ["patchset-created", "recheck"], description="what starts them"
    )
    forge: scalars.Name | None = Field(None, description="only changes of this forge. Default: of any")


ITEMS: dict[str, type[Shape]] = {
    "server": Server,
    "gerrit": Gerrit,
    "replay": Replay,
    "host": Host,
    "image": Image,
    "environment": Environment,
    "script": Script,
    "job": Job,
    "project": Project,
}
"""The items that a file may list, in the order in which the reference explains them."""

FORGES = ("gerrit", "replay")
