"""A command line in this process, against a desk on loopback."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.cli.root import run
from tests.client.desk import TOKEN, Desk


class Said:
    """What one command line gave: exit code, stdout, stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def objects(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Paddock = Callable[..., Said]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def paddock(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Paddock]:
    """`paddock("lease", "list")`, as a user without a record of any server, told of the desk."""
    for name in ("PADDOCK_STATE", "PADDOCK_SERVER", "PADDOCK_TOKEN", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    with desk.serving() as url:
        monkeypatch.setenv("PADDOCK_SERVER", url)
        monkeypatch.setenv("PADDOCK_TOKEN", TOKEN)

        def line(*words: str) -> Said:
            capsys.readouterr()
            code = run(words)
            out, err = capsys.readouterr()
            return Said(code, out, err)

        yield line
