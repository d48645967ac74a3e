"""A room of its own for skills that change the machine: a child in a mount namespace, where what it writes is lost.

/etc, /home and /var are overlays there; the kernel drops them, with all that was written, when the child has ended.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from paddock.core.errors import PaddockError, Refused

SOURCE = Path(__file__).resolve().parents[2] / "src"
_COVERED = ("/etc", "/home", "/var")
_PREPARE = """
set -e
mount -t tmpfs room "$1"
for place in {covered}; do
    mkdir -p "$1$place/upper" "$1$place/work"
    mount -t overlay overlay -o "lowerdir=$place,upperdir=$1$place/upper,workdir=$1$place/work" "$place"
done
exec "$2" -c "$3" "$4"
"""
CHILD = """
import asyncio, importlib, json, os, subprocess, sys
from pathlib import Path
from paddock.agent.skills.skill import Call, Place, Read
from paddock.core.errors import PaddockError
from paddock.wire import methods

skill = importlib.import_module(sys.argv[1])
place = Place(work=Path("/var/room"), temporary=Path("/tmp"), tasks=Path("/var/room"), state=Path("/var/room"))
deeds = skill.methods(place)


def ask(method, params):
    checked = methods.check(method, params)
    call = Call(task="t", method=method, params=checked, environment="", fence=0, directory=Path("/var/room/task"))
    deed = deeds[method]
    if isinstance(deed, Read):
        return {"result": dict(asyncio.run(deed.answer(call)))}
    outcome = asyncio.run(deed.act(call))
    return {"result": dict(outcome.result), "code": outcome.code, "msg": outcome.msg}


for line in sys.stdin:
    asked = json.loads(line)
    if "fault" in asked:
        # Another process of this room, which dies at the point.
        ran = subprocess.run(
            [sys.executable, "-c", sys.orig_argv[2], sys.argv[1]],
            input=json.dumps({"method": asked["method"], "params": asked["params"]}) + chr(10),
            env={**os.environ, "PADDOCK_FAULT": asked["fault"]},
            stdout=subprocess.PIPE,
            text=True,
        )
        answer = {"code": ran.returncode, "out": ran.stdout}
    elif "shell" in asked:
        ran = subprocess.run(["/bin/sh", "-c", asked["shell"]], capture_output=True, text=True)
        answer = {"code": ran.returncode, "out": ran.stdout + ran.stderr}
    else:
        try:
            answer = ask(asked["method"], asked["params"])
        except PaddockError as exc:
            answer = {"raised": [kind.__name__ for kind in type(exc).__mro__], "message": exc.message, "hint": exc.hint}
    print(json.dumps(answer), flush=True)
"""


class Room:
    """One child with one skill in it."""

    def __init__(self, skill: str, place: Path) -> None:
        place.mkdir()
        words = [sys.executable, CHILD, skill]
        self._child = subprocess.Popen(
            [
                *("unshare", "--mount", "--propagation", "private", "/bin/sh", "-c"),
                *(_PREPARE.format(covered=" ".join(_COVERED)), "room", str(place), *words),
            ],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """What the skill answers. Raises what it raises."""
        answer = self._say({"method": method, "params": params})
        if "raised" in answer:
            kind = Refused if "Refused" in answer["raised"] or "BadParams" in answer["raised"] else PaddockError
            raise kind(answer["message"], hint=answer["hint"])
        assert answer.get("code") is None, answer
        result: dict[str, Any] = answer["result"]
        return result

    def die(self, point: str, method: str, **params: Any) -> None:
        """Ask it of a process that is killed at a crash point; fails the test if it does not get there."""
        answer = self._say({"fault": point, "method": method, "params": params})
        assert answer["code"] == -9, answer

    def attempt(self, command: str) -> tuple[int, str]:
        """A shell command in the room: its exit code and all that it printed."""
        answer = self._say({"shell": command})
        return int(answer["code"]), str(answer["out"]).strip()

    def run(self, command: str) -> str:
        """What a shell command in the room prints; fails the test if it fails."""
        code, out = self.attempt(command)
        assert code == 0, f"{command}: {out}"
        return out

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(20)
        assert self._child.stdout is not None
        self._child.stdout.close()

    def _say(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(asked) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        assert line, f"the room has fallen: {self._child.wait(5)}"
        answer: dict[str, Any] = json.loads(line)
        return answer


def why_not() -> str:
    """Why no room can be had here; nothing if one can."""
    if os.geteuid() != 0:
        return "only root has mount namespaces"
    probe = "d=$(mktemp -d); mount -t tmpfs t $d && mkdir $d/u $d/w && mount -t overlay o "
    probe += "-o lowerdir=/home,upperdir=$d/u,workdir=$d/w /home; code=$?; umount -l $d; rmdir $d; exit $code"
    try:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", probe], capture_output=True, check=False
        )
    except FileNotFoundError:
        return "there is no unshare here"
    return "" if done.returncode == 0 else f"no overlay in a mount namespace: {done.stderr.decode().strip()}"


def opened(skill: str, place: Path) -> Room:
    """A room, or a skipped test."""
    if reason := why_not():
        pytest.skip(reason)
    return Room(skill, place)
