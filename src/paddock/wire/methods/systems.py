"""Methods of the skill `system`: what a machine is, how it does, what is done to it."""

from paddock.core.access import Role
from paddock.wire.methods.table import DAY, MINUTE, Effect, Kind, Method, Param, Toward

HOSTNAME = r"(?!.*\.[0-9]+$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
"""RFC 1123, and no address: a last label of digits alone is refused."""
_NAME = Param(name="name", kind=Kind.NAME, required=True, most=60, doc="names it among those of this agent")

METHODS = (
    Method(
        name="system.facts",
        caption="What the agent's machine is.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        result="{hostname, cloud, arch, os, addresses[], kernel, virtualization, machine_id: present, empty, missing, "
        "boot_id, uptime, cpus, memory, disk, interfaces[{name, mac, is_up, mtu, addresses[]}]}, sizes in bytes",
    ),
    Method(
        name="system.stats_start",
        caption="Collect how busy the machine is, into a ring of samples; goes on after a restart of the agent.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        params=(
            _NAME,
            Param(
                name="collectors",
                kind=Kind.LIST,
                of=Kind.TEXT,
                most=6,
                doc="of cpu, memory, load, disks, network, processes; all of them if absent",
            ),
            Param(
                name="interval",
                kind=Kind.NUMBER,
                unit="s",
                least=0.1,
                most=60 * MINUTE,
                default=10,
                doc="between two samples",
            ),
            Param(
                name="window",
                kind=Kind.NUMBER,
                unit="s",
                least=1,
                most=30 * DAY,
                default=60 * MINUTE,
                doc="how far back samples are kept; at most 10,000 of them, and 4 MiB",
            ),
        ),
        result="{cursor, capacity}: where to read on from, and how many samples are kept",
    ),
    Method(
        name="system.stats",
        caption="The samples of a collection since a cursor, oldest first.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        params=(
            _NAME,
            Param(name="cursor", kind=Kind.NAME, most=60, doc="of the last read; absent: from the oldest sample on"),
            Param(name="limit", kind=Kind.INTEGER, least=1, most=10_000, default=1000, doc="at most so many samples"),
        ),
        result="{samples[{number, time, ...}], cursor, missed: so many fell out before they were read, restarted: the "
        "cursor is older than the agent's last start, more: there are more now}",
    ),
    Method(
        name="system.stats_list",
        caption="What is collected.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        result="{collections[{name, collectors[], interval, window, samples, cursor}]}",
    ),
    Method(
        name="system.stats_stop",
        caption="Collect it no more, and forget its samples.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        params=(_NAME,),
    ),
    Method(
        name="system.health_watch",
        caption="Raise an alert while something about the machine is not as it should be.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        params=(
            _NAME,
            Param(
                name="what",
                kind=Kind.TEXT,
                required=True,
                most=60,
                doc="memory.available, swap.used, disk.used, disk.inodes, cpu.busy: in percent; load.one, load.five, "
                "load.fifteen; process: how many of that name run",
            ),
            Param(
                name="of",
                kind=Kind.TEXT,
                most=4096,
                doc="of a disk: where it is mounted, / if absent; of a process: its name",
            ),
            Param(name="above", kind=Kind.NUMBER, unit="%, load or count", doc="bad is what is more"),
            Param(name="below", kind=Kind.NUMBER, unit="%, load or count", doc="bad is what is less"),
            Param(
                name="for",
                kind=Kind.NUMBER,
                unit="s",
                least=0,
                most=DAY,
                default=60,
                doc="it counts once it has lasted so long, and is over once it has not been for so long",
            ),
            Param(
                name="every",
                kind=Kind.NUMBER,
                unit="s",
                least=0.1,
                most=60 * MINUTE,
                default=10,
                doc="between two looks",
            ),
            Param(name="level", kind=Kind.TEXT, pattern="warning|error", default="warning", doc="of the alert"),
        ),
        one_of=("above", "below"),
    ),
    Method(
        name="system.health",
        caption="What is watched, and how it is.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        result="{checks[{name, what, of, above, below, for, every, level, state: fine, bad or unknown, value, "
        "otherwise_for, why}]}; otherwise_for: s since it looks unlike its state",
    ),
    Method(
        name="system.health_unwatch",
        caption="Watch it no more, and end its alert.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        params=(_NAME,),
    ),
    Method(
        name="system.rename",
        caption="Give the machine another host name, now and after every boot.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        params=(
            Param(
                name="hostname",
                kind=Kind.TEXT,
                required=True,
                most=64,
                pattern=HOSTNAME,
                doc="by RFC 1123: labels of letters, digits and hyphens; with or without a domain",
            ),
        ),
        result="{hostname, before, changed}: whether anything was other than it should be",
    ),
    Method(
        name="system.reboot",
        caption="Boot the machine anew; complete once it is back under a new boot id.",
        toward=Toward.AGENT,
        effect=Effect.ONCE,
        role=Role.OPERATOR,
        task=True,
        ends_boot=True,
        less=(("delay", "limit"),),
        params=(
            Param(
                name="delay",
                kind=Kind.NUMBER,
                unit="s",
                least=0,
                most=DAY,
                default=1,
                doc="until it begins; so long it can be cancelled",
            ),
            Param(name="reason", kind=Kind.TEXT, most=500, doc="for the log of the machine"),
            Param(
                name="kexec",
                kind=Kind.OBJECT,
                doc="{kernel, initrd, cmdline}: go on in this kernel of the machine, past firmware and boot loader",
            ),
            Param(
                name="limit",
                kind=Kind.NUMBER,
                unit="s",
                least=1,
                most=2 * DAY,
                default=10 * MINUTE,
                doc="more than delay; a machine that still has its boot id then has failed",
            ),
        ),
        result="{booted}",
    ),
    Method(
        name="system.clean_image",
        caption="Make the machine ready to be imaged: without identity, keys, logs and traces. The agent ends with it.",
        toward=Toward.AGENT,
        effect=Effect.ONCE,
        role=Role.OPERATOR,
        task=True,
        params=(
            Param(
                name="items",
                kind=Kind.LIST,
                of=Kind.TEXT,
                most=20,
                doc="what goes: ssh_host_keys, authorized_keys, machine_id, histories, cloud_init, leases, "
                "random_seed, network_names, temporary, logs, agent; all but authorized_keys if absent",
            ),
            Param(
                name="users",
                kind=Kind.LIST,
                of=Kind.NAME,
                most=1000,
                doc="whose histories and authorized keys; everybody's if absent",
            ),
            Param(name="dry_run", kind=Kind.BOOLEAN, default=False, doc="only list what would go, in the output"),
        ),
        result="{items{name: {removed, emptied}}, refused[{path, why}], dry_run}; each path is a line of the output",
    ),
)
