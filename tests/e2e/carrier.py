"""A skill for tests: a host's machine is a guest that runs already, reached over its serial port.

The host's agent owns the channel as it does for machines of its own making: it vouches for the guest, copies both
ways, and takes up the relay again after its own death.

Effects: idempotent.
"""

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from paddock.agent.channel import Carrying, Channel
from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Deed, Place, Read, Work
from paddock.core.errors import Refused
from paddock.hands import links
from paddock.hands.link import Link
from paddock.wire.framing import JSON

SOCKET = "PADDOCK_TEST_CHANNEL"
"""Names the guest's end of the channel."""


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Mapping[str, Deed]]:
    """machine.build adopts the guest, machine.list tells of it; it is never cleaned: it goes with its only lease."""
    if place.carrying is None:
        raise Refused("guests: only the agent of a host carries machines")
    yield Carrier(place, place.carrying).methods()


class Carrier:
    """The one guest of this host, remembered in a file."""

    def __init__(self, place: Place, carrying: Carrying) -> None:
        self._place = place
        self._carrying = carrying
        self._file = place.state / "guest.json"
        self._channels: dict[tuple[str, str], Channel] = {}
        if self._file.exists():
            known = json.loads(self._file.read_text())
            self._adopt(known["environment"], known["machine"])

    def methods(self) -> Mapping[str, Deed]:
        return {"machine.build": Work(act=self._build), "machine.list": Read(answer=self._list)}

    async def _build(self, call: Call) -> Outcome:
        machine = call.text("machine")
        self._file.write_text(json.dumps({"environment": call.environment, "machine": machine}))
        channel = self._adopt(call.environment, machine)
        await channel.related.wait()
        return Outcome(result={"machine": machine, "address": "", "addresses": []})

    async def _list(self, call: Call) -> Mapping[str, JSON]:
        return {
            "machines": [
                {"environment": environment, "machine": machine, "state": "relayed" if one.related.is_set() else "away"}
                for (environment, machine), one in self._channels.items()
            ]
        }

    def _adopt(self, environment: str, machine: str) -> Channel:
        key = (environment, machine)
        if key not in self._channels:
            channel = Channel(environment=environment, machine=machine, reach=_reach)
            self._place.keep(f"relay {machine}", partial(channel.keep, self._carrying))
            self._channels[key] = channel
        return self._channels[key]


async def _reach() -> Link:
    return await links.connect(f"serial:{os.environ[SOCKET]}")


def command(*words: str) -> list[str]:
    """The command line of an agent that has this skill beside its own: a package may bring no machine.build."""
    return [sys.executable, "-c", _START, *words]


_START = """
from paddock.agent import skills
from paddock.agent.__main__ import main
skills.MODULES = {**skills.MODULES, "guests": "tests.e2e.carrier"}
main()
"""
