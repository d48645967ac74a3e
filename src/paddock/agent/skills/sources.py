"""Checks out a change's revision with git, as a task whose log is what git says.

Effects: journaled like any task; the directory is made anew, so a second run does no harm.
"""

import os
from collections.abc import Mapping

from paddock.agent.entry import Outcome
from paddock.agent.skills.script import conclude as conclude_script
from paddock.agent.skills.script import variables
from paddock.agent.skills.skill import Call, Deed, Place, Program
from paddock.core.errors import Refused
from paddock.hands.exit import Exit
from paddock.hands.order import Order
from paddock.wire.messages import Code

_REVISION = "revision"
# The values are arguments: no shell reads them. What lay in .git before may hold hooks and filters of a stranger.
_CHECKOUT = """
set -eu
directory=$1 url=$2 ref=$3 record=$4
mkdir -p -- "$directory"
cd -- "$directory"
rm -rf -- .git
git init --quiet .
git fetch --no-tags --force --no-recurse-submodules -- "$url" "$ref"
git checkout --quiet --force --detach FETCH_HEAD
git clean --quiet -ffdx
git rev-parse --verify 'HEAD^{commit}' > "$record"
git log -1 --format='HEAD is now at %h %s'
"""
_ISOLATION = {
    "GIT_ALLOW_PROTOCOL": "http:https:ssh:git:file",
    "GIT_ASKPASS": "/bin/false",
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_KEY_0": "core.hooksPath",
    "GIT_CONFIG_KEY_1": "advice.detachedHead",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_VALUE_0": "/dev/null",
    "GIT_CONFIG_VALUE_1": "false",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
}
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")


def methods(place: Place) -> Mapping[str, Deed]:
    """sources.checkout."""
    return {
        "sources.checkout": Program(
            prepare=lambda call: prepare(place, call), conclude=conclude, keep=("revision", "ref", "url")
        )
    }


def prepare(place: Place, call: Call) -> Order:
    """git as an order. Refused for refs and URLs that git would take for something else."""
    url, ref = call.text("url"), call.text("ref")
    if url.startswith("-") or "::" in url.split("/")[0]:
        raise Refused(f"{url}: not a repository's URL")
    if ref.startswith(("-", "+", "^")) or any(character in ref for character in ": ~^?*[\\") or ".." in ref:
        raise Refused(f"{ref}: not a ref")
    directory = place.resolve(call.text("path"))
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return Order(
        task=call.task,
        directory=call.directory,
        argv=("/bin/sh", "-c", _CHECKOUT, "checkout", str(directory), url, ref, str(call.directory / _REVISION)),
        env={**passed, **variables(place, {}), **_ISOLATION},
        cwd=place.work,
        limit=call.limit,
        cgroup=place.group_of(call.task),
    )


def conclude(call: Call, ended: Exit) -> Outcome:
    """The revision that is checked out, if it is the one that was asked for."""
    outcome = conclude_script(call, ended)
    if outcome.code is not None:
        return outcome
    if ended.exit != 0:
        how = f"exit {ended.exit}" if ended.exit is not None else f"signal {ended.signal}"
        return Outcome(
            code=Code.FAILED, msg=f"{call.text('url')}: git ended with {how}, see its output", streams=outcome.streams
        )
    found = (call.directory / _REVISION).read_text("ascii").strip()
    wanted = call.text("revision")
    if wanted and wanted != found:
        return Outcome(code=Code.FAILED, msg=f"{call.text('ref')}: is {found}, not {wanted}", streams=outcome.streams)
    return Outcome(result={"revision": found}, streams=outcome.streams)
