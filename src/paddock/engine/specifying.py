"""Specifying: what machines are made as, and what their host is told of each.

Effects: none (reads rows)
"""

from collections.abc import Mapping

from paddock.core.capacity import Room, suits
from paddock.core.configuration import Configuration
from paddock.core.environment import Environment, Pool, Spec
from paddock.core.image import HostImage, booted
from paddock.core.machine import NetworkSettings, Nic, Start, nics
from paddock.engine import booking
from paddock.ports import Tables
from paddock.wire.framing import JSON
from paddock.wire.specs import MachineSpec, NetworkSpec, Peer


def spec_of(pool: Pool, there: Mapping[str, HostImage]) -> Spec | None:
    """What the pool's machines are made as on a host that has these images; None while it lacks one."""
    names = booking.images_of(pool)
    rows = {name: row for name in names if (row := there.get(name)) is not None and row.serves}
    if len(rows) < len(names):
        return None
    kernels = {name: booted(row.serving) for name, row in rows.items()}
    return Spec(
        machines=pool.settings,
        networks=pool.networks,
        egress=pool.egress,
        start=pool.start,
        images={name: row.digest for name, row in rows.items()},
        kernels={name: kernel for name, kernel in kernels.items() if kernel is not None},
    )


def fits(tables: Tables, configuration: Configuration, environment: Environment) -> bool:
    """Whether the environment is what its pool asks for today, as far as its host can make that.

    While an image is being built, what was made of the one before is what there is.
    """
    pool = configuration.pools.get(environment.pool)
    if pool is None or environment.retiring or environment.fork_of:
        return False
    names = tuple(machine.name for machine in environment.machines)
    if (pool.machines, pool.reset) != (names, environment.reset):
        return False
    if environment.spec is None:
        return not pool.is_virtual and pool.host == environment.host
    settings = configuration.hosts.get(environment.host)
    if not pool.is_virtual or settings is None or not suits(pool, Room(host=settings.name, labels=settings.labels)):
        return False
    wanted = spec_of(pool, booking.images_on(tables, environment.host))
    return wanted is None or wanted == environment.spec


def saved_name(environment: str, machine: str) -> str:
    """What a host calls the copies of a machine's disks."""
    return f"{environment}.{machine}"


def spec_for(tables: Tables, environment: Environment, machine: str) -> dict[str, JSON] | None:
    """The `spec` of a machine for its host; None if its image was built anew meanwhile, or is no longer there."""
    spec = environment.spec
    assert spec is not None
    place = next(index for index, one in enumerate(environment.machines) if one.name == machine)
    made = spec.machines[place]
    row = booking.images_on(tables, environment.host).get(made.image)
    if not environment.fork_of and (row is None or row.digest != spec.images.get(made.image)):
        return None
    image = row.serving if row is not None else ()
    if environment.fork_of:  # of disks that are what they were, whatever their image is by now
        image = (spec.kernels[made.image],) if made.image in spec.kernels else ()
    cards = {
        one.name: nics(
            environment.id, one.name, index, spec.machines[index].nets, spec.networks, maker=environment.maker
        )
        for index, one in enumerate(environment.machines)
    }
    told = MachineSpec(
        image=image,
        layer="" if environment.fork_of else spec.images[made.image],
        saved=saved_name(environment.fork_of, machine) if environment.fork_of else "",
        memory=made.memory,
        vcpus=made.vcpus,
        disks=made.disks,
        nics=cards[machine],
        networks=tuple(_network(network) for network in spec.networks),
        egress=spec.egress,
        peers=tuple(Peer(machine=name, addresses=_addresses(own)) for name, own in cards.items() if name != machine),
        start=Start.BOOT if environment.fork_of else spec.start,
        template=environment.for_templates > 0,
        display=made.display,
        boot=made.boot,
    )
    return told.params()


def _addresses(cards: tuple[Nic, ...]) -> tuple[str, ...]:
    return tuple(card.address.partition("/")[0] for card in cards if card.address)


def _network(network: NetworkSettings) -> NetworkSpec:
    return NetworkSpec(
        name=network.name,
        subnet=network.subnet,
        latency=network.latency,
        loss=network.loss,
        rate=network.rate,
        bridge=network.bridge,
    )
