"""Methods that make, clean and destroy machines."""

from paddock.core.access import Role
from paddock.wire.methods.table import MACHINE, Effect, Method, Toward

METHODS = (
    Method(
        name="machine.build",
        caption="Make the machine exist, with its agent connected through a relay.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        fenced=True,
        params=(MACHINE,),
        result="{machine, addresses[]}",
    ),
    Method(
        name="machine.clean",
        caption="End everything that ran on the machine but its agent, empty it, prove both.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        fenced=True,
        params=(MACHINE,),
        result="{machine, ended: count of processes}",
    ),
    Method(
        name="machine.destroy",
        caption="Make the machine not exist, its agent, processes and directory included.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        fenced=True,
        params=(MACHINE,),
        result="{machine}",
    ),
    Method(
        name="machine.list",
        caption="The machines that this host carries.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.OPERATOR,
        result="{machines: [{environment, machine, fence, pid, state, bubblewrap}]}",
    ),
)
