"""Which agent of this machine is meant: by state, by configuration, or the usual one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.agent.commands.grammar import path
from paddock.agent.settings import WrongUse

if TYPE_CHECKING:
    from paddock.agent.conf import Conf


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options that name it."""
    parser.add_argument("--config", type=path, metavar="FILE", help="its agent.conf (default: the usual place's)")
    parser.add_argument("--state", type=path, metavar="DIR", help="where its ledger and token are, if it has no file")


def conf(chosen: argparse.Namespace) -> "Conf | None":
    """Its configuration. None if it was named by other words; Missing if the file that was named is not there."""
    from paddock.agent.conf import Conf, is_there, usual

    if chosen.config is not None:
        return Conf.load(chosen.config)
    if chosen.state is not None:
        return None
    found = usual()
    return Conf.load(found) if is_there(found) else None


def state(chosen: argparse.Namespace) -> Path:
    """Its state directory. WrongUse if nothing says where that is."""
    if chosen.state is not None:
        return Path(chosen.state)
    known = conf(chosen)
    if known is None:
        from paddock.agent.conf import usual

        raise WrongUse(f"{usual()}: does not exist", hint="--config FILE or --state DIR says which agent is meant")
    return known.state
