"""Which jobs an event starts, and why each of the others does not run."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paddock.core.configuration import Configuration, Forge, Project, ProjectJob
from paddock.core.event import Change, Event, Kind, Why
from paddock.core.round import LIFECYCLE, LIVE, Round, Signal

PATCHSET_CREATED = "patchset-created"
RECHECK = "recheck"
TRIGGERS = (PATCHSET_CREATED, RECHECK)
"""What a project may list under `on`."""

EVERY_JOB = "*"
"""The name in a Why that is about the event as a whole, whichever jobs there are."""

# Comments are written by strangers and searched by an operator's expressions: what is searched is bounded, so that an
# expression that backtracks costs milliseconds (the loader refuses those that would cost more).
LINE_MAX = 256
LINES_MAX = 200

_HEADER = re.compile(r"(?:Patch Set|Uploaded patch set) [0-9]+[:.]")
_COUNT = re.compile(r"\([0-9]+ (?:inline )?comments?\)")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What becomes of an event. Without jobs it is ignored, but older rounds may be superseded all the same."""

    outcome: str
    """For a person: the names of the jobs, or why nothing runs."""
    whys: tuple[Why, ...] = ()
    jobs: tuple[ProjectJob, ...] = ()
    supersedes: tuple[str, ...] = ()
    """Ids of rounds of lower patch sets of the same change that this event ends."""


def decide(event: Event, configuration: Configuration, live: Sequence[Round]) -> Plan:
    """Plan an event: kind, own account, bots, live rounds, then each job of each project that matches.

    `live` may hold any rounds; only live ones of the event's change count.
    """
    live = [round for round in live if round.state in LIVE and _is_of(round, event.change)]
    outdated = _outdated(event, live)
    ignored = _ignored_as_a_whole(event, configuration)
    if ignored is None and event.change is not None:
        ignored = _ignored_for_round(event.change, live)
    if ignored is not None:
        return _refuse(ignored, outdated)
    change = event.change
    if change is None:
        return _refuse(_every("it is not about a change"), outdated)
    whys, jobs = _judge_jobs(event, change, configuration)
    if not whys:
        return _refuse(_every(f"no project {change.project}"), outdated)
    if not jobs:
        return Plan(outcome=_sum_up(whys), whys=whys, supersedes=outdated)
    return Plan(
        outcome=", ".join(job.job for job in jobs),
        whys=whys,
        jobs=jobs,
        supersedes=tuple(round.id for round in live if _may_be_superseded(round)),
    )


def recheck_of(comment: str, expressions: Sequence[str]) -> str:
    """The first expression that a line of the comment matches, or "".

    Searched are the lines below Gerrit's own header (`Patch Set 3: Verified+1`, `(2 comments)`), without the quoted
    ones (`> recheck` repeats what somebody else asked) and without the space at their ends.
    """
    lines = list(_asked(comment))
    return next((one for one in expressions if any(re.search(one, line) for line in lines)), "")


def matches(pattern: str, name: str) -> bool:
    """Whether a name is the pattern, or matches it as a whole where the pattern begins with `^`."""
    return re.fullmatch(pattern, name[:LINE_MAX]) is not None if pattern.startswith("^") else pattern == name


def _asked(comment: str) -> Iterator[str]:
    lines = comment.splitlines()[:LINES_MAX]
    if lines and _HEADER.match(lines[0]):
        lines = lines[1:]
    for line in lines:
        line = line[:LINE_MAX].rstrip()
        if line and not line.startswith(">") and not _COUNT.fullmatch(line):
            yield line


def _every(reason: str, where: str = "") -> Why:
    return Why(job=EVERY_JOB, runs=False, reason=reason, where=where)


def _refuse(why: Why, supersedes: tuple[str, ...]) -> Plan:
    return Plan(outcome=why.reason, whys=(why,), supersedes=supersedes)


def _is_of(round: Round, change: Change | None) -> bool:
    return change is not None and (round.forge, round.number) == (change.forge, change.number)


def _may_be_superseded(round: Round) -> bool:
    # A round that is reporting has ended its runs, and its report may be on the wire: it is left to finish.
    return LIFECYCLE.allows(round.state, Signal.SUPERSEDE)


def _outdated(event: Event, live: Sequence[Round]) -> tuple[str, ...]:
    """A new patch set makes the rounds of lower ones pointless, even where it starts nothing itself."""
    if event.kind is not Kind.PATCHSET_CREATED or event.change is None:
        return ()
    patchset = event.change.patchset
    return tuple(round.id for round in live if round.patchset < patchset and _may_be_superseded(round))


def _ignored_as_a_whole(event: Event, configuration: Configuration) -> Why | None:
    """What says no before any project is looked at."""
    if event.kind is Kind.GAP:
        return _every(event.outcome or event.comment or "gap in the stream")
    if event.kind is Kind.OTHER:
        return _every(event.outcome or f"type {event.type or 'unknown'} starts nothing")
    if event.kind is Kind.MANUAL:
        return None
    forge = configuration.forges.get(event.forge)
    if forge is None:
        return _every(f"no forge {event.forge}")
    if forge.account and event.author == forge.account:
        return _every(f"our own account {forge.account}", forge.account_where or forge.where)
    if event.author and event.author in forge.bots:
        return _every(f"bot {event.author}", forge.bots_where or forge.where)
    return None


def _ignored_for_round(change: Change, live: Sequence[Round]) -> Why | None:
    """A round of this patch set runs already, or there is one of a newer. One that only reports is over: who asks now,
    asks for another."""
    newest = max(live, key=lambda one: one.patchset, default=None)
    if newest is None or newest.patchset < change.patchset:
        return None
    if newest.patchset == change.patchset:
        running = [one for one in live if one.patchset == change.patchset and _may_be_superseded(one)]
        return _every(f"round {running[-1].id} is running") if running else None
    return _every(f"patch set {change.patchset} is older than {newest.patchset} of round {newest.id}")


def _judge_jobs(
    event: Event, change: Change, configuration: Configuration
) -> tuple[tuple[Why, ...], tuple[ProjectJob, ...]]:
    """A Why for each job of each project entry with this name; a job runs once, by the first entry that says yes."""
    whys: dict[str, Why] = {}
    jobs: dict[str, ProjectJob] = {}
    for project in configuration.projects:
        if not matches(project.name, change.project):
            continue
        no = _against_project(event, change, project, configuration)
        for job in project.jobs:
            against = no or _against_job(job, configuration)
            if job.job in jobs or (against is not None and job.job in whys):
                continue
            if against is None:
                jobs[job.job] = job
                reason = f"project {project.name}, {_trigger_of(event, configuration)}"
                whys[job.job] = Why(job=job.job, runs=True, reason=reason, where=job.where or project.where)
            else:
                whys[job.job] = Why(job=job.job, runs=False, reason=against[0], where=against[1])
    return tuple(whys.values()), tuple(jobs.values())


Against = tuple[str, str]
"""A reason against, and the line of the configuration that says it."""


def _against_project(event: Event, change: Change, project: Project, configuration: Configuration) -> Against | None:
    if project.forge and project.forge != change.forge:
        return f"forge: wants {project.forge}, is {change.forge}", project.where
    if project.branches and not any(matches(branch, change.branch) for branch in project.branches):
        wanted = " or ".join(branch.removeprefix("^") for branch in project.branches)
        return f"branch: wants {wanted}, is {change.branch}", project.branches_where or project.where
    if event.kind is Kind.MANUAL:
        return None
    return _against_type(event, project, configuration.forges[event.forge])


def _against_type(event: Event, project: Project, forge: Forge) -> Against | None:
    if event.kind is Kind.PATCHSET_CREATED:
        wanted = PATCHSET_CREATED in project.on
        return None if wanted else (f"event: wants {' or '.join(project.on)}, is {PATCHSET_CREATED}", project.where)
    if not recheck_of(event.comment, forge.recheck):
        expressions = " or ".join(forge.recheck) or "(none is configured)"
        return f"comment: wants {expressions}", next(iter(forge.recheck_where), forge.where)
    wanted = RECHECK in project.on
    return None if wanted else (f"event: wants {' or '.join(project.on)}, is {RECHECK}", project.where)


def _against_job(project_job: ProjectJob, configuration: Configuration) -> Against | None:
    """The loader refuses such configurations too; a forge's change must not reach a bare host by any way around it."""
    job = configuration.jobs.get(project_job.job)
    if job is None:
        return f"no job {project_job.job}", project_job.where
    if not job.environment:
        return None
    pool = configuration.pools.get(job.environment)
    if pool is None:
        return f"no environment {job.environment}", job.where
    if not pool.isolated and not job.trusted:
        return f"not trusted: environment {pool.name} has no isolation", job.where
    return None


def _trigger_of(event: Event, configuration: Configuration) -> str:
    if event.kind is Kind.MANUAL:
        return "by hand"
    if event.kind is Kind.PATCHSET_CREATED:
        return PATCHSET_CREATED
    return f"comment matches {recheck_of(event.comment, configuration.forges[event.forge].recheck)}"


def _sum_up(whys: Sequence[Why]) -> str:
    """`no match: branch: wants master, is stable/juno`: the reason, where all jobs have the same."""
    reasons = list(dict.fromkeys(why.reason for why in whys))
    return f"no match: {'; '.join(reasons)}"
