"""What a keeper is told to start: one command line with its surroundings and limits."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

HELD_IN = "PADDOCK_HELD_IN"
"""Marks a task's processes with its directory, which no other task on the computer has."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one task may use. None is no limit.

    `memory` (bytes), `pids` (processes and threads) and `cpus` (1.5: one and a half) bound its whole tree, double forks
    included, and need a control group: where they would not hold, nothing is started. `each` bounds every process alone
    (setrlimit): names as `prlimit` has them, in lower case, to values.
    """

    memory: int | None = None
    pids: int | None = None
    cpus: float | None = None
    each: Mapping[str, int] = field(default_factory=dict)

    @property
    def in_group(self) -> tuple[str, ...]:
        """The limits that only a control group can enforce."""
        named = {"memory": self.memory, "pids": self.pids, "cpus": self.cpus}
        return tuple(name for name, value in named.items() if value is not None)


NO_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Order:
    """One task. `directory` is the task's own: it is made, and holds `keeper`, `control`, `output`, `exit`.

    `limit` is counted from the opening of the gate on a clock that goes on while the machine sleeps; None is no limit.
    `env` is the whole environment (PADDOCK_TASK and PADDOCK_HELD_IN, the directory, are added). `user` needs root.
    `script` is opened before it is `user`, who may be unable to reach it, and its descriptor becomes the last argument.
    `output_limit` is in bytes. With `background`, the end of the main process does not end the rest of its tree: only
    cancel and limit do.
    `cgroup` is a directory in the version 2 tree: made if absent, joined, removed at the end; ignored if that fails and
    no limit needs it. None: one of its own, where the keeper can make one.
    """

    task: str
    directory: Path
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    stdin: bytes = b""
    limit: timedelta | None = None
    grace: timedelta = timedelta(seconds=10)
    umask: int = 0o022
    user: str | None = None
    script: Path | None = None
    output_limit: int = 100 * 1024 * 1024
    background: bool = False
    cgroup: Path | None = None
    limits: Limits = NO_LIMITS

    def encode(self) -> bytes:
        """All but the stdin, which travels as a file of its own."""
        return json.dumps(
            {
                "task": self.task,
                "directory": str(self.directory.absolute()),
                "argv": self.argv,
                "env": dict(self.env),
                "cwd": str(self.cwd.absolute()),
                "limit": None if self.limit is None else self.limit.total_seconds(),
                "grace": self.grace.total_seconds(),
                "umask": self.umask,
                "user": self.user,
                "script": None if self.script is None else str(self.script.absolute()),
                "output_limit": self.output_limit,
                "background": self.background,
                "cgroup": None if self.cgroup is None else str(self.cgroup),
                "limits": {**asdict(self.limits), "each": dict(self.limits.each)},
            }
        ).encode("ascii")

    @classmethod
    def decode(cls, text: bytes) -> "Order":
        """The order that `encode` wrote, with an empty stdin."""
        fields = json.loads(text)
        return cls(
            task=fields["task"],
            directory=Path(fields["directory"]),
            argv=tuple(fields["argv"]),
            env=fields["env"],
            cwd=Path(fields["cwd"]),
            limit=None if fields["limit"] is None else timedelta(seconds=fields["limit"]),
            grace=timedelta(seconds=fields["grace"]),
            umask=fields["umask"],
            user=fields["user"],
            script=None if fields["script"] is None else Path(fields["script"]),
            output_limit=fields["output_limit"],
            background=fields["background"],
            cgroup=None if fields["cgroup"] is None else Path(fields["cgroup"]),
            limits=Limits(**fields["limits"]),
        )
