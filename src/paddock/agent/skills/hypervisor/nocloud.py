"""What a machine that boots finds on its drive `cidata`: who it is, as cloud-init reads it.

Effects: none; it makes texts.

Our own agent is told over its line and needs none of this. It is for cloud-init, which is to let the same keys in and
give cards the same addresses as the agent does, and to touch nothing else that the agent sees to. No secret is on it:
host key and login key come with the wake.
"""

import json
from collections.abc import Collection, Mapping

from paddock.agent.cables.shapes import Card, Facts

_HEAD = "#cloud-config\n"
_OURS = {
    "ssh_deletekeys": False,
    "ssh_genkeytypes": [],
    "disable_root": False,
    "preserve_hostname": True,
    "manage_etc_hosts": False,
}
"""What the agent does, cloud-init leaves. The host's own user data are stronger: they are somebody's will."""


def files(facts: Facts, *, fence: int, leased: Collection[str] = ()) -> Mapping[str, bytes]:
    """All files of the seed. `leased` are the MACs of cards that are given an address on their wire."""
    told = {
        "meta-data": _yaml(_meta_data(facts, fence)),
        "user-data": facts.user_data or _HEAD + _yaml({}),
        "vendor-data": _HEAD + _yaml(_OURS),
        "network-config": _yaml(_network(facts.cards, {mac.lower() for mac in leased})),
    }
    return {name: text.encode() for name, text in told.items()}


def _meta_data(facts: Facts, fence: int) -> dict[str, object]:
    """Of each fence another instance: cloud-init does everything once for each."""
    return {
        "instance-id": f"{facts.name}.{fence}",
        "local-hostname": facts.hostname,
        "public-keys": list(facts.keys),
    }


def _network(cards: Collection[Card], leased: Collection[str]) -> dict[str, object]:
    """Known by its MAC, under whatever name its kernel gives it."""
    if not cards:
        return {"config": "disabled"}
    return {"version": 2, "ethernets": {f"card{number}": _card(card, leased) for number, card in enumerate(cards)}}


def _card(card: Card, leased: Collection[str]) -> dict[str, object]:
    """No boot waits for it: who breaks the network of a machine gets it back all the same."""
    told: dict[str, object] = {"match": {"macaddress": card.mac}, "optional": True}
    if card.address:
        return {**told, "addresses": [card.address]}
    return {**told, "dhcp4": card.mac in leased}


def _yaml(value: Mapping[str, object]) -> str:
    """JSON is YAML: nothing that stands in it can end a scalar."""
    return json.dumps(value, indent=1) + "\n"
