"""The victim's first process: keeps the agent started, and does to it what it is told.

Effects: none that outlive it: when its standard input ends it takes everything below it along.

Words on standard input, one JSON list a line, each answered by one JSON value: `["kill"]`, `["stop"]` and `["go"]` the
agent; `["pause"]` and `["resume"]` everybody; `["keeper", N]` kills the Nth keeper; `["look"]` tells who lives;
`["end"]` asks the agent to stop and waits for it; `["start"]` lets it live again.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from paddock.hands import trees
from paddock.hands.trees import Identity

_AGAIN = 0.1  # seconds until a dead agent is started again, as a supervisor would
_END = 15.0


class Init:
    """`argv` is the agent's command line."""

    def __init__(self, argv: list[str]) -> None:
        self._argv = argv
        self._agent: subprocess.Popen[bytes] | None = None
        self._wants = True
        self._start_at = 0.0
        self._words: Mapping[str, Callable[..., Any]] = {
            "kill": lambda: self._signal(signal.SIGKILL),
            "stop": lambda: self._signal(signal.SIGSTOP),
            "go": lambda: self._signal(signal.SIGCONT),
            "pause": lambda: self._signal_all(signal.SIGSTOP),
            "resume": lambda: self._signal_all(signal.SIGCONT),
            "keeper": self._kill_keeper,
            "look": self._look,
            "end": self._end,
            "start": self._start,
        }

    def run(self) -> None:
        """Until standard input ends."""
        wakeup, bell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        waiting = b""
        while True:
            self._tend()
            # Waits for: a word, the end of a child, the moment for another start.
            ready, _, _ = select.select([0, wakeup], [], [], _AGAIN)
            if wakeup in ready:
                os.read(wakeup, 4096)
            if 0 in ready:
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    self._hear(line)

    def _hear(self, line: bytes) -> None:
        name, *values = json.loads(line)
        answer = self._words[name](*values)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    def _tend(self) -> None:
        """Reap whoever has ended; see that the agent lives."""
        if self._agent is not None and self._agent.poll() is not None:
            self._agent, self._start_at = None, time.monotonic() + _AGAIN
        with suppress(ChildProcessError):
            while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if self._agent is not None and found.si_pid == self._agent.pid:
                    return self._tend()
                os.waitpid(found.si_pid, 0)
        if self._wants and self._agent is None and time.monotonic() >= self._start_at:
            self._agent = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=2)
        return None

    # What is done to it

    def _signal(self, number: signal.Signals) -> bool:
        if self._agent is None or self._agent.poll() is not None:
            return False
        self._agent.send_signal(number)
        return True

    def _everybody(self) -> list[Identity]:
        return trees.descendants(os.getpid())

    def _signal_all(self, number: signal.Signals) -> bool:
        for identity in self._everybody():
            with suppress(PermissionError):
                trees.send(identity, number)
        return True

    def _kill_keeper(self, which: int) -> bool:
        named = {one.pid: one for one in self._everybody() if "paddock-keeper" in trees.name(one)}
        # What a keeper has forked bears its name until its exec.
        keepers = [one for pid, one in named.items() if _parent(pid) not in named]
        if not keepers:
            return False
        return trees.send(keepers[which % len(keepers)], signal.SIGKILL)

    def _end(self) -> list[str]:
        """The agent is asked to stop; gives whoever lives on."""
        self._wants = False
        self._signal_all(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        until = time.monotonic() + _END
        while self._agent is not None and self._agent.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        self._signal(signal.SIGKILL)
        time.sleep(0.1)  # its warm process sees the end of its socket
        self._tend()
        return [told["name"] for told in self._look()["others"]]

    def _start(self) -> bool:
        self._wants = True
        return True

    # What is seen

    def _look(self) -> dict[str, Any]:
        """Who lives: the agent with its open files, and everybody else but its warm process."""
        self._tend()
        agent = self._agent.pid if self._agent is not None else None
        others = [
            {"name": trees.name(one), "pid": one.pid, "task": _task(one.pid), "words": _words(one.pid)}
            for one in self._everybody()
            if one.pid != agent and "paddock-warm" not in trees.name(one)
        ]
        return {"agent": agent, "files": _files(agent), "others": others}


def _parent(pid: int) -> int:
    with suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])
    return 0


def _task(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        for variable in file.read().split(b"\0"):
            if variable.startswith(b"PADDOCK_TASK="):
                return variable.partition(b"=")[2].decode(errors="replace")
    return ""


def _words(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read(300).replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def _files(pid: int | None) -> list[str]:
    """What the agent has open, by name."""
    found = []
    with suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return sorted(found)


def main() -> None:
    """Be the first process of a victim; the command line is the agent's."""
    trees.become_subreaper()  # where it is no process 1
    init = Init(sys.argv[1:])
    try:
        init.run()
    finally:
        trees.kill(init._everybody)
        os._exit(0)


if __name__ == "__main__":
    main()
