"""paddock agent bundle: one file that holds the whole agent.

Effects: idempotent; the file appears whole or not at all.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

from paddock.agent.commands.grammar import Commands, command, path, say, tell
from paddock.core.errors import Broken, Refused


def add(commands: Commands) -> None:
    """Declare it."""
    bundle = command(
        commands,
        "bundle",
        "write one file that holds the whole agent",
        example="paddock agent bundle --output paddock-agent.pyz\n"
        "paddock agent bundle --standalone --output paddock-agent-x86_64",
    )
    bundle.add_argument("-o", "--output", type=path, required=True, metavar="FILE", help="where to write it")
    bundle.add_argument(
        "--with", dest="extensions", action="append", default=[], metavar="DIST", help="an installed package of skills"
    )
    bundle.add_argument("--standalone", action="store_true", help="with its own Python, for machines that have none")
    bundle.add_argument("--json", action="store_true", help="say what was written as one JSON object")
    bundle.set_defaults(act=_bundle)


def _bundle(chosen: argparse.Namespace) -> None:
    from paddock.agent.bundle import bundled, bundling
    from paddock.agent.setup import placing

    if bundled.program() is not None:
        raise Refused(
            f"bundle: this is a bundle itself: {sys.argv[0]}",
            hint="copy it; another is made where Paddock is installed",
        )
    if chosen.standalone:
        from paddock.agent.bundle import freezing

        content = freezing.standalone(chosen.extensions)
    else:
        content = bundling.archive(chosen.extensions)
    if not chosen.output.parent.is_dir():
        raise Broken(f"{chosen.output.parent}: no such directory")
    owner = placing.Owner(user=os.geteuid(), group=os.getegid())
    placing.place(placing.File(path=chosen.output, content=content, mode=0o755, owner=owner))
    _tell(chosen.output, content, as_json=chosen.json)


def _tell(output: Path, content: bytes, *, as_json: bool) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if as_json:
        tell({"file": str(output), "size": len(content), "sha256": digest})
    else:
        say(f"{output}: {len(content) / 1e6:.2f} MB, sha256 {digest}")
