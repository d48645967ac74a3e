"""A whole Paddock whose machines are real ones: server, host's agent and QEMU, with one image and a few pools."""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddock.agent.skills.hypervisor.drivers.qemu.command import PROGRAM
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.client import Client
from paddock.hands import trees
from paddock.wire.shapes import AgentCommand
from tests.story.house import House, house
from tools.guest import Image
from tools.maven import Unavailable

LONG = 600.0
"""Seconds: an image is built, on a host that has other work."""
FORKED = 240.0
BOOTED = 400.0
WORDS = "root=/dev/vda rw console=ttyS0 quiet panic=1 mitigations=off apparmor=0 selinux=0"
MEMORY = "1536MiB"
"""A fork has a sixteenth of it for translated code; with a quarter of that it works three times as slowly."""

DRAWER = """\
import os, termios, time
line = os.open("/dev/ttyS0", os.O_WRONLY | os.O_NOCTTY)
number = 0
while number < 600 and not os.path.exists("/run/enough"):
    os.write(line, b"drawn %d %s end\\n" % (number, os.urandom(16).hex().encode()))
    termios.tcdrain(line)
    number += 1
    if number == 4:
        open("/run/drawing", "w").close()
    time.sleep(0.2)
"""
WARM_UP = f"""\
cat > /usr/local/lib/drawer.py <<'END'
{DRAWER}END
systemd-run --quiet --no-block --unit=drawer python3 -IS /usr/local/lib/drawer.py
while [ ! -e /run/drawing ]; do sleep 0.1; done
"""
"""The template is warm once a service draws random numbers, one after the other: the next one it draws in each fork."""

HOST = "- host: {name: local, skills: [hypervisor], memory: 64GiB, vcpus: 64, disk: 400GiB}\n"


@dataclass(frozen=True, kw_only=True)
class Lent:
    """An environment that was lent."""

    lease: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.environment["id"])

    @property
    def fence(self) -> int:
        return int(self.lease["fence"])

    @property
    def machines(self) -> dict[str, Any]:
        """By their names, as the API tells of them."""
        return {one["name"]: one for one in self.environment["machines"]}


class Lab:
    """The house, and what its machines are asked."""

    def __init__(self, built: House) -> None:
        self.house = built
        self._client: Client | None = None

    # ---- where things are

    @property
    def layout(self) -> Layout:
        return Layout.of(self.house.agent_state / "hypervisor")

    def records(self) -> dict[str, Any]:
        """Of machines, by their uniform names."""
        found = [json.loads(file.read_text()) for file in self.layout.machines.glob("*/*/machine.json")]
        return {one["name"]: one for one in found}

    def directory(self, lent: Lent, machine: str) -> Path:
        return self.layout.machine(lent.id, machine)

    def running(self) -> dict[str, int]:
        """Machines of this host that run, whoever started them, with their processes."""
        return running(self.layout.instance)

    def is_tidy(self) -> bool:
        """What runs is what is owned, what is owned is of an environment, and nothing is half-made."""
        living = {one["id"] for one in self.house.get("environments")["items"] if one["state"] != "gone"}
        records = self.records()
        return (
            sorted(self.running()) == sorted(records)
            and {one["environment"] for one in records.values()} <= living
            and not list(self.layout.making.iterdir())
        )

    # ---- what people do

    @property
    def client(self) -> Client:
        if self._client is None:
            # The token that the server writes is another one after each start.
            secret = self.house.post("tokens", name="anna", role="operator")["secret"]
            self._client = Client(self.house.url, token=secret)
        return self._client

    def lend(self, pool: str, *, limit: float = FORKED) -> Lent:
        return self.granted(self.house.post("leases", pool=pool, ttl=7200)["id"], limit=limit)

    def granted(self, id: str, *, limit: float = FORKED) -> Lent:
        """Once it is."""

        def look() -> Any:
            lease = self.house.get(f"leases/{id}")
            assert lease["state"] in ("queued", "granted"), lease
            return lease if lease["state"] == "granted" else None

        lease = self.house.until(look, f"lease {id} is granted", limit=limit)
        return Lent(lease=lease, environment=self.house.get(f"environments/{lease['environment']}"))

    def give_back(self, lent: Lent) -> None:
        self.house.post(f"leases/{lent.lease['id']}/release", fence=lent.fence)

    @contextlib.contextmanager
    def lending(self, pool: str, *, limit: float = FORKED) -> Iterator[Lent]:
        lent = self.lend(pool, limit=limit)
        try:
            yield lent
        finally:
            self.give_back(lent)

    def begin(self, lent: Lent, machine: str, script: str) -> AgentCommand:
        """Have the agent inside run a script."""
        return self.client.order(lent.machines[machine]["agent"], "script.run", {"run": script, "limit": 300})

    def until_running(self, command: AgentCommand) -> None:
        """It has begun."""
        told = f"agents/{command.agent}/commands/{command.id}"
        self.house.until(lambda: self.house.get(told)["state"] == "running", "it runs", limit=FORKED)

    def finished(self, command: AgentCommand, *, exit: int = 0) -> str:
        """What a script printed, which ends so."""
        over = self.client.finish(command, wait=FORKED)
        said = b"".join(self.client.output(over)).decode(errors="replace")
        assert (over.state, over.exit) == ("complete", exit), (over, said)
        return said

    def run(self, lent: Lent, machine: str, script: str, *, exit: int = 0) -> str:
        return self.finished(self.begin(lent, machine, script), exit=exit)

    def everywhere(self, lent: Lent, script: str) -> dict[str, str]:
        """What each machine says, all of them asked at once."""
        begun = {machine: self.begin(lent, machine, script) for machine in lent.machines}
        return {machine: self.finished(command) for machine, command in begun.items()}

    def press(self, lent: Lent, machine: str, what: str, **told: Any) -> Any:
        """The command of a button, a look at the screen or the serial line, as it is when it is over."""
        ordered = self.house.post(f"environments/{lent.id}/machines/{machine}/{what}", fence=lent.fence, **told)

        def look() -> Any:
            command = self.house.get(f"agents/{ordered['agent']}/commands/{ordered['id']}", wait=10)
            return command if command["ended"] else None

        over = self.house.until(look, f"{what} of {machine} is over", limit=FORKED)
        return over

    def boot_id(self, lent: Lent, machine: str) -> str:
        """As the agent inside said it in its last hello; empty while it is away."""
        agent = self.house.get(f"agents/{lent.machines[machine]['agent']}")
        return str(agent["boot_id"]) if agent["connected"] else ""

    def ledger(self, lent: Lent, machine: str) -> str:
        """Which ledger the agent inside said in its last hello that it keeps."""
        with contextlib.closing(sqlite3.connect(f"file:{self.house.state}/paddock.sqlite?mode=ro", uri=True)) as rows:
            (found,) = rows.execute("SELECT ledger FROM agents WHERE id = ?", [lent.machines[machine]["agent"]])
        return str(found[0])

    def booted(self, lent: Lent, machine: str, *, after: str) -> str:
        """Its boot id, once it is another one."""

        def look() -> str:
            found = self.boot_id(lent, machine)
            return found if found != after else ""

        return self.house.until(look, f"{machine} is back", limit=BOOTED)


def running(instance: str) -> dict[str, int]:
    """Machines with this instance in their names, with their processes."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                is_ours = Path(words[0]).name == PROGRAM and words[2].startswith(f"paddock-{instance}-")
                if is_ours and trees.identify(int(entry.name)) is not None:
                    found[words[2]] = int(entry.name)
    return found


@contextlib.contextmanager
def opened(directory: Path, image: Image, pools: str) -> Iterator[Lab]:
    """A lab that leaves nothing behind. Unavailable where no machine can run."""
    if shutil.which(PROGRAM) is None:
        raise Unavailable(f"there is no {PROGRAM} here; on Debian: apt-get install qemu-system-x86")
    with house(directory) as built:
        built.host_program = ("-m", "paddock.agent", "run", "--skills", "hypervisor")
        built.host = HOST
        lab = Lab(built)
        built.configure(_image(image) + pools)
        yield lab
    assert running(lab.layout.instance) == {}, "machines are left"


def _image(image: Image) -> str:
    told = {
        "name": "plain",
        "path": str(image.disk),
        "kernel": str(image.kernel),
        "initrd": str(image.initrd),
        "cmdline": WORDS,
        "entry": "helper",
        "memory": MEMORY,
        "warm-up": WARM_UP,
        "restart": ["ssh"],
    }
    return f"- image: {json.dumps(told)}\n"
