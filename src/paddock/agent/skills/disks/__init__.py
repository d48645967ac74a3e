"""Lists, formats, mounts, grows and encrypts the disks of a machine.

Effects: idempotent; each method states how a disk is to be. Nothing that is mounted, has a signature or carries the
system is destroyed, unless it is given up by its serial number; the system's disk never.
"""

import functools
from collections.abc import Callable, Mapping

from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Deed, Place, Read, Work, in_thread
from paddock.core.errors import Refused
from paddock.wire.framing import JSON


def methods(place: Place) -> Mapping[str, Deed]:
    """disk.list, disk.format, disk.mount, disk.unmount, disk.resize, disk.encrypt."""

    async def list_(call: Call) -> Mapping[str, JSON]:
        from paddock.agent.skills.disks import listing

        return (await in_thread(functools.partial(listing.list_, call))).result

    def work(act: Callable[[Place, Call], Outcome]) -> Work:
        async def run(call: Call) -> Outcome:
            return await in_thread(functools.partial(_as_root, act, place, call))

        return Work(act=run)

    return {
        "disk.list": Read(answer=list_),
        "disk.format": work(_format),
        "disk.mount": work(_mount),
        "disk.unmount": work(_unmount),
        "disk.resize": work(_resize),
        "disk.encrypt": work(_encrypt),
    }


def _as_root(act: Callable[[Place, Call], Outcome], place: Place, call: Call) -> Outcome:
    import os

    if os.geteuid() != 0:
        raise Refused(f"{call.method}: needs an agent that is root")
    return act(place, call)


# Each is loaded when it is first asked for: most agents never touch a disk.


def _format(place: Place, call: Call) -> Outcome:
    from paddock.agent.skills.disks import formatting

    return formatting.format_(place, call)


def _mount(place: Place, call: Call) -> Outcome:
    from paddock.agent.skills.disks import mounting

    del place
    return mounting.mount(call)


def _unmount(place: Place, call: Call) -> Outcome:
    from paddock.agent.skills.disks import mounting

    del place
    return mounting.unmount(call)


def _resize(place: Place, call: Call) -> Outcome:
    from paddock.agent.skills.disks import resizing

    return resizing.resize(place, call)


def _encrypt(place: Place, call: Call) -> Outcome:
    from paddock.agent.skills.disks import encrypting

    return encrypting.encrypt(place, call)
