"""`paddock chaos`: what it refuses before anything is started."""

from pathlib import Path

import pytest

from paddock.cli.root import REFUSED, WRONG_USE, run


def test_a_directory_with_something_in_it_is_not_worked_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").touch()
    assert run(["chaos", "agent", "--keep", str(tmp_path)]) == REFUSED
    said = capsys.readouterr().err
    assert f"{tmp_path}: is not empty" in said
    assert "hint: name a new directory" in said
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("words", [["--commands", "0"], ["--seconds", "0"], ["--seed", "x"], ["more"]])
def test_what_cannot_be_meant_is_wrong_use(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chaos", "agent", *words]) == WRONG_USE
    assert "chaos agent" in capsys.readouterr().err


def test_it_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chaos", "agent", "-h"]) == 0
    said = capsys.readouterr().out
    assert "Exits 0 if every check holds, else 1." in " ".join(said.split())
