"""A host's agent as far as its networks go: a process that opens, wires and waits to be killed.

Its words are a directory and what to do: `open/ENVIRONMENT`, `wire/ENVIRONMENT/MACHINE`, `close/ENVIRONMENT`. It says
`done` when all is carried out, and which environments it finds, and lives until its standard input ends.
"""

import asyncio
import os
import sys
from pathlib import Path

from paddock.agent.skills.hypervisor.networks.rooted import Rooted
from paddock.agent.skills.hypervisor.networks.rootless import Rootless
from paddock.core.machine import Nic, mac
from paddock.wire.specs import NetworkSpec

INSTANCE = "0a1b2c3d"
ROOTED = "ROOTED"
"""In the environment of one that does it with root."""


async def carry_out(networks: Rootless | Rooted, root: Path, verb: str, environment: str, machine: str) -> None:
    match verb:
        case "open":
            await networks.open(environment, [NetworkSpec(name="left")], ["127.0.0.0/8:9"])
        case "wire":
            nic = Nic(network="left", mac=mac(environment, machine, 0))
            await networks.wire(environment, machine, root / environment / machine, [nic])
        case "unwire":
            await networks.unwire(environment, machine)
        case "close":
            await networks.close(environment)


async def main() -> None:
    root, words = Path(sys.argv[1]), sys.argv[2:]
    opened = Rooted(root / "networks", INSTANCE) if ROOTED in os.environ else Rootless(root / "networks", INSTANCE)
    async with opened as networks:
        for word in words:
            verb, environment, machine = f"{word}//".split("/")[:3]
            await carry_out(networks, root, verb, environment, machine)
        print("done", *await networks.found(INSTANCE), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
