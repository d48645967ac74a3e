"""The shape of each item of a settings file: its keys, their types, defaults and meanings."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from paddock.core.configuration import Keep as CoreKeep
from paddock.core.configuration import Server as CoreServer
from paddock.core.job import Limits as CoreLimits
from paddock.core.job import Sizes as CoreSizes
from paddock.settings import scalars

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


class Host(Shape):
    """A machine whose agent carries environments."""

    name: scalars.Name = Field(description="name of the host; its agent enrols under it")
    skills: Annotated[list[Literal["local"]], Field(min_length=1)] = Field(
        description="`local`: a machine is a directory and a process"
    )
    isolation: Literal["none"] = Field(
        "none", description="what keeps a job from the host: with the skill `local` there is nothing"
    )


class Machine(Shape):
    name: scalars.MachineName = Field(description="unique in its environment")


class Environment(Shape):
    """A pool of environments: machines that are lent as one."""

    name: scalars.Name = Field(description="name of the pool")
    machines: Annotated[list[Machine], Field(min_length=1, max_length=64)] = Field(description="what one is made of")
    host: scalars.Name = Field(description="the host that carries them")
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


Env = dict[scalars.VariableName, scalars.VariableText]


class Step(Shape):
    script: scalars.Name | None = Field(None, description="name of a script; either this or `run`")
    run: scalars.Text | None = Field(None, description="the script itself")
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
    before: list[Step] = Field([], description="steps that prepare: one that does not exit 0 makes the run an `error`")
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
    "environment": Environment,
    "script": Script,
    "job": Job,
    "project": Project,
}
"""The items that a file may list, in the order in which the reference explains them."""

FORGES = ("gerrit", "replay")
