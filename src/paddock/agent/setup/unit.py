"""The systemd unit of the agent, as text, with the reason of each line.

Effects: none.
"""

from collections.abc import Sequence
from pathlib import Path

from paddock.agent.conf import Conf

NAME = "paddock-agent.service"
WATCHDOG = 60
"""Seconds: an agent that has not said for so long that it lives is killed and started again."""
WANTS_ROOT = frozenset("user disk package config local docker".split())
"""Skills that act on the machine as a whole."""

_HEAD = """\
# Made by `paddock agent configure`, which writes it anew. Change it with a drop-in: systemctl edit {name}

[Unit]
Description=Paddock agent
{network}# It connects for ever; so systemd never gives it up either.
StartLimitIntervalSec=0

[Service]
# Ready is said once it dials: an agent whose server is away is well. `systemctl status` shows what it says of the link.
Type=notify
ExecStart={command}
User={user}
WorkingDirectory={base}

# Said every {half} s, and only while the loop and the ledger's thread are both alive.
WatchdogSec={watchdog}
Restart=always
RestartSec=2
# Wrong use, as its exit code says: another try with the same words is no use.
RestartPreventExitStatus=2

# Tasks belong to their keepers and outlive the agent: a stop, an upgrade or a crash of the agent ends none of them.
KillMode=process
TimeoutStopSec=10
# A virtual machine on a busy host may need minutes for what takes a second elsewhere.
TimeoutStartSec=600
# Each task gets a control group of its own below ours, with its limits.
Delegate=yes
TasksMax=infinity
LimitNOFILE=65536
# A task that eats all memory is ended by its own group; it never takes the service along.
OOMPolicy=continue
"""

_ONLINE = """\
Wants=network-online.target
After=network-online.target
"""
"""Not for who is spoken to on a line: its machine may have no network, and systemd waits two minutes for one."""

_OPEN = """
# Tasks inherit whatever the service is shut out of, so only what no skill needs is shut. Left out on purpose:
# - NoNewPrivileges, RestrictSUIDSGID: tasks could not use sudo, packages could not install it.
# - ProtectSystem, ProtectHome, PrivateTmp, PrivateDevices, ProtectKernel*, ProtectControlGroups, ReadOnlyPaths: each
#   makes a mount namespace, and a disk that is mounted in there is seen by nobody else (disk.*, package.*, config.*).
# - ProtectHostname, ProtectClock: system.rename, and tasks that set the clock.
# - RestrictNamespaces, SystemCallFilter, MemoryDenyWriteExecute: what is tested may be a container engine.
# `[service] confined = yes` in agent.conf takes all of them, for an agent that needs none of this.
CapabilityBoundingSet=~CAP_BLOCK_SUSPEND CAP_LEASE CAP_SYS_PACCT CAP_WAKE_ALARM
"""

_CONFINED = """
# confined = yes: nothing beyond its own directories is written, and nothing becomes root.
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictSUIDSGID=yes
ProtectSystem=strict
ReadWritePaths={places}
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
# Not ProtectControlGroups: each task's limits are written there. Not MemoryDenyWriteExecute: many runtimes compile.
"""

_TAIL = """
[Install]
WantedBy=multi-user.target
"""


def text(conf: Conf, *, command: Sequence[str], places: Sequence[Path]) -> str:
    """The unit that runs `command` as this configuration wants it; it writes to `places` beside state and work."""
    head = _HEAD.format(
        name=NAME,
        command=" ".join(quoted(word) for word in command),
        user=conf["system.user"],
        base=conf.base,
        watchdog=WATCHDOG,
        half=WATCHDOG // 2,
        network="" if conf["connection.line"] else _ONLINE,
    )
    if not conf.is_set("service.confined"):
        return head + _OPEN + _TAIL
    written = [*dict.fromkeys((conf.state, conf.work, *places))]
    own = any(place.is_relative_to(home) for place in (conf.base, *written) for home in ("/home", "/root", "/run/user"))
    return head + _CONFINED.format(places=" ".join(map(str, written)), home="read-only" if own else "yes") + _TAIL


def quoted(word: str) -> str:
    """A word of a command line as systemd reads it."""
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return plain if plain and all(letter.isalnum() or letter in "/._-=:@%$,+" for letter in plain) else f'"{plain}"'
