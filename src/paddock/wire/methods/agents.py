"""Methods of every agent: how it is, what its machine is, and the end of a task."""

from paddock.core.access import Role
from paddock.wire.methods.table import GRACE, TASK, Effect, Method, Toward

METHODS = (
    Method(
        name="status",
        caption="How the agent is.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        result="{uptime, version, boot_id, tasks, load, disk}",
    ),
    Method(
        name="system.facts",
        caption="What the agent's machine is.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        result="{hostname, cloud, arch, os, addresses[], cpus, memory, disk}, sizes in bytes",
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
