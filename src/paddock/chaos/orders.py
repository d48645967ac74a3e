"""What the victim is asked to do: commands drawn from a seed."""

import base64
import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from paddock.wire.framing import JSON
from paddock.wire.messages import Code

_WITNESS = 'printf "%s\\n" "$PADDOCK_TASK" | dd of="$WITNESS" oflag=append conv=notrunc,fsync status=none || exit 97\n'
"""The first act of each script: one line, one write, one fsync, on a disk that no fault of ours reaches."""
UNCOUNTED = 97
"""The exit code of a script that could not count itself."""
_SIZES = (0, 1, 100, 4096, 40_000, 65_536, 65_537, 150_000, 300_000)


class Kind(StrEnum):
    """What a command does after it has counted itself."""

    SHORT = "short"
    FAILS = "fails"
    PRINTS = "prints"
    MUTTERS = "mutters"
    """Prints a little, again and again."""
    SLEEPS = "sleeps"
    FORKS = "forks"
    """Leaves daemons behind, which must not outlive it."""
    LATE = "late"
    """Takes longer than its limit."""
    CANCELLED = "cancelled"
    """Takes long, and is cancelled."""
    PUTS = "puts"
    """No script: a file that is to have this content."""
    ASKS = "asks"
    """No script: a question."""


_WEIGHTS: Mapping[Kind, int] = {
    Kind.SHORT: 40,
    Kind.FAILS: 5,
    Kind.PRINTS: 28,
    Kind.MUTTERS: 4,
    Kind.SLEEPS: 7,
    Kind.FORKS: 5,
    Kind.LATE: 2,
    Kind.CANCELLED: 2,
    Kind.PUTS: 4,
    Kind.ASKS: 3,
}
_SCRIPTS = frozenset(Kind) - {Kind.PUTS, Kind.ASKS}

_ENDS: Mapping[Kind, frozenset[Code]] = {
    Kind.LATE: frozenset({Code.TIMED_OUT}),
    Kind.CANCELLED: frozenset({Code.CANCELLED}),
    # Done by the agent itself: a crash in the middle leaves it unknown, a full disk makes it fail by name.
    Kind.PUTS: frozenset({Code.INTERRUPTED, Code.FAILED}),
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """One command. `size` is what it prints, `exit` how it ends if nobody ends it."""

    id: str
    kind: Kind
    method: str
    params: Mapping[str, JSON]
    size: int = 0
    exit: int = 0

    @property
    def is_script(self) -> bool:
        """Whether it counts itself."""
        return self.kind in _SCRIPTS

    @property
    def may_fail_as(self) -> frozenset[Code]:
        """The codes with which it may fail, whatever happens around it; others need a reason."""
        return _ENDS.get(self.kind, frozenset())

    def pattern(self) -> bytes:
        """All that it prints."""
        line = f"{self.id}\n".encode()
        return (line * (self.size // len(line) + 1))[: self.size]


def content(id: str) -> bytes:
    """What a file that is put holds."""
    return hashlib.sha256(id.encode()).digest() * 20


def drawn(chance: random.Random, *, count: int, run: str, witness: str) -> Iterator[Order]:
    """So many commands, the same ones for the same seed; `run` begins their ids."""
    kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    for number in range(count):
        kind = chance.choices(kinds, weights)[0]
        yield _order(f"{run}-{number:06d}", kind, chance, witness)


def _order(id: str, kind: Kind, chance: random.Random, witness: str) -> Order:
    if kind is Kind.PUTS:
        data = base64.b64encode(content(id)).decode()
        return Order(id=id, kind=kind, method="file.put", params={"path": f"put/{id}", "data": data})
    if kind is Kind.ASKS:
        return Order(id=id, kind=kind, method=chance.choice(("status", "system.facts")), params={})
    size, code, rest, more = _script(kind, chance, line=len(id) + 1)
    params: dict[str, JSON] = {"run": _WITNESS + rest, "env": {"WITNESS": witness}, "grace": 1, **more}
    return Order(id=id, kind=kind, method="script.run", params=params, size=size, exit=code)


def _script(kind: Kind, chance: random.Random, *, line: int) -> tuple[int, int, str, Mapping[str, JSON]]:
    """Bytes that it prints, its exit code, the rest of the script, and further params; `line` is its id's length."""
    match kind:
        case Kind.FAILS:
            code = chance.randint(1, 90)
            return 0, code, f"exit {code}\n", {}
        case Kind.PRINTS:
            size = chance.choice(_SIZES)
            return size, 0, f'yes "$PADDOCK_TASK" | head -c {size}\n', {}
        case Kind.MUTTERS:
            # Each time some whole lines, so that all of it is one pattern.
            times, pause = chance.randint(3, 12), chance.uniform(0.02, 0.2)
            each = f'yes "$PADDOCK_TASK" | head -n 5; sleep {pause:.2f}'
            return times * 5 * line, 0, f"for n in $(seq {times}); do {each}; done\n", {}
        case Kind.SLEEPS:
            return 0, 0, f"sleep {chance.uniform(0.1, 3):.2f}\n", {}
        case Kind.FORKS:
            return 0, 0, "(setsid sleep 60 &)\nsetsid sh -c 'trap : TERM; sleep 60' 2>/dev/null &\nsleep 0.05\n", {}
        case Kind.LATE:
            return 0, 0, "sleep 60\n", {"limit": round(chance.uniform(0.2, 1.5), 2)}
        case Kind.CANCELLED:
            return 0, 0, "sleep 60\n", {}
    return 0, 0, "", {}
