"""Parameters as they are typed become what the table of methods wants."""

from pathlib import Path
from typing import Any

import click
import pytest

from paddock.cli.parameters import gathered


@pytest.mark.parametrize(
    ("method", "values", "params"),
    [
        ("script.run", ["run=true"], {"run": "true"}),
        ("script.run", ["run=echo a=b", "limit=2.5", "background=true"], {"run": "echo a=b", "limit": 2.5}),
        ("script.run", ["argv=ls", "argv=-l"], {"argv": ["ls", "-l"]}),
        ("script.run", ['argv=["ls", "7"]'], {"argv": ["ls", "7"]}),
        ("script.run", ["argv=7"], {"argv": ["7"]}),
        ("script.run", ["env.LANG=C", "env.N=7"], {"env": {"LANG": "C", "N": "7"}}),
        ("script.run", ['env={"A": "b"}', "env.LANG=C"], {"env": {"A": "b", "LANG": "C"}}),
        ("script.run", ["run=@@home"], {"run": "@home"}),
        ("file.put", ["path=/x", "data=hi", "mode=420"], {"path": "/x", "data": "aGk=", "mode": 420}),
        ("docker.run", ["image=busybox", "port=80", 'all={"a": [1]}', "a.b=c"], {"port": 80, "all": {"a": [1]}}),
        ("file.get", ["path=7"], {"path": "7"}),
    ],
)
def test_a_value_is_what_its_parameter_wants(method: str, values: list[str], params: dict[str, Any]) -> None:
    found = gathered(method, values)
    assert {name: found[name] for name in params} == params


def test_a_method_that_only_its_agent_knows_takes_maps_by_their_keys() -> None:
    assert gathered("docker.run", ["a.b=c", "a.d=1"]) == {"a": {"b": "c", "d": 1}}


def test_a_file_is_read_as_text_bytes_or_json(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b'["a"]')
    assert gathered("script.run", [f"run=@{file}"]) == {"run": '["a"]'}
    assert gathered("script.run", [f"argv=@{file}"]) == {"argv": ["a"]}
    file.write_bytes(b"\xff\x00")
    assert gathered("file.put", [f"data=@{file}"]) == {"data": "/wA="}
    with pytest.raises(click.UsageError, match="it is no text"):
        gathered("script.run", [f"run=@{file}"])
    with pytest.raises(click.UsageError, match="No such file"):
        gathered("script.run", [f"run=@{file}.none"])


def test_an_object_comes_first_and_single_values_after_it() -> None:
    assert gathered("script.run", ["limit=3"], b'{"run": "x", "limit": 1}') == {"run": "x", "limit": 3}


@pytest.mark.parametrize(
    ("values", "whole", "why"),
    [
        (["run"], b"", "is not NAME=VALUE"),
        (["=x"], b"", "is not NAME=VALUE"),
        (["rum=x"], b"", 'params.rum: script.run has no such param .did you mean "run"'),
        ([], b'{"run": "x", "usr": "y"}', 'did you mean "user"'),
        ([], b"[]", "it is not an object"),
        ([], b"{", "it is not JSON"),
        (["env.A=b"], b'{"env": 7}', "something else than a map"),
        (["argv=b"], b'{"argv": 7}', "something else than a list"),
    ],
)
def test_what_cannot_be_read_is_wrong_use(values: list[str], whole: bytes, why: str) -> None:
    with pytest.raises(click.UsageError, match=why):
        gathered("script.run", values, whole)
