"""Every key that an issue names is measured, and a row has the shape that tools read. Nothing here judges a time."""

import json
from datetime import date
from itertools import chain

import pytest

from bench import __main__ as program
from bench.aims import AGENT, AIMS, GEARD_1, LOG_RATE, MACHINES, MAIN, PAIRS_32, SERVER_RSS, TAIL_P95
from bench.figure import Measured, figure, missing, quantile
from bench.pace import Pace
from bench.page import page, section, sections, table

NAMED_IN_ISSUES = {
    MAIN: """
    event_to_command_p50_ms event_to_command_p99_ms lease_pairs_per_s_32 geard_ratio_1 geard_ratio_50
    cleaned_pairs_per_s log_tail_p95_ms log_mb_per_s server_idle_rss_mb agent_idle_rss_mb demo_s
""",
    AGENT: """
    noop_p50_ms noop_p99_ms burst_commands_per_s burst_3000_ratio scripts_per_s output_mb_per_s start_to_hello_ms
    agent_idle_rss_mb
""",
    MACHINES: "clone_p95_ms",
}
FIELDS = ["bench", "key", "value", "unit", "peer", "peer_value", "ratio"]


@pytest.mark.parametrize(
    ("bench", "key"), [(bench, key) for bench, keys in NAMED_IN_ISSUES.items() for key in keys.split()]
)
def test_a_key_that_an_issue_names_has_a_target_and_is_measured_by_its_bench(bench: str, key: str) -> None:
    measured = chain.from_iterable(program.PARTS[part].keys for part in program.NAMES[bench])
    assert AIMS[bench][key].target is not None
    assert list(measured).count(key) == 1


def test_every_key_is_measured_by_one_part_and_every_part_can_be_asked_for_alone() -> None:
    for bench, aims in AIMS.items():
        keys = [key for part in program.PARTS.values() if part.bench == bench for key in part.keys]
        assert sorted(keys) == sorted(aims)
    assert set(program.NAMES) == {*AIMS, *program.PARTS}


def test_a_row_without_a_peer_has_every_field_and_nulls() -> None:
    row = figure(AIMS[MAIN][PAIRS_32], Measured(values=(1500.0, 1700.0, 1600.0))).object()
    assert list(row) == FIELDS
    assert row == {
        "bench": "main",
        "key": "lease_pairs_per_s_32",
        "value": 1600.0,
        "unit": "pairs/s",
        "peer": None,
        "peer_value": None,
        "ratio": None,
    }


def test_a_ratio_is_that_of_the_medians_and_names_the_peer() -> None:
    measured = Measured(values=(400.0, 500.0, 600.0), peer="geard", peer_values=(20.0, 25.0, 40.0), is_ratio=True)
    found = figure(AIMS[MAIN][GEARD_1], measured)
    assert found.object() | {"value": 20.0, "peer": "geard", "peer_value": 25.0, "ratio": 20.0} == found.object()
    assert (found.low, found.high) == (15.0, 20.0)


def test_a_missed_target_is_said_and_a_met_one_is_not() -> None:
    slow = figure(AIMS[MAIN][PAIRS_32], Measured(values=(900.0,)))
    small = figure(AIMS[MAIN][SERVER_RSS], Measured(values=(110.0,)))
    assert "missed" in table([slow])
    assert "missed" not in table([small])


def test_what_could_not_be_measured_is_null_and_gives_the_reason() -> None:
    row = missing(AIMS[MAIN][LOG_RATE], "no agent came")
    assert row.object()["value"] is None
    assert "no agent came" in table([row])


def test_a_part_that_breaks_costs_only_its_own_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(pace: Pace) -> dict[str, Measured]:
        raise RuntimeError("no disk")

    parts = {
        "logs": program.Part(bench=MAIN, keys=(LOG_RATE,), measure=breaks),
        "tail": program.Part(bench=MAIN, keys=(TAIL_P95,), measure=lambda pace: {TAIL_P95: Measured(values=(7.0,))}),
    }
    monkeypatch.setattr(program, "PARTS", parts)
    monkeypatch.setattr(program, "NAMES", {**program.NAMES, MAIN: ("logs", "tail")})

    code = program.main([MAIN, "--json"])

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 1
    assert [(row["key"], row["value"]) for row in rows] == [(LOG_RATE, None), (TAIL_P95, 7.0)]


def test_a_quantile_is_a_value_that_was_seen() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (quantile(values, 0.50), quantile(values, 0.99)) == (50.0, 99.0)
    assert quantile([3.0], 0.99) == 3.0


def _taken(bench: str) -> str:
    figures = [figure(aim, Measured(values=(1.0,))) for aim in AIMS[bench].values()]
    return section(figures, command=f"./dev bench {bench}", machine="2 cores", day=date(2026, 1, 2), load=0.25)


@pytest.mark.parametrize("bench", AIMS)
def test_a_section_names_its_command_and_every_key(bench: str) -> None:
    written = _taken(bench)
    assert f"```\n./dev bench {bench}\n```" in written
    assert all(f"| `{key}` |" in written and f"- `{key}`: " in written for key in AIMS[bench])


def test_a_bench_that_is_measured_anew_leaves_the_others_section_as_it_was() -> None:
    both = page({bench: _taken(bench) for bench in AIMS})
    assert page({**sections(both), AGENT: _taken(AGENT)}) == both


def test_only_a_whole_bench_is_written_down(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["tail", "--write", "page.md"])
    assert "main, agent" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_is_measured_on_a_real_server_and_a_real_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["memory", "--quick", "--json"]) == 0

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["key"] for row in rows] == ["server_idle_rss_mb", "agent_idle_rss_mb"]
    assert all(list(row) == FIELDS and row["value"] > 0 for row in rows)
