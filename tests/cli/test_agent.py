"""`paddock agent` says and ends as the agent itself does; `paddock host add` prints what it understands."""

from pathlib import Path

import pytest

from paddock.agent.__main__ import run as own
from paddock.cli.host import joining
from tests.cli.conftest import Paddock


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--version"], 0),
        (["run", "-h"], 0),
        (["methods", "--json"], 0),
        (["run", "--dance"], 2),
        (["run", "--server", "wss://a.example"], 2),
        (["ledger", "show", "--state", "STATE"], 4),
        (["status", "--state", "STATE"], 4),
        (["status", "--state", "FILE"], 3),
    ],
)
def test_what_the_agent_says_comes_through_with_its_code(
    paddock: Paddock, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], code: int
) -> None:
    (tmp_path / "file").write_text("")
    places = {"STATE": str(tmp_path / "state"), "FILE": str(tmp_path / "file")}
    given = [places.get(word, word) for word in words]
    said = paddock("agent", *given)
    assert own(given) == said.code == code
    out, err = capsys.readouterr()
    assert (said.out, said.err) == (out, err)
    assert out or err.startswith("paddock: agent")


@pytest.mark.parametrize(
    ("url", "way"),
    [
        ("https://ci.example.org", "wss://ci.example.org/agent "),
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/agent "),
        ("http://localhost:8080", "ws://localhost:8080/agent "),
        ("http://[::1]:8080", "ws://[::1]:8080/agent "),
        ("http://192.0.2.1:8080", "ws://192.0.2.1:8080/agent --insecure "),
        ("http://ci.example.org", "ws://ci.example.org/agent --insecure "),
    ],
)
def test_the_command_that_joins_a_host_says_insecure_only_where_it_must(url: str, way: str) -> None:
    assert joining(url, "c0de") == f"paddock agent run --server {way}--state /var/lib/paddock-agent --code c0de"


def test_the_command_that_joins_a_host_names_a_skill_that_it_would_not_have() -> None:
    assert joining("http://127.0.0.1:8080", "c0de", skills=("hypervisor",)).endswith(" --code c0de --skills hypervisor")


def test_the_help_of_the_noun_has_both_kinds_of_verbs(paddock: Paddock) -> None:
    said = paddock("agent", "-h")
    assert said.code == 0
    assert "call " in said.out
    assert "configure " in said.out


def test_a_verb_that_neither_knows_is_wrong_use(paddock: Paddock) -> None:
    said = paddock("agent", "dance")
    assert (said.code, said.err.splitlines()[1]) == (2, "hint: paddock agent -h")
