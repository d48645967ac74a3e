"""Methods of every agent: how it is, and the end of a task."""

from paddock.core.access import Role
from paddock.wire.methods.table import GRACE, MINUTE, TASK, Effect, Kind, Method, Param, Toward

METHODS = (
    Method(
        name="status",
        caption="How the agent is.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        result="{uptime, version, boot_id, tasks, load, disk, corrupt_ledgers[]}: ledgers that were set aside, by name",
    ),
    Method(
        name="agent.upgrade",
        caption="Replace the agent's program: fetched, checked, tried beside the old one, which is back if it fails.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        params=(
            Param(
                name="url",
                kind=Kind.TEXT,
                required=True,
                most=4096,
                pattern="https?://[!-~]+",
                doc="where the program is: https, or http on the machine itself",
            ),
            Param(
                name="sha256",
                kind=Kind.TEXT,
                required=True,
                pattern="[0-9a-f]{64}",
                doc="of the program; it is checked before anything of it runs",
            ),
            Param(
                name="within",
                kind=Kind.NUMBER,
                unit="s",
                least=5,
                most=60 * MINUTE,
                default=60,
                doc="the new one is welcome by then, once beside the old one and once in its place, or has failed",
            ),
        ),
        result="{version, sha256, before: the version that it replaced, changed}",
    ),
    Method(
        name="task.cancel",
        caption="End a task: TERM to its whole tree, grace, KILL, verified gone.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.PERSON,
        params=(
            TASK,
            GRACE,
        ),
        result="{state}: of the task, which says its own end by task_status",
    ),
)
