"""`validate`, `explain`, `schema`: without a server."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.cli.stage import examples
from tests.cli.conftest import Paddock

DEMO = examples() / "demo" / "paddock.yaml"


def test_an_example_is_in_order(paddock: Paddock) -> None:
    said = paddock("validate", str(DEMO))
    assert (said.code, said.err) == (0, "")
    assert said.out == f"{DEMO}: in order (1 forge, 1 host, 1 pool, 2 jobs)\n"


def test_each_error_stands_on_its_line_and_nothing_is_changed(paddock: Paddock, tmp_path: Path) -> None:
    file = tmp_path / "paddock.yaml"
    file.write_text("- hosts: {name: x}\n- job: {name: y, environment: z, steps: []}\n")
    said = paddock("validate", str(file))
    assert said.code == 3
    *problems, last = said.out.splitlines()
    assert problems[0].startswith(f"{file}:1:3  ")
    assert '(did you mean "host"?)' in problems[0]
    assert last == f"{len(problems)} errors; nothing was changed"
    assert [row["message"] for row in paddock("validate", str(file), "--json").objects]


def test_a_file_that_is_not_there_is_missing(paddock: Paddock) -> None:
    assert paddock("validate", "nope.yaml").code == 4
    assert paddock("explain", "nope.json", "--config", str(DEMO)).code == 4


def test_an_event_is_explained_job_by_job_with_the_line_that_decided(paddock: Paddock) -> None:
    said = paddock("explain", str(examples() / "event.json"), "--config", str(DEMO))
    head, *jobs = said.out.splitlines()
    assert head == 'comment-added  openstack-dev/ci-sandbox 189221,1  "my-ci recheck"  by dev7d49ea'
    assert [line.split()[:2] for line in jobs] == [["noop", "runs"], ["two-machines", "runs"]]
    assert "(paddock.yaml:" in jobs[0]
    (told,) = paddock("explain", str(examples() / "event.json"), "--config", str(DEMO), "--json").objects
    assert (told["runs"], [job["job"] for job in told["jobs"]]) == (True, ["noop", "two-machines"])


def test_what_is_no_event_is_refused_as_none(paddock: Paddock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("{bad"))
    said = paddock("explain", "-", "--config", str(DEMO))
    assert (said.code, said.out) == (3, "")
    assert "what was piped in: not read: no JSON" in said.err
    (tmp_path / "event.json").write_text('{"type": "ref-updated"}')
    assert paddock("explain", "event.json", "--config", str(DEMO)).code == 0, "an event that starts nothing is one"


@pytest.mark.slow
@pytest.mark.parametrize("words", [("validate", str(DEMO)), ("explain", str(DEMO)), ("schema",), ("serve", str(DEMO))])
def test_without_the_servers_parts_it_says_what_brings_them(words: tuple[str, ...]) -> None:
    done = without_pydantic(*words)
    assert done.returncode == 3
    first, second = done.stderr.splitlines()
    assert first.endswith("is not installed")
    assert second == "hint: pip install 'paddock[server]'"


@pytest.mark.slow
def test_without_the_servers_parts_doctor_looks_at_the_rest(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path), "--server", "http://127.0.0.1:9")
    done = without_pydantic("doctor", "--config", str(DEMO), *state)
    assert done.stderr == ""
    assert "not looked at: pydantic is not installed" in done.stdout
    assert done.stdout.count("mend: pip install 'paddock[server]'") == 2


def without_pydantic(*words: str) -> "subprocess.CompletedProcess[str]":
    program = "import sys\n"
    program += (
        "for name in ('fastapi', 'pydantic', 'pydantic_core', 'sqlalchemy', 'uvicorn'): sys.modules[name] = None\n"
    )
    program += "from paddock.cli.root import run\nsys.exit(run(sys.argv[1:]))\n"
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)


def test_the_schema_is_one(paddock: Paddock) -> None:
    assert "$schema" in json.loads(paddock("schema").out)
