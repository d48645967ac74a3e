"""Where things lie below the root of the skill, and what they are called on this host.

Effects: none; it makes no directory.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from paddock.agent.paths import name_for
from paddock.core.machine import uniform


@dataclass(frozen=True, kw_only=True)
class Layout:
    """`root` is for its owner alone, where disks are cloned; `instance` tells two hosts of one computer apart."""

    root: Path
    instance: str

    @classmethod
    def of(cls, root: Path) -> "Layout":
        """The layout below a root; the same one for the same root."""
        return cls(root=root, instance=hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8])

    @property
    def images(self) -> Path:
        """A sealed volume each, by its digest."""
        return self.root / "images"

    @property
    def templates(self) -> Path:
        """Frozen machines, by their key."""
        return self.root / "templates"

    @property
    def making(self) -> Path:
        """What is not whole yet, or goes: swept at each start."""
        return self.root / "making"

    @property
    def saved(self) -> Path:
        """Disks that were kept of machines that are gone."""
        return self.root / "saved"

    def kept(self) -> list[tuple[str, str]]:
        """(environment, machine) of whose disks there are copies: they are called after both."""
        found = [place.name.rpartition(".") for place in sorted(self.saved.glob("[!.]*"))]
        return [(environment, machine) for environment, _, machine in found if environment and machine]

    @property
    def machines(self) -> Path:
        """A directory for each environment, in it one for each machine."""
        return self.root / "machines"

    @property
    def networks(self) -> Path:
        """A directory for each environment that has networks."""
        return self.root / "networks"

    def environment(self, environment: str) -> Path:
        """What belongs to the machines of one environment together."""
        return self.machines / name_for(environment)

    def machine(self, environment: str, machine: str) -> Path:
        """One machine's directory."""
        return self.environment(environment) / name_for(machine)

    def name(self, environment: str, machine: str) -> str:
        """What its process is called."""
        return uniform(self.instance, environment, machine)
