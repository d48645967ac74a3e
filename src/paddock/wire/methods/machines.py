"""Methods that make, clean and destroy machines."""

from paddock.core.access import Role
from paddock.wire.methods.table import DAY, KIB, MACHINE, Effect, Kind, Method, Param, Toward

_SPEC = Param(
    name="spec",
    kind=Kind.OBJECT,
    doc="{image[], layer, saved, memory, vcpus, disks[], nics[], networks[], egress[], peers[], start, template, "
    "display, boot[]}",
)

METHODS = (
    Method(
        name="machine.build",
        caption="Make the machine exist, with its agent connected through a relay.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        fenced=True,
        params=(MACHINE, _SPEC),
        result="{machine, address, addresses[], start, why, host_key, seconds, "
        "stored{images, templates, counter, number}}",
    ),
    Method(
        name="machine.clean",
        caption="End everything that ran on the machine but its agent, empty it, prove both.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        fenced=True,
        params=(MACHINE, _SPEC),
        result="{machine, ended: count of processes, start, why, host_key, seconds, "
        "stored{images, templates, counter, number}}",
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
        result="{machine, stored{images, templates, counter, number}}",
    ),
    Method(
        name="machine.list",
        caption="The machines that this host carries.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.OPERATOR,
        result="{machines: [{environment, machine, fence, pid, state, bubblewrap}], "
        "saved: [{environment, machine, fence}]}",
    ),
    Method(
        name="machine.power",
        caption="Press its buttons: on, off as in a power cut, shutdown as one asks for it, reset.",
        toward=Toward.AGENT,
        effect=Effect.ONCE,
        role=Role.OPERATOR,
        task=True,
        fenced=True,
        params=(
            MACHINE,
            Param(name="action", kind=Kind.TEXT, required=True, pattern="on|off|shutdown|reset", doc="which of them"),
            Param(name="boot", kind=Kind.LIST, of=Kind.TEXT, most=2, doc="boot order from now on: disk, network"),
        ),
        result="{machine, power: on or off}",
    ),
    Method(
        name="machine.console",
        caption="Follow what the machine says on its serial line, as output, until it is cancelled.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.PERSON,
        task=True,
        fenced=True,
        params=(
            MACHINE,
            Param(name="offset", kind=Kind.INTEGER, unit="bytes", default=0, doc="begin at this byte of it"),
            Param(name="seconds", kind=Kind.NUMBER, unit="s", least=0.1, most=30 * DAY, doc="ends it, as a success"),
        ),
        result="{offset: where a later one goes on, gone: bytes before that which are not in the output}",
    ),
    Method(
        name="machine.type",
        caption="Say something to the machine on its serial line.",
        toward=Toward.AGENT,
        effect=Effect.ONCE,
        role=Role.PERSON,
        fenced=True,
        params=(MACHINE, Param(name="data", kind=Kind.BYTES, required=True, most=4 * KIB, doc="what is typed")),
    ),
    Method(
        name="machine.screenshot",
        caption="What the machine's display shows.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        fenced=True,
        params=(MACHINE,),
        result="{png: base64, at}",
    ),
    Method(
        name="machine.weigh",
        caption="Switch the machine off, so that all that it wrote is on its disks, and say what they take.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        fenced=True,
        params=(MACHINE, Param(name="saved", kind=Kind.NAME, required=True, doc="what copies of them are called")),
        result="{bytes}",
    ),
    Method(
        name="machine.save",
        caption="Keep copies of the machine's disks and let go of everything else of it.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        fenced=True,
        params=(MACHINE, Param(name="saved", kind=Kind.NAME, required=True, doc="what the copies are called")),
        result="{saved, bytes}",
    ),
    Method(
        name="machine.forget",
        caption="Remove saved copies of disks.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        fenced=True,
        params=(MACHINE, Param(name="saved", kind=Kind.NAME, required=True, doc="what the copies are called")),
    ),
)
