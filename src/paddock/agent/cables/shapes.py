"""What a machine is told about itself over HTTP, in the shapes of EC2 and OpenStack.

Effects: none.
"""

import hashlib
import ipaddress
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from paddock.wire.framing import JSON

EC2 = ("1.0", "2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest")
OPENSTACK = ("2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2018-08-27", "latest")
_ZONE = "nova"


@dataclass(frozen=True, kw_only=True)
class Card:
    """A network card; `address` has its prefix length, and is empty where the card has none of ours."""

    mac: str
    address: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that one machine may know."""

    name: str
    """Uniform, and never used again: an image that sees another one is somewhere new."""
    hostname: str
    cards: tuple[Card, ...] = ()
    keys: tuple[str, ...] = ()
    user_data: str = ""

    @property
    def instance(self) -> uuid.UUID:
        """The same for one machine of one environment, whoever asks."""
        return uuid.UUID(bytes=hashlib.sha256(self.name.encode()).digest()[:16], version=4)

    @classmethod
    def read(cls, value: Mapping[str, object]) -> "Facts":
        """From what `params` gave."""
        cards, keys = value["cards"], value["keys"]
        if not isinstance(cards, list) or not isinstance(keys, list):
            raise AssertionError("params made it")
        return cls(
            name=str(value["name"]),
            hostname=str(value["hostname"]),
            cards=tuple(Card(mac=str(card["mac"]), address=str(card["address"])) for card in cards),
            keys=tuple(map(str, keys)),
            user_data=str(value["user_data"]),
        )

    def params(self) -> dict[str, JSON]:
        """For a file."""
        return {
            "name": self.name,
            "hostname": self.hostname,
            "cards": [{"mac": card.mac, "address": card.address} for card in self.cards],
            "keys": list(self.keys),
            "user_data": self.user_data,
        }


@dataclass(frozen=True, kw_only=True)
class Said:
    """An answer over HTTP."""

    status: int
    body: str = ""
    kind: str = "text/plain"


MISSING = Said(status=404, body="404 Not Found\n")


def answer(facts: Facts, method: str, path: str) -> Said:
    """What a machine that asks about itself hears. Whatever else it asks for is not there."""
    parts = [part for part in path.partition("?")[0].split("/") if part]
    if method == "PUT":
        # The second version of EC2's protocol. The wire says who asks, so a token proves nothing, and none is checked.
        return Said(status=200, body=_token(facts)) if parts[1:] == ["api", "token"] and parts[0] in EC2 else MISSING
    if method not in ("GET", "HEAD"):
        return Said(status=405, body="405 Method Not Allowed\n")
    if not parts:
        return Said(status=200, body=_list((*EC2, "openstack")))
    if parts[0] == "openstack":
        return _openstack(facts, parts[1:])
    return _ec2(facts, parts[1:]) if parts[0] in EC2 else MISSING


def _token(facts: Facts) -> str:
    return hashlib.sha256(f"token {facts.instance}".encode()).hexdigest()


# ---- EC2


def _ec2(facts: Facts, parts: list[str]) -> Said:
    if not parts:
        return Said(status=200, body=_list(["meta-data/", *(["user-data"] if facts.user_data else [])]))
    if parts == ["user-data"]:
        return _text(facts.user_data)
    if parts[0] != "meta-data":
        return MISSING
    leaves = _leaves(facts)
    place = "/".join(parts[1:])
    if place in leaves:
        return Said(status=200, body=leaves[place])
    if place == "public-keys" and facts.keys:
        # The one directory whose listing is no listing: numbers and names.
        return Said(status=200, body=_list(f"{number}=key-{number}" for number in range(len(facts.keys))))
    below = f"{place}/" if place else ""
    names = dict.fromkeys(_first(leaf.removeprefix(below)) for leaf in leaves if leaf.startswith(below))
    return Said(status=200, body=_list(names)) if names else MISSING


def _leaves(facts: Facts) -> dict[str, str]:
    short = f"i-{facts.instance.hex[:17]}"
    found = {
        "ami-id": "ami-00000000",
        "ami-launch-index": "0",
        "hostname": facts.hostname,
        "instance-action": "none",
        "instance-id": short,
        "instance-type": "paddock",
        "local-hostname": facts.hostname,
        "placement/availability-zone": _ZONE,
        "reservation-id": f"r-{facts.instance.hex[:8]}",
        "security-groups": "default",
    }
    if facts.cards:
        found["mac"] = facts.cards[0].mac
    addresses = [card.address.partition("/")[0] for card in facts.cards if card.address]
    if addresses:
        found["local-ipv4"] = addresses[0]
    for number, key in enumerate(facts.keys):
        found[f"public-keys/{number}/openssh-key"] = key
    for number, card in enumerate(facts.cards):
        place = f"network/interfaces/macs/{card.mac}"
        found |= {f"{place}/mac": card.mac, f"{place}/device-number": str(number)}
        if card.address:
            where = ipaddress.ip_interface(card.address)
            found[f"{place}/local-ipv4s"] = str(where.ip)
            found[f"{place}/subnet-ipv4-cidr-block"] = str(where.network)
    return found


def _first(path: str) -> str:
    name, slash, _ = path.partition("/")
    return name + slash


# ---- OpenStack


def _openstack(facts: Facts, parts: list[str]) -> Said:
    if not parts:
        return Said(status=200, body=_list(OPENSTACK))
    if parts[0] not in OPENSTACK:
        return MISSING
    match parts[1:]:
        case []:
            names = ["meta_data.json", "network_data.json", "vendor_data.json"]
            return Said(status=200, body=_list([*names, *(["user_data"] if facts.user_data else [])]))
        case ["meta_data.json"]:
            return _json(_meta_data(facts))
        case ["user_data"]:
            return _text(facts.user_data)
        case ["network_data.json"]:
            return _json(_network_data(facts))
        case ["vendor_data.json"]:
            return _json({})
    return MISSING


def _meta_data(facts: Facts) -> dict[str, object]:
    keys = {f"key-{number}": line for number, line in enumerate(facts.keys)}
    return {
        "uuid": str(facts.instance),
        "name": facts.hostname,
        "hostname": facts.hostname,
        "availability_zone": _ZONE,
        "launch_index": 0,
        "meta": {},
        "devices": [],
        "public_keys": keys,
        "keys": [{"name": name, "type": "ssh", "data": line} for name, line in keys.items()],
    }


def _network_data(facts: Facts) -> dict[str, object]:
    links: list[object] = []
    networks: list[object] = []
    for number, card in enumerate(facts.cards):
        link = f"card{number}"
        links.append({"id": link, "vif_id": link, "type": "phy", "ethernet_mac_address": card.mac, "mtu": 1500})
        if card.address:
            where = ipaddress.ip_interface(card.address)
            networks.append(
                {
                    "id": f"network{number}",
                    "network_id": f"network{number}",
                    "link": link,
                    "type": f"ipv{where.version}",
                    "ip_address": str(where.ip),
                    "netmask": str(where.netmask),
                    "routes": [],
                    "services": [],
                }
            )
    return {"links": links, "networks": networks, "services": []}


def _json(value: object) -> Said:
    return Said(status=200, body=json.dumps(value), kind="application/json")


def _text(text: str) -> Said:
    return Said(status=200, body=text) if text else MISSING


def _list(names: Iterable[str]) -> str:
    return "\n".join(names)
