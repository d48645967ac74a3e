"""Whether a command is carried out, answered from the ledger or refused: one pure decision."""

from dataclasses import dataclass
from typing import TypeAlias

from paddock.agent.entry import Entry
from paddock.wire.messages import Code


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A command as far as the decision needs it. `fence` counts only with an environment."""

    id: str
    task: str
    digest: str
    seq: int | None
    epoch: int | None
    environment: str = ""
    fence: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the ledger knows: `fence` is the highest of the command's environment, `task_owner` who has its task id."""

    pruned_below: int = 0
    epoch: int = 0
    fence: int = 0
    task_owner: str = ""
    busy: str = ""
    """Why nothing new is taken now; empty if something is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Act:
    """Carry it out. With `ends_lower`, first end what runs on its environment under lower fences."""

    ends_lower: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """It is known: give the recorded answer again."""

    entry: Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Refuse:
    """It is not carried out; nothing of it is recorded, so that asking again decides again."""

    code: Code
    why: str


Decision: TypeAlias = Act | Answer | Refuse


def on_command(entry: Entry | None, asked: Asked, facts: Facts) -> Decision:
    """Decide; `entry` is what the ledger has under the command's id.

    A known id is answered before its epoch or fence is looked at: the answer is a fact, whoever asks for it.
    """
    if entry is not None:
        if entry.digest != asked.digest:
            return Refuse(code=Code.REFUSED, why=f"{asked.id}: known with other params")
        return Answer(entry=entry)
    if asked.seq is not None and asked.seq <= facts.pruned_below:
        return Refuse(code=Code.EXPIRED, why=f"{asked.id}: records up to {facts.pruned_below} are pruned")
    if asked.epoch is not None and asked.epoch < facts.epoch:
        return Refuse(code=Code.STALE, why=f"{asked.id}: epoch {asked.epoch} is over, the current one is {facts.epoch}")
    if asked.environment and asked.fence < facts.fence:
        return Refuse(
            code=Code.STALE, why=f"{asked.environment}: fence {asked.fence} is over, the current one is {facts.fence}"
        )
    if facts.task_owner:
        return Refuse(code=Code.REFUSED, why=f"{asked.task}: is the task of command {facts.task_owner}")
    if facts.busy:
        return Refuse(code=Code.BUSY, why=facts.busy)
    return Act(ends_lower=bool(asked.environment) and asked.fence > facts.fence)
