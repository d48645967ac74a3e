"""Hosts, images and virtual machines of a settings file as core values."""

from collections.abc import Mapping
from pathlib import Path as FilePath

from paddock.core.configuration import HostSettings
from paddock.core.image import BuildScript, Entry, Image
from paddock.core.job import Script
from paddock.core.machine import MachineSettings, NetworkSettings, NicSettings, Overcommit
from paddock.settings import shapes, virtual


def host(given: shapes.Host, where: str) -> HostSettings:
    """A host; what its skill keeps from it is kept, unless the file says that nothing is."""
    times = given.overcommit
    return HostSettings(
        name=given.name,
        skills=tuple(given.skills),
        isolation="local" not in given.skills and given.isolation != "none",
        labels=tuple(given.labels),
        memory=given.memory or 0,
        vcpus=given.vcpus or 0,
        disk=given.disk or 0,
        overcommit=Overcommit(memory=times.memory, vcpus=times.vcpus, disk=times.disk),
        where=where,
    )


def image(given: shapes.Image, scripts: Mapping[str, Script], directory: FilePath, where: str) -> Image:
    """An image with the texts of its scripts and of the files that they put into the machine."""
    return Image(
        name=given.name,
        url=given.url or "",
        path=given.path or "",
        parent=given.parent or "",
        sha256=given.sha256 or "",
        size=given.size or 0,
        scripts=tuple(
            _script(script, f"{given.name}-{number}", scripts, directory)
            for number, script in enumerate(given.scripts, start=1)
        ),
        memory=given.memory,
        vcpus=given.vcpus,
        limit=given.limit,
        egress=tuple(given.egress),
        entry=Entry(given.entry),
        kernel=given.kernel or "",
        initrd=given.initrd or "",
        cmdline=given.cmdline or "",
        warm_up=given.warm_up or "",
        restart=tuple(given.restart),
        where=where,
    )


def _script(
    given: shapes.BuildScript, fallback: str, scripts: Mapping[str, Script], directory: FilePath
) -> BuildScript:
    named = scripts[given.script] if given.script is not None else None
    own = Script(name=fallback, run=given.run or "")
    return BuildScript(
        name=given.name or (named.name if named is not None else fallback),
        run=named.run if named is not None else own.run,
        interpreter=named.interpreter if named is not None else given.interpreter or own.interpreter,
        env=dict(given.env),
        files={there: virtual.read_file(directory, here) for there, here in given.files.items()},
    )


def machines(given: shapes.Environment) -> tuple[MachineSettings, ...]:
    """Its virtual machines; empty where they are processes."""
    return tuple(_machine(one) for one in virtual.expanded(given) if one.shape.image is not None)


def _machine(one: virtual.One) -> MachineSettings:
    given, plain = one.shape, MachineSettings(name=one.name)
    return MachineSettings(
        name=one.name,
        image=given.image or "",
        memory=given.memory or plain.memory,
        vcpus=given.vcpus or plain.vcpus,
        disks=tuple(given.disks),
        nets=tuple(NicSettings(network=nic.network or "", mac=nic.mac or "") for nic in given.nets),
        display=given.display,
        boot=tuple(given.boot) if given.boot else plain.boot,
    )


def network(given: shapes.Network) -> NetworkSettings:
    """A private network, or a bridge of the host."""
    return NetworkSettings(
        name=given.name,
        subnet=given.subnet or "",
        latency=given.latency,
        loss=given.loss,
        rate=given.rate or 0,
        bridge=given.bridge or "",
    )
