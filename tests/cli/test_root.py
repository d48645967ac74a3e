"""The command line as a whole: help, exit codes, how errors are said."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from paddock.cli import spans
from paddock.cli.grammar import Noun, Shelf, Verb
from paddock.cli.root import clean, root
from paddock.web.api import LONGEST_TTL
from tests.cli.conftest import Paddock
from tests.client.desk import Desk


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))


COMMANDS = dict(_commands(root))
OURS = {path: command for path, command in COMMANDS.items() if path != ("agent",)}


def test_every_verb_of_the_terminal_is_there() -> None:
    wanted = """serve demo doctor validate explain schema drain agent lease/acquire lease/run lease/renew lease/release
    lease/list lease/show lease/why env/list env/show env/hold env/release env/quarantine env/clean run/list run/show
    run/log run/retry run/cancel host/list host/show host/add host/drain host/resume event/list event/show token/create
    token/list token/revoke env/fork env/power env/console env/screenshot env/ssh env/scp env/tunnel image/list
    image/build image/show image/log image/gc"""
    assert {tuple(words.split("/")) for words in wanted.split()} <= set(COMMANDS)


@pytest.mark.parametrize("path", OURS, ids=" ".join)
def test_help_shows_an_example_that_begins_with_the_command(path: tuple[str, ...], paddock: Paddock) -> None:
    said = paddock(*path, "-h")
    assert said.code == 0
    examples = [line.strip() for line in said.out.splitlines() if line.strip().startswith("$ ")]
    assert examples
    assert any(f"paddock {' '.join(path)}" in line for line in examples) or isinstance(OURS[path], Noun)


JOINED = {("env", "ssh"), ("env", "scp"), ("env", "tunnel")}
"""What they print is another program's."""
ANSWERING = [path for path, command in OURS.items() if isinstance(command, Verb) and path not in JOINED]


@pytest.mark.parametrize("path", ANSWERING, ids=" ".join)
def test_every_verb_answers_programs_too(path: tuple[str, ...]) -> None:
    assert any("--json" in option.opts for option in OURS[path].params)


def test_a_line_for_each_noun_is_told_without_loading_it() -> None:
    assert isinstance(root, Shelf)
    for name, (_, line) in root.entries.items():
        assert line.endswith("."), name


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    program = "import sys; from paddock.__main__ import main; sys.argv = ['paddock', '-h']; main()\n"
    program += "print([name for name in ('httpx', 'rich', 'pydantic', 'asyncio', 'yaml') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_help_takes_less_than_a_fifth_of_a_second() -> None:
    took = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "paddock", "--help"], capture_output=True, check=True)
        took.append(time.monotonic() - began)
    assert min(took) < 0.2


@pytest.mark.parametrize("words", [("lease", "list", "--nope"), ("nope",), ("lease", "acquire"), ("lease", "renew")])
def test_wrong_use_is_2_and_says_where_help_is(paddock: Paddock, words: tuple[str, ...]) -> None:
    said = paddock(*words)
    assert said.code == 2
    first, second = said.err.splitlines()
    assert first.startswith("paddock: ")
    assert second.startswith("hint: paddock")
    assert second.endswith(" -h")


def test_a_duration_that_is_none_is_wrong_use(paddock: Paddock) -> None:
    said = paddock("lease", "acquire", "--env", "two-node", "--ttl", "soon")
    assert said.code == 2
    assert "is no duration" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "list", "--in", "bogus"), ("--in", "'queued', 'leasing'", "'done'")),
        (("env", "list", "--in", "bogus"), ("--in", "'ready', 'leased'", "'gone'")),
        (("token", "create", "anna", "--ttl", "0s"), ("--ttl", "0s is not between 1s and 3650d")),
        (("lease", "acquire", "--env", "two-node", "--ttl", "8d"), ("--ttl", "8d is not between 1s and 7d")),
        (("env", "quarantine", "e1", "--reason", "a\nb"), ("--reason", "it is not one line")),
        (("run", "cancel", "r1", "--reason", "x" * 501), ("--reason", "501 characters, and 500 at most")),
        (("validate", "."), ("CONFIG", "is a directory")),
    ],
    ids=lambda value: "-".join(value[:2]).replace(" ", "-")[:40],
)
def test_wrong_use_names_the_option_and_what_it_takes(
    paddock: Paddock, desk: Desk, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    told = paddock(*words)
    assert told.code == 2
    for part in said:
        assert part in told.err
    assert desk.asked == [], "the server was not bothered"


def test_the_terminal_takes_the_durations_that_the_server_takes() -> None:
    assert spans.read(spans.TTL.most) == LONGEST_TTL
    assert spans.read(spans.TTL.least) == 1.0


def test_what_is_refused_is_3(paddock: Paddock, desk: Desk) -> None:
    desk.impossible = "pool two-node has no host"
    said = paddock("lease", "acquire", "--env", "two-node")
    assert said.code == 3
    assert said.err.splitlines()[0] == "paddock: lease l1: pool two-node has no host"


def test_what_is_not_there_is_4(paddock: Paddock) -> None:
    said = paddock("lease", "show", "nope")
    assert said.code == 4
    assert said.err == "paddock: lease nope: there is none\nhint: paddock lease list\n"


def test_who_cannot_be_reached_is_5(paddock: Paddock) -> None:
    said = paddock("lease", "list", "--server", "http://127.0.0.1:9")
    assert said.code == 5
    assert said.err.startswith("paddock: http://127.0.0.1:9: Connection refused\nhint: ")


def test_a_reader_that_has_enough_is_no_failure(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    line = f"{sys.executable} -m paddock schema | head -c 1; exit $PIPESTATUS"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_text_of_others_cannot_steer_a_terminal() -> None:
    assert clean("a\x1b[2Jb\x07\x9bc\r\u202e") == "a\ufffd[2Jb\ufffd\ufffdc\ufffd\ufffd"
    assert clean("häuser 家 \n\ttwo") == "häuser 家 \n\ttwo"


def test_the_shell_completes_nouns_and_verbs() -> None:
    environment = {
        **os.environ,
        "_PADDOCK_COMPLETE": "bash_complete",
        "COMP_WORDS": "paddock lease re",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-m", "paddock"], capture_output=True, text=True, env=environment, check=False
    )
    assert {line.partition(",")[2] for line in done.stdout.split()} == {"renew", "release"}
