"""Key pairs for ssh, made for one lease of one machine.

Effects: none that outlive it; OpenSSH writes into a directory that is gone afterwards.
"""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from paddock.agent.skills import tools


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A key pair as OpenSSH writes it."""

    private: str = field(repr=False)
    public: str
    """One line, as it stands in authorized_keys and known_hosts."""


async def pair(comment: str) -> Pair:
    """A new ed25519 pair. Missing where OpenSSH's client is not installed."""
    return await asyncio.to_thread(_make, comment)


def _make(comment: str) -> Pair:
    tools.find("ssh-keygen", package="openssh-client")
    with tempfile.TemporaryDirectory(prefix="paddock-key-") as directory:
        file = Path(directory) / "key"
        tools.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(file), limit=20)
        return Pair(private=file.read_text("ascii"), public=file.with_suffix(".pub").read_text("ascii").strip())
