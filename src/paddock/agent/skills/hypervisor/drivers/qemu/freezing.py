"""Templates: a machine's memory and devices, what they were like, and where they fit.

Effects: idempotent. `template.json` is written last, when all else is on the disk: without it there is no template.

Memory is not written by anybody: the machine's own memory file becomes the template's, and a fork maps it privately.
Beside it lies what the devices were like, half a megabyte.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from paddock.agent import durable
from paddock.agent.skills.hypervisor.drivers.qemu.command import MEMORY
from paddock.agent.skills.hypervisor.drivers.qemu.qmp import Command, Monitor
from paddock.agent.skills.hypervisor.ports import Plan, Unfit
from paddock.core.errors import Broken
from paddock.hands import faults
from paddock.wire.framing import JSON

FILE = "template.json"
STATE = "state"
_LIMIT = timedelta(minutes=2)
_ENDED = {"completed", "failed", "cancelled"}
_SKIPS_MEMORY: JSON = [{"capability": "x-ignore-shared", "state": True}, {"capability": "events", "state": True}]


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What a fork has to be like. `stamp` is the driver's: emulator, accelerator, processor."""

    stamp: str
    version: str
    uuid: str
    memory: int
    vcpus: int
    disks: tuple[str, ...]
    display: bool
    has_seed: bool

    @classmethod
    def of(cls, plan: Plan, *, stamp: str, version: str = "", uuid: str = "") -> "Frozen":
        """What a template of this plan is like."""
        return cls(
            stamp=stamp,
            version=version,
            uuid=uuid,
            memory=plan.memory,
            vcpus=plan.vcpus,
            disks=tuple(disk.name for disk in plan.disks),
            display=plan.display,
            has_seed=plan.seed is not None,
        )


async def freeze(monitor: Monitor, template: Path) -> None:
    """Stop the machine, and put what its devices are like into `template`: synced, but for its name."""
    os.makedirs(template, mode=0o700, exist_ok=True)
    draft = template / f"{STATE}.new"
    handle = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        await monitor.ask("stop")
        # Not for sending: what it does with the descriptor is over when it says so.
        await monitor.ask_all(
            [
                Command(execute="migrate-set-capabilities", arguments={"capabilities": _SKIPS_MEMORY}),
                Command(execute="getfd", arguments={"fdname": STATE}, files=[handle]),
                Command(execute="migrate", arguments={"uri": f"fd:{STATE}"}),
            ]
        )
        ended = await monitor.event(is_over, limit=_LIMIT)
        if status_of(ended) != "completed":
            raise Broken(f"{template.name}: cannot be frozen: {await _why(monitor)}")
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(directory: Path, template: Path, frozen: Frozen) -> None:
    """The machine's process is gone: its memory becomes the template's, and the template whole."""
    faults.at("hypervisor.sealing")
    for source, target in ((directory / MEMORY, template / MEMORY), (template / f"{STATE}.new", template / STATE)):
        durable.sync(source)
        source.rename(target)
    durable.sync(template)
    faults.at("hypervisor.sealed")
    durable.write(template / FILE, asdict(frozen))
    faults.at("hypervisor.templated")


def check(template: Path, wanted: Frozen) -> Frozen:
    """What the template is like. Unfit, with the difference, if such a machine cannot be forked from it here."""
    said = durable.read(template / FILE)
    if not isinstance(said, Mapping):
        raise Unfit(f"{template.name}: is no template")
    try:
        found = Frozen(**{**said, "disks": tuple(said["disks"])})  # type: ignore[arg-type]
    except (TypeError, KeyError) as exc:
        raise Unfit(f"{template.name}: is a template of another version of Paddock") from exc
    if found.stamp != wanted.stamp:
        raise Unfit(
            f"{template.name}: was frozen by QEMU {found.version} on another host, with other emulator, accelerator or"
            " processor than there is now"
        )
    for name in ("memory", "vcpus", "disks", "display", "has_seed"):
        one, other = getattr(found, name), getattr(wanted, name)
        if one != other:
            raise Unfit(f"{template.name}: {name.replace('_', ' ')}: it was frozen with {one}, and this has {other}")
    return found


def opened(template: Path) -> int:
    """A descriptor of what its devices are like. Unfit if that, or its memory, is not there."""
    for name in (MEMORY, STATE):
        if not (template / name).is_file():
            raise Unfit(f"{template.name}: is no template: its {name} is gone")
    return os.open(template / STATE, os.O_RDONLY | os.O_CLOEXEC)


def restoring(state: int) -> list[Command]:
    """What makes a process that waits for it the machine that was frozen; `state` is a descriptor that it inherited."""
    return [
        Command(execute="qmp_capabilities"),
        Command(execute="migrate-set-capabilities", arguments={"capabilities": _SKIPS_MEMORY}),
        Command(execute="migrate-incoming", arguments={"uri": f"fd:{state}"}),
    ]


def is_over(event: Mapping[str, JSON]) -> bool:
    """Whether an event says that a migration has ended, well or not."""
    return event["event"] == "MIGRATION" and status_of(event) in _ENDED


def status_of(event: Mapping[str, JSON]) -> JSON:
    """How a migration stands."""
    told = event["data"]
    return told["status"] if isinstance(told, dict) else None


async def _why(monitor: Monitor) -> str:
    told = await monitor.ask("query-migrate")
    return str(told.get("error-desc", "it does not say why")) if isinstance(told, dict) else ""
