"""What a host tells each of its machines about itself, and whether over HTTP, as configured.

Effects: none but reading the file of keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paddock.agent.cables.shapes import Card, Facts
from paddock.core.egress import parse
from paddock.core.errors import Refused
from paddock.core.machine import Nic

OWN = "169.254.169.254:80"
"""Where images look for it."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """For images that ask who they are over HTTP, at 169.254.169.254, in the shape of EC2 or of OpenStack.

    Guests of private networks are served if any are; `listen_addr` and `listen_port` are for those on a bridge of the
    host, which reach the host itself. Keys and user data are also for who asks nobody over HTTP.
    """

    is_served: bool = True

    listen_addr: str = ""
    listen_port: int = 0
    authorized_keys: Path | None = None
    """A file of public keys that may log in to every machine, beside those of its lease."""
    user_data: str = ""

    @classmethod
    def configured(cls, place: str, user_data: Path | None, authorized_keys: Path | None) -> "Metadata":
        """From agent.conf: `place` is ADDRESS:PORT, and nobody is served without it. Refused, saying why, if it cannot
        be.

        At the address that images look for, guests of private networks are served, and nobody else.
        """
        address, port = _served_at(place) if place and place != OWN else ("", 0)
        said = ""
        if user_data is not None:
            try:
                said = user_data.read_text("utf-8")
            except (OSError, ValueError) as exc:
                raise Refused(f"{user_data}: {exc}", hint="[hypervisor] user-data") from exc
        found = cls(
            is_served=bool(place),
            listen_addr=address,
            listen_port=port,
            authorized_keys=authorized_keys,
            user_data=said,
        )
        found.keys()
        return found

    def keys(self) -> tuple[str, ...]:
        """The lines of the file. Refused, saying why, if it cannot be read."""
        if self.authorized_keys is None:
            return ()
        try:
            lines = self.authorized_keys.read_text("utf-8").splitlines()
        except (OSError, ValueError) as exc:
            raise Refused(
                f"{self.authorized_keys}: {exc}", hint="[hypervisor] authorized-keys: a file with a public key a line"
            ) from exc
        return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))

    def facts(self, name: str, machine: str, nics: Sequence[Nic], keys: Sequence[str]) -> Facts:
        """What a machine is told: its uniform name, host name, cards, keys of its lease and of the host."""
        return Facts(
            name=name,
            hostname=machine,
            cards=tuple(Card(mac=nic.mac.lower(), address=nic.address) for nic in nics),
            keys=tuple(dict.fromkeys([*keys, *self.keys()])),
            user_data=self.user_data,
        )


def _served_at(place: str) -> tuple[str, int]:
    address, _, port = place.rpartition(":")
    if parse(address) is None or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Refused(f"hypervisor: metadata {place} is no ADDRESS:PORT", hint=OWN)
    return address.strip("[]"), int(port)
