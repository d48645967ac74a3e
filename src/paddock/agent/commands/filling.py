"""What the words of `run` leave open is taken from the configuration."""

import argparse
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.agent.commands import place
from paddock.agent.settings import Settings, WrongUse
from paddock.core.errors import Broken

if TYPE_CHECKING:
    from paddock.agent.conf import Conf


def fill(chosen: argparse.Namespace) -> None:
    """Complete the options: what stands on the command line goes before what stands in the file.

    Without a file they have to be complete: WrongUse if they are not. A machine's agent never looks for a file.
    """
    is_told = chosen.config is None and (chosen.server or chosen.line)
    conf = None if is_told else place.conf(chosen)
    chosen.conf = conf
    if conf is not None:
        _take(chosen, conf)
    chosen.retention = chosen.retention or Settings.retention
    if not chosen.server and not chosen.line:
        from paddock.agent.conf import usual

        raise WrongUse(f"run: no --server, and {usual()} does not exist", hint="paddock agent run -h")
    if chosen.state is None:
        raise WrongUse("run: no --state", hint="paddock agent run -h")
    chosen.log_level = chosen.log_level or "info"
    chosen.code = chosen.code or _code(chosen)


def _take(chosen: argparse.Namespace, conf: "Conf") -> None:
    if not chosen.server and not chosen.line:
        chosen.server = conf["connection.url"].split()
        chosen.line = conf["connection.line"] or None
    if chosen.proxy is None and conf["connection.proxy"]:
        chosen.proxy = "" if conf["connection.proxy"] == "none" else conf["connection.proxy"]
    # A state that was named is another agent's than the file's, and so is its work.
    chosen.work = chosen.work or (conf.work if chosen.state is None else None)
    chosen.state = chosen.state or conf.state
    chosen.ca = chosen.ca or (Path(conf["connection.ca-file"]) if conf["connection.ca-file"] else None)
    chosen.pin = chosen.pin or conf["connection.pin"]
    chosen.parked = chosen.parked or (bool(chosen.line) and conf.is_set("connection.parked"))
    chosen.insecure = chosen.insecure or conf.is_set("connection.insecure")
    chosen.cloud = chosen.cloud or conf["cloud.type"]
    chosen.metadata_url = chosen.metadata_url or conf["cloud.metadata-url"]
    chosen.skills = chosen.skills or conf["skills.enabled"]
    chosen.log_level = chosen.log_level or conf["logging.level"]
    chosen.retention = chosen.retention or timedelta(seconds=conf.retention)
    # What is said later goes before what was said first.
    chosen.hypervisor = [*(f"{name}={value}" for name, value in conf.section("hypervisor").items()), *chosen.hypervisor]


def _code(chosen: argparse.Namespace) -> str:
    from paddock.agent import enrolment

    if chosen.code_file is not None:
        return enrolment.read(chosen.code_file)
    with suppress(Broken, OSError):  # a state that cannot be used is told by who uses it
        return enrolment.waiting(chosen.state)
    return ""
