"""The variables that a step finds in its environment, and what each means."""

from collections.abc import Mapping

from paddock.core.environment import Environment, Machine
from paddock.core.job import Phase, Step
from paddock.core.round import Round
from paddock.core.run import Run, Verdict

PREFIX = "PADDOCK_"
"""Names that begin with it are Paddock's own; a job cannot set them."""

MEANINGS: Mapping[str, str] = {
    "PADDOCK_FORGE": "name of the forge that the change is on, as configured",
    "PADDOCK_PROJECT": "the change's project: `openstack/nova`",
    "PADDOCK_BRANCH": "the branch that the change is for: `master`",
    "PADDOCK_CHANGE": "the change's number: `189221`",
    "PADDOCK_PATCHSET": "the patch set's number: `1`",
    "PADDOCK_REF": "the ref to fetch: `refs/changes/21/189221/1`",
    "PADDOCK_REVISION": "the commit under test, 40 or 64 hexadecimal digits",
    "PADDOCK_CHANGE_URL": "the change's page on its forge; empty where the forge does not say",
    "PADDOCK_JOB": "name of the job",
    "PADDOCK_RUN": "id of the run",
    "PADDOCK_ROUND": "id of the round that the run belongs to",
    "PADDOCK_ATTEMPT": "which attempt of the job in its round this is, from 1",
    "PADDOCK_RUN_URL": "the run's page, which never moves",
    "PADDOCK_PHASE": "`before`, `main` or `after`",
    "PADDOCK_VERDICT": "only in `after`: the verdict so far, `success` unless something went wrong",
    "PADDOCK_ENVIRONMENT": "id of the environment that is lent to the run",
    "PADDOCK_MACHINE": "name of the machine that the step runs on",
    "PADDOCK_MACHINES": "names of all machines of the environment, separated by spaces: `one two`",
    "PADDOCK_ADDRESS": "where the other machines of the environment reach this one",
    "PADDOCK_ADDRESS_<NAME>": "the address of each machine; its name in upper case, `-` as `_`: `PADDOCK_ADDRESS_ONE`",
    "PADDOCK_WORKSPACE": "the directory in which the step starts, shared by the steps of a run on one machine",
    "PADDOCK_SOURCES": "where the revision under test is checked out, for jobs with `sources: true`",
    "PADDOCK_RESULTS": "the directory from which `results` and `artifacts` are collected",
}


def variables(
    *,
    run: Run,
    round: Round,
    environment: Environment,
    machine: Machine,
    phase: Phase,
    step: Step | None = None,
    public_url: str = "",
    workspace: str = "",
    sources: str = "",
    results: str = "",
) -> dict[str, str]:
    """What a step of `run` on `machine` is given: the job's `env`, the step's over it, Paddock's own over both.

    The directories are left out where they are empty: the machine's agent, which alone knows them, sets them. Values
    are texts that no shell has read; none holds a NUL.
    """
    own = {
        **_of_change(round),
        **_of_run(run, phase, public_url),
        **_of_environment(environment, machine),
        **_known({"WORKSPACE": workspace, "SOURCES": sources, "RESULTS": results}),
    }
    return {
        **run.spec.env,
        **(step.env if step else {}),
        **{PREFIX + name: value.replace("\0", "\ufffd") for name, value in own.items()},
    }


def address_of(machine: str) -> str:
    """The variable with a machine's address: `compute-1` → `PADDOCK_ADDRESS_COMPUTE_1`."""
    return f"{PREFIX}ADDRESS_{machine.upper().replace('-', '_')}"


def reference() -> str:
    """docs/variables.md: every variable and its meaning."""
    lines = [
        "# Variables",
        "",
        "A step finds these in its environment, beside the `env` of its job and its own. Values are passed as they",
        'are: no shell reads them on the way. Quote them where you use them: `"$PADDOCK_BRANCH"`.',
        "",
    ]
    lines += ["| variable | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in MEANINGS.items()]
    lines += ["", "A round without a change has the variables of the change too, empty ones."]
    return "\n".join(lines) + "\n"


def _of_change(round: Round) -> dict[str, str]:
    change = round.change
    return {
        "FORGE": round.forge,
        "PROJECT": round.project,
        "BRANCH": change.branch if change else "",
        "CHANGE": str(change.number) if change else "",
        "PATCHSET": str(change.patchset) if change else "",
        "REF": change.ref if change else "",
        "REVISION": change.revision if change else "",
        "CHANGE_URL": change.url if change else "",
    }


def _of_run(run: Run, phase: Phase, public_url: str) -> dict[str, str]:
    verdict = {"VERDICT": (run.verdict or Verdict.SUCCESS).value} if phase is Phase.AFTER else {}
    return {
        "JOB": run.job,
        "RUN": run.id,
        "ROUND": run.round,
        "ATTEMPT": str(run.attempt),
        "RUN_URL": f"{public_url}/runs/{run.id}/",
        "PHASE": phase.value,
        **verdict,
    }


def _of_environment(environment: Environment, machine: Machine) -> dict[str, str]:
    addresses = {address_of(other.name).removeprefix(PREFIX): other.address for other in environment.machines}
    return {
        "ENVIRONMENT": environment.id,
        "MACHINE": machine.name,
        "MACHINES": " ".join(other.name for other in environment.machines),
        "ADDRESS": machine.address,
        **addresses,
    }


def _known(values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
