"""Who a machine was told to be: one file, written when all that shows it is on the disk.

Effects: idempotent; the file is there whole or not at all. It holds no secret. One that a power cut found before that
is nobody again.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from paddock.agent import durable
from paddock.wire.specs import Wake

FILE = "woken.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """`cards` are pairs of MAC and address. `settled_in` is the kernel's boot in which cards and services were seen to
    last; empty: never.
    """

    wake_id: str
    agent: str
    environment: str
    machine: str
    fence: int
    hostname: str
    cards: tuple[tuple[str, str], ...] = ()
    restart: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    """Variables of all its tasks."""
    settled_in: str = ""

    @classmethod
    def of(cls, wake: Wake) -> Self:
        """What is remembered of a wake."""
        return cls(
            wake_id=wake.wake_id,
            agent=wake.agent,
            environment=wake.environment,
            machine=wake.machine,
            fence=wake.fence,
            hostname=wake.hostname,
            cards=tuple(zip(wake.macs, wake.addresses, strict=True)),
            restart=wake.restart,
            env=tuple(wake.env.items()),
        )

    def settled(self, boot: str) -> "Record":
        """Its cards are up, and its services run, in this boot."""
        return replace(self, settled_in=boot)


def load(state: Path) -> Record | None:
    """Who this machine is; None while it is nobody. What is no record of ours is as good as none."""
    found: Any = durable.read(state / FILE)
    try:
        cards = tuple((str(mac), str(address)) for mac, address in found.pop("cards"))
        env = tuple((str(name), str(value)) for name, value in found.pop("env"))
        return Record(**{**found, "cards": cards, "env": env, "restart": tuple(found["restart"])})
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def save(state: Path, record: Record) -> None:
    """From here on it is somebody, also after a power cut."""
    told = {**asdict(record), "cards": [list(card) for card in record.cards], "env": [list(one) for one in record.env]}
    durable.write(state / FILE, told)
