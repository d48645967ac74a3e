"""What images, hosts and environments of virtual machines say about each other."""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

from paddock.core.capacity import lacking
from paddock.core.capacity import spell as bytes_spelled
from paddock.core.machine import MachineSettings, Overcommit, Size
from paddock.settings import shapes
from paddock.settings.marks import Path
from paddock.settings.problems import show, suggest
from paddock.settings.scene import Finding, Scene, check_name, check_unique, spell

FILE_MAX = 256 * 1024
"""Bytes of one file that a script puts into its machine."""
CHAIN_MAX = 512 * 1024
"""Bytes of all scripts and files that an image is made of: an agent is told them in one message."""
FIRST_ADDRESS = 10
"""Machines have their addresses from this one of a network on."""
MOST_MACHINES = 64
LEAST_MEMORY = 16 << 20
"""No kernel of ours begins with less."""
_READS_AS_ENVIRONMENT = re.compile(r"(?<![^-])([0-9]+-)")
"""On a host a machine is called ENVIRONMENT-MACHINE, and an environment POOL-N: with machine `2-x`, `a-1` has an
`a-1-2-x` as `a-1-2` has with machine `x`.
"""


@dataclass(frozen=True, kw_only=True)
class One:
    """One machine of an environment, where several may stand in one line of the file."""

    name: str
    path: Path
    shape: shapes.Machine


def expanded(environment: shapes.Environment) -> list[One]:
    """Every machine: `node` with a `count` of 3 is `node-1`, `node-2` and `node-3`."""
    found = []
    for index, shape in enumerate(environment.machines):
        names = [shape.name] if shape.count == 1 else [f"{shape.name}-{place + 1}" for place in range(shape.count)]
        found += [One(name=name, path=("machines", index), shape=shape) for name in names]
    return found


def carriers(environment: shapes.Environment, scene: Scene) -> list[shapes.Host]:
    """The hosts that may carry an environment."""
    if environment.host is not None:
        host = scene.host(environment.host)
        return [host] if host is not None else []
    found = [host for host in scene.of(shapes.Host) if "hypervisor" in host.skills]
    return [host for host in found if set(environment.labels) <= set(host.labels)]


def is_isolated(environment: shapes.Environment, scene: Scene) -> bool:
    """Whether what runs in it is kept from each host that may carry it."""
    hosts = carriers(environment, scene)
    return bool(hosts) and all("local" not in host.skills and host.isolation != "none" for host in hosts)


def read_file(directory: FilePath, name: str) -> str:
    """The text of a file that a script puts into its machine; `ValueError` with the fact where it cannot be read."""
    path = directory / name
    try:
        if path.stat().st_size > FILE_MAX:
            raise ValueError(f"{show(name)} has more than {bytes_spelled(FILE_MAX)}")
        text = path.read_bytes().decode("utf-8")
    except OSError as exc:
        raise ValueError(f"{show(name)}: {(exc.strerror or 'cannot be read').lower()}") from exc
    except UnicodeDecodeError as exc:
        raise ValueError(f"{show(name)} is not text in UTF-8") from exc
    if "\0" in text:
        raise ValueError(f"{show(name)} holds a NUL")
    return text


def check_names(shape: shapes.Shape, scene: Scene) -> Iterator[Finding]:
    """Every name that an image or an environment uses and nobody defines."""
    match shape:
        case shapes.Image() as image:
            if image.parent is not None:
                yield from check_name(("parent",), "image", image.parent, scene.names.images)
            for index, script in enumerate(image.scripts):
                if script.script is not None:
                    path = ("scripts", index, "script")
                    yield from check_name(path, "script", script.script, scene.names.scripts)
        case shapes.Environment() as environment:
            if environment.host is not None:
                yield from check_name(("host",), "host", environment.host, scene.names.hosts)
            networks = frozenset(network.name for network in environment.networks)
            for index, machine in enumerate(environment.machines):
                if machine.image is not None:
                    yield from check_name(("machines", index, "image"), "image", machine.image, scene.names.images)
                for place, nic in enumerate(machine.nets):
                    if nic.network is not None:
                        card = ("machines", index, "nets", place)
                        yield from check_name(card, "network", nic.network, networks)


def check_host(host: shapes.Host) -> Iterator[Finding]:
    """What a host says of itself that cannot be."""
    if len(set(host.skills)) > 1:
        yield (
            ("skills",),
            "skills: a host has one of local and hypervisor: beside a job without walls, machines have none either",
        )
    if "hypervisor" not in host.skills:
        for key in ("labels", "memory", "vcpus", "disk"):
            if getattr(host, key):
                yield (key,), f"{key} is for a host with the skill hypervisor: nothing is booked on this one"


def check_image(image: shapes.Image, scene: Scene) -> Iterator[Finding]:
    """Where an image comes from, and what makes it."""
    given = [key for key in ("url", "path", "parent") if getattr(image, key) is not None]
    if not given:
        yield (), "wants one of `url`, `path` and `parent`"
    if len(given) > 1:
        yield (given[1],), f"{given[1]}: it comes from its {given[0]} already"
    if image.parent is not None:
        yield from _check_child(image, scene)
    if image.memory < LEAST_MEMORY:
        yield ("memory",), f"memory {bytes_spelled(image.memory)} is less than {bytes_spelled(LEAST_MEMORY)}"
    if image.kernel is None:
        for key in ("initrd", "cmdline"):
            if getattr(image, key) is not None:
                yield (key,), f"{key} goes with a `kernel`"
    if image.egress and not image.scripts:
        yield ("egress",), "egress is for scripts of its own, and it has none: each image of a chain has its own list"
    for index, script in enumerate(image.scripts):
        yield from _check_script(("scripts", index), script, scene)
    size = _chain_size(image, scene)
    if size > CHAIN_MAX:
        yield (
            ("scripts",),
            f"scripts: with their files and its parents' they have {bytes_spelled(size)}, at most "
            f"{bytes_spelled(CHAIN_MAX)} are told to a host: fetch the rest in a script",
        )


def _check_child(image: shapes.Image, scene: Scene) -> Iterator[Finding]:
    for key in ("sha256", "entry"):
        if key in image.model_fields_set:
            yield (key,), f"{key} is for an image with a `url` or a `path`: this one has its parent's"
    around = circle(image, scene)
    if around:
        yield ("parent",), f"parent: {' <- '.join(around)} is a circle"
        return
    parent = scene.image(image.parent)
    while parent is not None and parent.size is None:
        parent = scene.image(parent.parent)
    if image.size is not None and parent is not None and parent.size is not None and image.size < parent.size:
        yield (
            ("size",),
            f"size {bytes_spelled(image.size)} is less than {parent.name} has, {bytes_spelled(parent.size)}",
        )


def circle(image: shapes.Image, scene: Scene) -> list[str]:
    """The names from an image back to itself; empty where its first has none."""
    names = [image.name]
    parent = scene.image(image.parent)
    while parent is not None and parent.name not in names:
        names.append(parent.name)
        parent = scene.image(parent.parent)
    if parent is None:
        return []
    return [*names[names.index(parent.name) :], parent.name] if parent.name == image.name else []


def _check_script(path: Path, script: shapes.BuildScript, scene: Scene) -> Iterator[Finding]:
    if (script.script is None) == (script.run is None):
        yield path, f"{spell(path)} wants either `script` or `run`"
    if script.script is not None and script.interpreter is not None:
        yield (*path, "interpreter"), f"{spell((*path, 'interpreter'))} is the script's own to say"
    for there, here in script.files.items():
        try:
            read_file(scene.directory, here)
        except ValueError as exc:
            yield (*path, "files", there), f"{spell((*path, 'files'))}: {exc}"


def _chain_size(image: shapes.Image, scene: Scene) -> int:
    total, seen, at = 0, set[str](), image
    texts = {script.name: script.run for script in scene.of(shapes.Script)}
    while at.name not in seen:
        seen.add(at.name)
        for script in at.scripts:
            total += len((script.run or texts.get(script.script or "", "")).encode())
            for here in script.files.values():
                try:
                    total += len(read_file(scene.directory, here).encode())
                except ValueError:
                    continue  # said elsewhere
        parent = scene.image(at.parent)
        if parent is None:
            break
        at = parent
    return total


def check_environment(environment: shapes.Environment, scene: Scene) -> Iterator[Finding]:
    """Its machines, networks and hosts, each for itself and with each other."""
    machines = expanded(environment)
    yield from check_unique("machine", [((*one.path, "name"), one.name) for one in machines])
    if len(machines) > MOST_MACHINES:
        yield ("machines",), f"machines: they are {len(machines)}, at most {MOST_MACHINES}"
    networks = [(("networks", index, "name"), network.name) for index, network in enumerate(environment.networks)]
    yield from check_unique("network", networks)
    if environment.host is not None and environment.labels:
        yield ("labels",), f"labels: host {environment.host} is named already"
    if any(machine.image is not None for machine in environment.machines):
        yield from _check_virtual(environment, machines, scene)
    else:
        yield from _check_plain(environment, scene)


def _check_plain(environment: shapes.Environment, scene: Scene) -> Iterator[Finding]:
    """Machines without an image are processes on the one host that is named."""
    if environment.host is None:
        yield (), "wants a `host`, or images for its machines"
        return
    host = scene.host(environment.host)
    if host is not None and "hypervisor" in host.skills:
        yield (
            ("machines", 0),
            f"machines[0]: no image, and host {host.name} makes machines of images only"
            f"{suggest('', scene.names.images)}",
        )
        return
    for key in ("networks", "egress", "start"):
        if key in environment.model_fields_set and getattr(environment, key):
            yield (key,), f"{key} is for machines with an image: processes have their host's network"
    for index, machine in enumerate(environment.machines):
        for key in ("memory", "vcpus", "disks", "nets", "display", "boot"):
            if getattr(machine, key):
                path = ("machines", index, key)
                yield path, f"{spell(path)} is for a machine with an image: this one is a process on its host"


def _check_virtual(environment: shapes.Environment, machines: Sequence[One], scene: Scene) -> Iterator[Finding]:
    for index, machine in enumerate(environment.machines):
        if machine.image is None:
            path = ("machines", index)
            yield path, f"{spell(path)}: no image, and others of its environment have one"
    if environment.reset == "none":
        yield ("reset",), "reset none: machines that are made of images are made anew for each who borrows them"
    yield from _check_ambiguous(machines)
    yield from _check_memory(environment)
    hosts = carriers(environment, scene)
    for host in hosts:
        if "hypervisor" not in host.skills:
            yield ("host",), f"host {host.name} makes no machines of images: it lacks the skill hypervisor"
    if environment.host is None and not hosts:
        yield from _check_labels(environment, scene)
    yield from _check_networks(environment, len(machines))
    yield from _check_cards(environment, machines)
    yield from _check_size(machines, [host for host in hosts if "hypervisor" in host.skills])


def _check_ambiguous(machines: Sequence[One]) -> Iterator[Finding]:
    for one in machines:
        better = _READS_AS_ENVIRONMENT.sub(r"n\1", one.name)
        if better != one.name:
            path = (*one.path, "name")
            yield (
                path,
                f"{spell(path)}: {one.name} reads as a machine of another environment, which ends in a number: "
                f"a letter goes before a number that has a `-` behind it, {better}",
            )
            return


def _check_memory(environment: shapes.Environment) -> Iterator[Finding]:
    for index, machine in enumerate(environment.machines):
        if machine.memory is not None and machine.memory < LEAST_MEMORY:
            path = ("machines", index, "memory")
            yield path, f"{spell(path)} {bytes_spelled(machine.memory)} is less than {bytes_spelled(LEAST_MEMORY)}"


def _check_labels(environment: shapes.Environment, scene: Scene) -> Iterator[Finding]:
    known = {label for host in scene.of(shapes.Host) for label in host.labels}
    for index, label in enumerate(environment.labels):
        if label not in known:
            yield ("labels", index), f"labels[{index}]: no host has {show(label)}{suggest(label, known)}"
            return
    if scene.names.hosts:
        path: Path = ("labels",) if environment.labels else ()
        all_of = f" with all of {', '.join(environment.labels)}" if environment.labels else ""
        yield path, f"no host{all_of} has the skill hypervisor"
    else:
        yield (), "no host is configured that makes machines of images: `- host: {name: ..., skills: [hypervisor]}`"


def _check_networks(environment: shapes.Environment, count: int) -> Iterator[Finding]:
    taken: list[tuple[str, ipaddress.IPv4Network]] = []
    for index, network in enumerate(environment.networks):
        path = ("networks", index)
        if network.bridge is not None:
            if network.subnet is not None:
                yield (*path, "subnet"), f"{spell((*path, 'subnet'))}: a bridge of the host has addresses of its own"
            continue
        subnet = ipaddress.IPv4Network(network.subnet or f"192.168.{80 + index}.0/24")
        for name, other in taken:
            if subnet.overlaps(other):
                at = (*path, "subnet") if network.subnet else path
                yield at, f"{spell(at)}: {subnet} overlaps {other} of network {name}"
        taken.append((network.name, subnet))
        if FIRST_ADDRESS + count > subnet.num_addresses - 1:
            yield (*path, "subnet"), f"{spell((*path, 'subnet'))}: {subnet} has no room for {count} machines"


def _check_cards(environment: shapes.Environment, machines: Sequence[One]) -> Iterator[Finding]:
    bridges = {network.name for network in environment.networks if network.bridge is not None}
    seen: dict[str, str] = {}
    for one in machines:
        for place, nic in enumerate(one.shape.nets):
            if nic.mac is None:
                continue
            path = (*one.path, "nets", place, "mac")
            if nic.mac in seen:
                yield path, f"{spell(path)}: {nic.mac} is {seen[nic.mac]}'s already"
            seen[nic.mac] = one.name
            if nic.network in bridges and environment.max > 1:
                yield (
                    path,
                    f"{spell(path)}: on a bridge of the host, each of {environment.max} environments would have it",
                )


def _check_size(machines: Sequence[One], hosts: Sequence[shapes.Host]) -> Iterator[Finding]:
    """One that no host could carry, as far as the file says what hosts have."""
    plain = MachineSettings(name="")
    wanted = Size(
        memory=sum(one.shape.memory or plain.memory for one in machines),
        vcpus=sum(one.shape.vcpus or plain.vcpus for one in machines),
        disk=sum(sum(one.shape.disks) for one in machines),
    )
    said = [lacking(wanted, _figures(host)) for host in hosts]
    if said and all(said):
        names = "; ".join(f"host {host.name} has {lacks}" for host, lacks in zip(hosts, said, strict=True))
        yield ("machines",), f"machines fit no host: {names}"


def _figures(host: shapes.Host) -> Size:
    """What may be booked on it; what the file does not say is enough for anything."""
    times = Overcommit(memory=host.overcommit.memory, vcpus=host.overcommit.vcpus, disk=host.overcommit.disk)
    enough = 1 << 60
    size = times.of(Size(memory=host.memory or 0, vcpus=host.vcpus or 0, disk=host.disk or 0))
    return Size(memory=size.memory or enough, vcpus=size.vcpus or enough, disk=size.disk or enough)
