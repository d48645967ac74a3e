"""Format, lint, types, imports and fast tests, each with the time it took; what `./dev check` and CI run."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Measured apart because their speed is architecture: a slow one is an I/O leak or a hidden clock.
PURE = ("tests/core", "tests/wire")
AT_ONCE = 2
"""The types take as long as the tests, and one processor."""
FAST = ("-m", "not slow and not e2e", "-q", "--no-header")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that is checked: a name for the table, and a command whose exit code is the answer."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a part went, in seconds of wall time; `output` is shown when it failed."""

    part: Part
    code: int
    seconds: float
    output: str


def parts() -> list[Part]:
    """Everything that is checked, cheapest first."""
    python = sys.executable
    pytest = (python, "-m", "pytest", *FAST)
    pure = tuple(directory for directory in PURE if (ROOT / directory).is_dir())
    listed = [
        Part(name="format", command=(python, "-m", "ruff", "format", "--check", ".")),
        Part(name="lint", command=(python, "-m", "ruff", "check", ".")),
        Part(name="types", command=(python, "-m", "mypy")),
        Part(name="imports", command=(str(Path(python).parent / "lint-imports"),)),
        Part(name="tests: " + " + ".join(pure), command=(*pytest, *pure)),
        Part(name="tests: the other fast ones", command=(*pytest, *(f"--ignore={directory}" for directory in pure))),
    ]
    return [part for part in listed if pure or part.name != "tests: "]


def carry_out(part: Part) -> Outcome:
    begun = time.monotonic()
    done = subprocess.run(
        part.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return Outcome(part=part, code=done.returncode, seconds=time.monotonic() - begun, output=done.stdout)


def tell(outcome: Outcome) -> None:
    mark = "ok  " if outcome.code == 0 else "FAIL"
    lines = outcome.output.strip().splitlines()
    # A tool's last line is its own summary ("3 passed in 0.1s"); the whole output is shown only when it is needed.
    summary = lines[-1].strip("= ") if lines else ""
    print(f"{mark} {outcome.seconds:6.1f} s  {outcome.part.name:34} {summary}", flush=True)


def main() -> int:
    begun = time.monotonic()
    outcomes = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for outcome in pool.map(carry_out, parts()):
            tell(outcome)
            outcomes.append(outcome)
    failed = [outcome for outcome in outcomes if outcome.code != 0]
    for outcome in failed:
        print(f"\n---- {outcome.part.name} ({' '.join(outcome.part.command)})\n{outcome.output}")
    print(f"{'FAIL' if failed else 'ok  '} {time.monotonic() - begun:6.1f} s  in all")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
