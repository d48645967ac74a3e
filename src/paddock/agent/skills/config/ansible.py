"""How ansible is asked to apply a playbook to its own machine, and what it counted."""

import json
from collections.abc import Mapping

from paddock.agent.skills.config.tool import Recipe, State, Tool, Verdict, numbers, read_record
from paddock.wire.framing import JSON

_PLUGIN = '''\
"""Writes what ansible counted for each host to the file that PADDOCK_RESULTS_FILE names."""

import json
import os

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "paddock"
    CALLBACK_NEEDS_ENABLED = False

    def v2_playbook_on_stats(self, stats):
        hosts = {str(host): stats.summarize(host) for host in sorted(stats.processed)}
        path = os.environ["PADDOCK_RESULTS_FILE"]
        with open(path + ".new", "w") as file:
            json.dump({"hosts": hosts}, file)
        os.rename(path + ".new", path)
'''
# As ansible does with a localhost that no inventory names: its own Python, which is there for certain.
_INVENTORY = 'localhost ansible_connection=local ansible_python_interpreter="{{ ansible_playbook_python }}"\n'


def _command(recipe: Recipe) -> tuple[str, ...]:
    given = ("--extra-vars", "@variables.json") if recipe.variables else ()
    return ("--inventory", "inventory", *given, *(("--check", "--diff") if recipe.check else ()), str(recipe.file))


def _files(recipe: Recipe) -> Mapping[str, str]:
    files = {"inventory": _INVENTORY, "callbacks/paddock.py": _PLUGIN}
    return {**files, "variables.json": json.dumps(dict(recipe.variables))} if recipe.variables else files


def _env(recipe: Recipe) -> Mapping[str, str]:
    return {
        "PADDOCK_RESULTS_FILE": str(recipe.record),
        "ANSIBLE_CALLBACK_PLUGINS": str(recipe.directory / "callbacks"),
        "ANSIBLE_LOCAL_TEMP": str(recipe.directory / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_NOCOWS": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "0",
        # What it prints is sent while it runs, not once there is enough of it.
        "PYTHONUNBUFFERED": "1",
    }


def _judge(recipe: Recipe, exit: int) -> Verdict:
    found = read_record(recipe.record)
    listed = found.get("hosts") if found is not None else None
    hosts: dict[str, JSON] = {}
    has_changed = False
    if isinstance(listed, Mapping):
        for name, counted in listed.items():
            counts = numbers(counted)
            hosts[name] = counts
            has_changed = has_changed or counts.get("changed", 0) != 0
    # Without its record nobody knows what it did, whatever it exits with.
    if exit != 0 or found is None:
        return Verdict(state=State.FAILED, counts={"hosts": hosts})
    return Verdict(state=State.CHANGED if has_changed else State.UNCHANGED, counts={"hosts": hosts})


ANSIBLE = Tool(
    name="ansible",
    programs=("ansible-playbook",),
    origin="the package ansible-core of PyPI or of the distribution",
    file="playbook.yml",
    command=_command,
    files=_files,
    env=_env,
    judge=_judge,
)
