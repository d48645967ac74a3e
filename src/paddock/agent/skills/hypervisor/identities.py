"""Who a machine is from now on: names, keys and entropy of one lease, never in an image.

Effects: none of its own; chance comes from the kernel of the host.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from paddock.agent.skills.hypervisor.keys import Pair
from paddock.agent.skills.hypervisor.ports import Card
from paddock.core.image import Chain
from paddock.wire.specs import MachineSpec, Wake

_ENTROPY = 256
"""Bytes: as much as the kernel's generator takes in, and then some for each of the agent's own."""
NOBODY = "nobody"
"""The environment of machines that build an image or become a template."""


def of_machine(
    *,
    environment: str,
    machine: str,
    fence: int,
    spec: MachineSpec,
    cards: Sequence[Card],
    host: Pair,
    login: Pair,
    env: dict[str, str],
    logins: Sequence[str] = (),
) -> Wake:
    """The identity of a machine of an environment."""
    return Wake(
        agent=f"{environment}.{machine}",
        environment=environment,
        machine=machine,
        fence=fence,
        hostname=machine,
        machine_id=secrets.token_hex(16),
        wake_id=secrets.token_hex(8),
        time=datetime.now(UTC),
        entropy=os.urandom(_ENTROPY),
        host_keys={"ssh_host_ed25519_key": host.private, "ssh_host_ed25519_key.pub": f"{host.public}\n"},
        authorized_keys=(login.public, *logins),
        login_key=login.private,
        macs=tuple(card.mac for card in cards),
        addresses=tuple(card.address for card in cards),
        peers=spec.peers,
        env=env,
        restart=restarted(spec.image),
    )


def of_nobody(machine: str, *, cards: Sequence[Card] = (), env: Mapping[str, str] | None = None) -> Wake:
    """For a machine that builds an image or becomes a template: good for as long as that takes."""
    return Wake(
        agent=f"{NOBODY}.{machine}",
        environment=NOBODY,
        machine=machine,
        fence=1,
        hostname=NOBODY,
        machine_id=secrets.token_hex(16),
        wake_id=secrets.token_hex(8),
        time=datetime.now(UTC),
        entropy=os.urandom(_ENTROPY),
        macs=tuple(card.mac for card in cards),
        addresses=tuple(card.address for card in cards),
        env=dict(env or {}),
    )


def restarted(images: Chain) -> tuple[str, ...]:
    """The services that a fork of an image restarts: those of all that it is made of, each once."""
    return tuple(dict.fromkeys(service for image in images for service in image.restart))
