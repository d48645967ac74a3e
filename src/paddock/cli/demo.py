"""`paddock demo`: the main job on this machine, from a comment on a Gerrit to the report."""

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paddock.cli.connection import json_option
from paddock.cli.grammar import Verb
from paddock.core.errors import Broken

if TYPE_CHECKING:
    from paddock.cli.play import Outcome, Wanted
    from paddock.cli.stage import Stage
    from paddock.client import Client

Say = Callable[..., None]
_LIMIT = 90.0
"""Seconds after which something hangs."""
_GERRIT_LIMIT = 180.0
_PROJECT = "openstack-dev/ci-sandbox"
_HELLO = "Is anybody listening?"


@click.command(
    "demo",
    cls=Verb,
    example="paddock demo\npaddock demo --once --json\npaddock demo --machines qemu\npaddock demo --gerrit FILE.war",
)
@click.option("--once", is_flag=True, help="End when it is over; exit 0 only if all verdicts are right.")
@click.option("--gerrit", "is_real", is_flag=True, help="On a real Gerrit, started here; only from a source checkout.")
@click.option(
    "--machines",
    type=click.Choice(["local", "qemu"]),
    default="local",
    show_default=True,
    help="What the machines are: directories, or virtual machines; these only from a source checkout.",
)
@click.option("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="Where to serve. Default: any free port.")
@click.argument("war", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def demo(once: bool, is_real: bool, machines: str, listen: str, war: Path | None, as_json: bool) -> int:
    """See the main job done: a comment becomes an environment, two runs and a report.

    Starts a server and a host's agent in a temporary directory, plays a recorded Gerrit stream, and serves until
    Ctrl-C. With --gerrit [WAR], a real Gerrit gets a change and the comment instead. With --machines qemu the two
    machines are virtual ones, made of two images that are built first and kept. Nothing else is left behind.
    """
    if war is not None and not is_real:
        raise click.UsageError("WAR: it belongs to --gerrit", click.get_current_context())
    if is_real and machines != "local":
        raise click.UsageError("--gerrit: its demo is on local machines", click.get_current_context())
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a polite end passes through every `finally`
    with _screen(to_stderr=as_json) as (say, status):
        if is_real:
            code = _with_gerrit(war, say, status, began, listen=listen, once=once, as_json=as_json)
        elif machines == "qemu":
            code = _on_guests(say, status, began, listen=listen, once=once, as_json=as_json)
        else:
            code = _replayed(say, status, began, listen=listen, once=once, as_json=as_json)
    return code


@contextmanager
def _screen(*, to_stderr: bool) -> Iterator[tuple[Say, Callable[[str], None]]]:
    """A way to say a line, and a way to say what goes on below all lines."""
    from rich.text import Text

    from paddock.cli import painting

    console = painting.console(err=to_stderr)
    live: Any = console.status("", spinner="dots") if console.is_terminal else None

    def say(text: str, tone: str = "") -> None:
        console.print(Text(painting.clean(text), style=tone), soft_wrap=True)

    def status(text: str) -> None:
        if live is not None:
            live.update(Text(painting.clean(text), no_wrap=True, overflow="ellipsis"))
            live.start() if text else live.stop()

    try:
        yield say, status
    finally:
        if live is not None:
            live.stop()


def _replayed(say: Say, status: Callable[[str], None], began: float, *, listen: str, once: bool, as_json: bool) -> int:
    from paddock.cli.play import REPLAYED
    from paddock.cli.stage import stage

    with stage() as made:
        status("starting the server")
        with made.start_server(made.lay_out(), listen=listen) as client:
            say(f"server    {client.place.url}", "bold")
            say(f"state     {made.state}")
            made.start_agent(client, "local")
            say("agent     host local: the skill local, on this machine")
            say("forge     review: 23 recorded events of a Gerrit, played")
            say("")
            return _perform(client, made, say, status, began, wanted=REPLAYED, limit=_LIMIT, once=once, as_json=as_json)


def _on_guests(say: Say, status: Callable[[str], None], began: float, *, listen: str, once: bool, as_json: bool) -> int:
    """The same on virtual machines, which reach each other over a private network and nobody else."""
    from paddock.cli import guests
    from paddock.cli.play import REPLAYED
    from paddock.cli.stage import stage

    status("making the images of the two machines (the first time this takes a minute or two)")
    with guests.served() as images, stage() as made:
        status("starting the server")
        with made.start_server(made.lay_out(configuration=guests.configuration(images)), listen=listen) as client:
            say(f"server    {client.place.url}", "bold")
            say(f"state     {made.state}")
            made.start_agent(client, "local", "--skills", "hypervisor", "--hypervisor", f"storage={guests.storage()}")
            say("agent     host local: the skill hypervisor, on this machine")
            say("forge     review: 23 recorded events of a Gerrit, played")
            say("")
            limit = time.monotonic() - began + guests.LIMIT
            return _perform(client, made, say, status, began, wanted=REPLAYED, limit=limit, once=once, as_json=as_json)


def _perform(
    client: "Client",
    made: "Stage",
    say: Say,
    status: Callable[[str], None],
    began: float,
    *,
    wanted: "Wanted",
    limit: float,
    once: bool,
    as_json: bool,
    then: "Callable[[Outcome], None]" = lambda outcome: None,
) -> int:
    """Watch it to its end, tell it, and serve on unless it is to be once."""
    from paddock.cli import painting
    from paddock.cli.play import Play, show_pages, show_report

    status("listening")
    outcome = Play(client, made, say, status).watch(began=began, limit=limit, wanted=wanted)
    status("")
    show_report(say, outcome, account="my-ci")
    show_pages(say, client.place.url, outcome)
    then(outcome)
    say("")
    wrongs = outcome.wrongs(wanted)
    for wrong in wrongs:
        say(f"  ✗ {wrong}", "red")
    if not wrongs:
        say(f"  ✓ all as it should be, {outcome.seconds:.1f} s after the start", "green")
    if as_json:
        painting.tell(outcome.told())
        sys.stdout.flush()
    if not once:
        with suppress(KeyboardInterrupt):
            say("")
            say("  Serving until Ctrl-C. In another terminal:", "bold")
            say(f"    export PADDOCK_STATE={made.state}")
            say("    paddock run list; paddock lease run --env two-machines -- sh -c 'cat $PADDOCK_ENVIRONMENT_FILE'")
            while True:
                made.check()
                time.sleep(1)
        say("ending agent, machines and server")
    return 1 if wrongs else 0


# ---- on a real Gerrit ------------------------------------------------------------------------------------------------


def _with_gerrit(
    war: Path | None,
    say: Say,
    status: Callable[[str], None],
    began: float,
    *,
    listen: str,
    once: bool,
    as_json: bool,
) -> int:
    from paddock.cli import checkout
    from paddock.cli.play import Wanted
    from paddock.cli.stage import stage

    tool = checkout.tool("gerrit", option="--gerrit")
    status("starting Gerrit (the first time it is fetched and prepared, which takes some minutes)")
    try:
        with tool.running(war) as gerrit, stage() as made:
            gerrit.create_project(_PROJECT)
            change = gerrit.push(_PROJECT, files={"greeting.txt": "hello\n"}, subject="Say hello")
            say(f"gerrit    {gerrit.url}, SSH on port {gerrit.ssh_port}", "bold")
            say(f"change    {change.url}  pushed by jane")
            with made.start_server(made.lay_out(configuration=_configuration(gerrit)), listen=listen) as client:
                say(f"server    {client.place.url}", "bold")
                made.start_agent(client, "local")
                _await_stream(client, made, gerrit, change, status)
                gerrit.comment(change, "my-ci recheck")
                say("comment   jane: my-ci recheck")
                say("")

                def then(outcome: "Outcome") -> None:
                    _show_posted(say, gerrit, change)

                return _perform(
                    client,
                    made,
                    say,
                    status,
                    began,
                    wanted=Wanted(events=None, ignored=None, verdicts={"noop": "success", "two-machines": "success"}),
                    limit=time.monotonic() - began + _GERRIT_LIMIT,
                    once=once,
                    as_json=as_json,
                    then=then,
                )
    except (tool.Unavailable, tool.Failed) as exc:
        raise Broken(str(exc)) from exc


def _configuration(gerrit: Any) -> str:
    """The demo's configuration with this Gerrit in the place of the recorded stream."""
    import yaml

    from paddock.cli.stage import examples

    text = (examples() / "demo" / "paddock.yaml").read_text("utf-8")
    block = re.search(r"(?ms)^- replay:.*?(?=^- )", text)
    if block is None:
        raise AssertionError("the demo's configuration replays a stream")
    played = yaml.safe_load(block[0])[0]["replay"]
    account = gerrit.accounts["my-ci"]
    real = {
        "name": played["name"],
        "ssh": {
            "host": gerrit.host,
            "port": gerrit.ssh_port,
            "user": account.name,
            "key": str(account.key),
            "host-key": gerrit.host_key,
        },
        "recheck": played["recheck"],
        "report": played["report"],
    }
    return text.replace(block[0], yaml.safe_dump([{"gerrit": real}], sort_keys=False) + "\n")


def _await_stream(client: "Client", made: "Stage", gerrit: Any, change: Any, status: Callable[[str], None]) -> None:
    """Say something harmless until it is heard: before, nobody knows whether the stream flows."""
    from paddock.client import calls

    status("waiting until the stream is heard")
    until, again = time.monotonic() + 60, 0.0
    while not client.send(calls.events()).items:
        made.check()
        if time.monotonic() > until:
            raise Broken("gerrit: its stream is not heard after 60 s")
        if time.monotonic() >= again:
            gerrit.comment(change, _HELLO)
            again = time.monotonic() + 3
        time.sleep(0.1)


def _show_posted(say: Say, gerrit: Any, change: Any) -> None:
    """What really stands on the change."""
    found = gerrit.reports(change)
    if len(found) != 1:
        raise Broken(f"gerrit: {len(found)} reports stand on {change.url}, not 1")
    say("")
    say(f"  It stands on the change, by {found[0].author}, tagged {found[0].tag}:", "bold")
    say(f"    {change.url}")
