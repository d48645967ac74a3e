"""The program on a machine that dials out and carries out commands, as the server knows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Kind(StrEnum):
    HOST = "host"
    """Has a token of its own and carries machines or is one."""
    MACHINE = "machine"
    """Relayed by the host that carries it; has no token."""


@dataclass(frozen=True, kw_only=True)
class Agent:
    """What the server remembers of an agent between its sessions."""

    id: str
    name: str
    kind: Kind
    host: str = ""
    """Name of the host it is, or that carries it."""
    environment: str = ""
    machine: str = ""
    token: str = ""
    """Digest of its token; empty for relayed ones."""
    new_token: str = ""
    """Digest of the token it is rotating to; both are valid until the new one has said hello."""
    ledger: str = ""
    boot_id: str = ""
    seq: int = 0
    """The highest seq given to a command of its."""
    software: str = ""
    skills: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    """All that it carries out, as it said in its last hello; empty for one that does not say."""
    facts: Mapping[str, object] = field(default_factory=dict)
    session: str = ""
    """Id of its live session, empty while it is away."""
    shut_out: str = ""
    """Why no session of this identity is taken (two agents answer to it), until a person decides."""
    seen: datetime | None = None
    """When it connected or left last."""
    created: datetime | None = None
    version: int = 0

    @property
    def is_connected(self) -> bool:
        return self.session != ""
