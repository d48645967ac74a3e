"""What a machine that boots finds on its drive `cidata`: who it is, as cloud-init reads it.

Effects: none; it makes texts.

Our own agent is told over its line and needs none of this. It is for cloud-init, which is to let the same keys in and
give cards the same addresses as the agent does, and to touch nothing else that the agent sees to. No secret is on it:
host key and login key come with the wake.
"""

import json
from collections.abc import Collection, Mapping, Sequence

from paddock.agent.cables.shapes import Card, Facts

_HEAD = "#cloud-config\n"
_OURS = {
    "ssh_deletekeys": False,
    "ssh_keys": {},  # none are made then; `ssh_genkeytypes: []` does that, too, and is warned of
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


def _network(cards: Sequence[Card], leased: Collection[str]) -> dict[str, object]:
    """Each is known by its MAC, under whatever name its kernel gives it. A card that nobody gives an address is left
    alone, as without any.

    A boot waits for one card alone: systemd, if it is to wait for none, waits two minutes for any. The last one with an
    address is that: the way outside where there is one, and QEMU itself is at its other end.
    """
    known = [card for card in cards if card.address or card.mac in leased]
    if not known:
        return {"config": "disabled"}
    required = [card for card in known if card.address][-1:] or known[-1:]
    return {
        "version": 2,
        "ethernets": {f"card{cards.index(card)}": _card(card, optional=card not in required) for card in known},
    }


def _card(card: Card, *, optional: bool) -> dict[str, object]:
    told: dict[str, object] = {"match": {"macaddress": card.mac}, "optional": optional}
    return {**told, "addresses": [card.address]} if card.address else {**told, "dhcp4": True}


def _yaml(value: Mapping[str, object]) -> str:
    """JSON is YAML: nothing that stands in it can end a scalar."""
    return json.dumps(value, indent=1) + "\n"
