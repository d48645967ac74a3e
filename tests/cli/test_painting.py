"""How answers look."""

from datetime import UTC, datetime

import pytest

from paddock.cli import painting

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)


def test_a_table_fits_100_columns_whatever_is_in_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    rows = [("k3f9x7q2mm", "leased", "x" * 80, "y" * 80), ("a1", "quarantined", "short", "häuser 家" * 20)]
    painting.table(("id", "state", "holder", "note"), rows, empty="nothing")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 100
    assert lines[1].startswith("k3f9x7q2mm leased")
    assert "…" in lines[1]


def test_a_table_shrinks_with_the_terminal_but_never_an_id(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    painting.table(("id", "state", "holder"), [("k3f9x7q2mm", "quarantined", "x" * 80)], empty="nothing")
    line = capsys.readouterr().out.splitlines()[1]
    assert len(line) <= 40
    assert line.startswith("k3f9x7q2mm quarantined")


def test_a_cell_is_one_line_and_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    painting.table(("id", "note"), [("1", "a\nb\x1b[31m[red]c")], empty="nothing")
    assert capsys.readouterr().out.splitlines()[1] == "1    a b\ufffd[31m[red]c"


def test_an_empty_table_says_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    painting.table(("id",), [], empty="no leases; borrow one")
    assert capsys.readouterr().out == "no leases; borrow one\n"


def test_piped_output_has_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    painting.table(("id", "state"), [("1", "success")], empty="")
    painting.fields("run 1", [("state", "failure"), ("reason", "")])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "reason" not in out


def test_json_is_one_ascii_line(capsys: pytest.CaptureFixture[str]) -> None:
    painting.tell({"text": "ü\x9b\x1b\x7f\n"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.count("\n") == 1
    assert out.rstrip("\n").isprintable()


def test_moments_are_told_from_now() -> None:
    assert painting.ago("2026-01-01T00:05:50.000Z", now=NOW) == "4m 10s ago"
    assert painting.left("2026-01-01T00:13:11.500Z", now=NOW) == "in 3m 11s"
    assert painting.left("2026-01-01T00:09:00.000Z", now=NOW) == "over"
    assert painting.ago(None) == painting.left(None) == painting.lasted(None, None) == ""


def test_short_spans_have_tenths() -> None:
    assert painting.lasted("2026-01-01T00:00:00.000Z", "2026-01-01T00:00:00.440Z") == "0.4s"
    assert painting.lasted("2026-01-01T00:00:00.000Z", None, now=NOW) == "10m 00s"
