"""`paddock validate`, `explain`, `schema`: a configuration, looked at without a server."""

import json
import sys
from pathlib import Path

import click

from paddock.cli.connection import json_option
from paddock.cli.extras import server_parts
from paddock.cli.grammar import Verb

_file = click.Path(path_type=Path, dir_okay=False)


@click.command("validate", cls=Verb, example="paddock validate paddock.yaml")
@click.argument("config", type=_file)
@json_option
def validate(config: Path, as_json: bool) -> int:
    """Check a configuration and say what is wrong, each with its line. Exit 3 if anything is. Nothing is changed."""
    from paddock.cli import painting

    with server_parts("validate"):
        from paddock.settings import Invalid, load
    try:
        loaded = load(config)
    except Invalid as exc:
        for problem in exc.problems:
            if as_json:
                painting.tell({"where": problem.where, "message": problem.message})
            else:
                painting.print_line(str(problem))
        if not as_json:
            count = len(exc.problems)
            painting.print_line(f"{count} {'error' if count == 1 else 'errors'}; nothing was changed")
        return 3
    found = loaded.configuration
    counts = {"forges": found.forges, "hosts": found.hosts, "pools": found.pools, "jobs": found.jobs}
    if as_json:
        painting.tell({"valid": True, **{name: len(things) for name, things in counts.items()}})
    else:
        said = ", ".join(f"{len(things)} {name if len(things) != 1 else name[:-1]}" for name, things in counts.items())
        painting.print_line(f"{config}: in order ({said})")
    return 0


@click.command(
    "explain",
    cls=Verb,
    example="paddock explain event.json --config paddock.yaml\nssh ... stream-events | head -1 | paddock explain -",
)
@click.argument("event", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--config", type=_file, default="paddock.yaml", show_default=True, help="The configuration to ask.")
@click.option("--forge", default="", help="The forge that the event came from; needed where there are several.")
@json_option
def explain(event: Path, config: Path, forge: str, as_json: bool) -> None:
    """Say what an event would start, and for each job why, with the line that decided. Nothing is started."""
    from paddock.cli import painting
    from paddock.core.errors import Broken, Missing, Refused

    with server_parts("explain"):
        from paddock import settings
    try:
        raw = sys.stdin.read() if str(event) == "-" else event.read_text("utf-8")
    except FileNotFoundError:
        raise Missing(f"{event}: no such file") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise Broken(f"{event}: {getattr(exc, 'strerror', None) or exc}") from exc
    told = settings.explain(raw, settings.load(config).configuration, forge=forge)
    if not told.event.type and told.event.outcome:
        raise Refused(
            f"{'what was piped in' if str(event) == '-' else event}: {told.event.outcome}",
            hint="an event is one JSON object, as a line of a forge's stream",
        )
    if not as_json:
        for line in settings.spell(told):
            painting.print_line(line)
        return
    whys = [{"job": why.job, "runs": why.runs, "reason": why.reason, "where": why.where} for why in told.whys]
    painting.tell({"event": told.headline, "runs": told.runs, "outcome": told.outcome, "jobs": whys})


@click.command("schema", cls=Verb, example="paddock schema > paddock.schema.json")
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of the configuration, for editors that check while you type."""
    with server_parts("schema"):
        from paddock.settings import schema as made

    click.echo(json.dumps(made(), indent=None if as_json else 2))
