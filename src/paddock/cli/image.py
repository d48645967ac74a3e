"""`paddock image`: the disks that machines are cloned from, and how they are made."""

from typing import TYPE_CHECKING, Any

import click

from paddock.cli import chains
from paddock.cli.connection import asks, every
from paddock.cli.grammar import Noun, verb
from paddock.cli.naming import choose, image_of
from paddock.cli.root import complain
from paddock.cli.sizes import SIZE
from paddock.cli.spans import SPAN

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import AgentCommand, Image

image = Noun(
    "image",
    help="Images: disks that machines are cloned from, made of a parent and scripts.",
    example="paddock image list\npaddock image build --follow web\npaddock image gc --unused 30d",
)
_LIMIT = 600.0
_host = click.option("--host", default="", metavar="HOST", help="Of one host.")


@verb(image, "list", example="paddock image list\npaddock image list --json")
@asks
def list_(client: "Client", as_json: bool) -> None:
    """Every image with what is made of it below it, and what hosts have: layers, sizes, ages, last use."""
    from paddock.cli import painting
    from paddock.client import calls

    rows = client.send(calls.images()).items
    used = chains.last_uses(client, rows)
    if as_json:
        return painting.tell_all(chains.plain(row, used) for row in rows)
    painting.table(
        chains.COLUMNS,
        chains.drawn(rows, used),
        empty="no images; write one into the configuration: - image: {name: debian, url: https://...}",
    )
    _complain_of(rows)
    return None


@verb(image, "show", example="paddock image show web")
@click.argument("name")
@asks
def show(client: "Client", name: str, as_json: bool) -> None:
    """One image: what it is made of, who uses it, and what each host has of it."""
    from paddock.cli import painting
    from paddock.cli.sizes import spell
    from paddock.client import calls

    row = image_of(client, name)
    rows = client.send(calls.images()).items
    used = chains.last_uses(client, (row,))
    if as_json:
        return painting.tell(chains.plain(row, used))
    painting.fields(
        f"image {row.name}",
        [
            ("made of", row.source or f"image {row.parent}"),
            ("disk", spell(row.size) if row.size else ""),
            ("scripts", ", ".join(row.scripts)),
            ("recipe", row.recipe[:12]),
            ("used by", ", ".join(row.pools)),
            ("written", row.where),
        ],
    )
    painting.print_line("")
    lineage = chains.lineage(rows, row)
    painting.table(chains.COLUMNS, chains.drawn(lineage, used), empty="")
    if not row.hosts:
        painting.print_line("no host has it: it is built when an environment needs it, or: paddock image build NAME")
    _complain_of((row,))
    return None


def _complain_of(rows: "tuple[Image, ...]") -> None:
    from paddock.cli import painting

    for row in rows:
        for there in row.hosts:
            if there.reason and there.state == "failed":
                again = f"; tried again {painting.left(there.again)}" if there.again else ""
                painting.print_line(f"! {there.id}: {there.reason}{again}: paddock image log {there.id}")


@verb(image, "build", example="paddock image build web\npaddock image build --host vm-1 --follow web")
@click.argument("name")
@_host
@click.option("-f", "--follow", is_flag=True, help="Print the log as it is written, until it is built.")
@asks
def build(client: "Client", name: str, host: str, follow: bool, as_json: bool) -> int:
    """Build what is missing of an image now; what was built before goes on serving until the new one is whole.

    Without --host everywhere where it is; where it is nowhere, on the hosts that could carry its environments.
    """
    from paddock.cli import painting, watching
    from paddock.client import calls

    if follow and as_json:
        raise click.UsageError("--follow prints the log, --json one object: choose one")
    before = image_of(client, name)
    row = client.send(calls.build_image(before.name, host=host))
    if as_json:
        painting.tell(row)
        return 0
    wanted = [there for there in row.hosts if host in ("", there.host)]
    for there in wanted:
        painting.print_line(f"image {there.id}: {there.state}{chains.progress(there)}")
    if not wanted:
        painting.print_line(f"image {row.name}: no host may carry it: paddock host list")
    if follow:
        return watching.build(client, before, [there.host for there in wanted])
    if wanted:
        painting.print_line(f"  follow it:  paddock image log -f {wanted[0].id}")
    return 0


@verb(image, "log", example="paddock image log web\npaddock image log -f web@vm-1")
@click.argument("name", metavar="IMAGE[@HOST]")
@_host
@click.option("-f", "--follow", is_flag=True, help="Go on until the build is over.")
@asks
def log(client: "Client", name: str, host: str, follow: bool, as_json: bool) -> None:
    """The log of the present build of an image, or of the last one."""
    from paddock.cli import painting, watching

    typed, _, place = name.partition("@")
    row = image_of(client, typed)
    host = host or place
    if host:
        host = choose("host", host, [(there.host, ()) for there in row.hosts])
    for line in watching.lines(client, f"{row.name}@{host}" if host else row.name, follow=follow):
        if as_json:
            painting.tell({"text": line})
        else:
            painting.print_line(line)


@verb(
    image,
    "gc",
    example="paddock image gc --unused 30d\n"
    "paddock image gc --room 20GiB --host vm-1\n"
    "paddock image gc --unused 30d --yes",
)
@_host
@click.option("--unused", type=SPAN, default=None, metavar="SPAN", help="What nobody has used for so long.")
@click.option("--room", type=SIZE, default=None, metavar="SIZE", help="The longest unused, until so much is free.")
@click.option("--yes", is_flag=True, help="Remove it. Without this you are only told what would go.")
@asks
def gc(client: "Client", host: str, unused: float | None, room: int | None, yes: bool, as_json: bool) -> int:
    """Remove layers and templates that nothing stands on. A dry run, unless you say --yes."""
    from paddock.cli import painting
    from paddock.client import calls

    asked = client.send(calls.collect_images(host=host, unused=unused, room=room, dry_run=not yes)).items
    overs = [client.finish(one, wait=_LIMIT) for one in asked]
    hosts = {row.agent: row.name for row in every(client, lambda below: calls.hosts(below=below))}
    gone = [one for over in overs for one in _removed(over, hosts)]
    if as_json:
        freed = sum(one["bytes"] for one in gone)
        painting.tell({"dry_run": not yes, "removed": gone, "freed": freed})
    else:
        _tell_removed(gone, _names(client.send(calls.images()).items), is_done=yes)
    wrong = [over for over in overs if over.state != "complete"]
    for over in wrong:
        complain(f"host {hosts.get(over.agent, over.agent)}: {over.message or over.code or over.state}")
    return 1 if wrong else 0


def _removed(over: "AgentCommand", hosts: dict[str, str]) -> list[dict[str, Any]]:
    told = over.result.get("removed")
    return [
        {
            "host": hosts.get(over.agent, over.agent),
            "digest": str(one.get("digest", "")),
            "bytes": size if isinstance(size := one.get("bytes"), int) else 0,
            "why": str(one.get("why", "")),
        }
        for one in (told if isinstance(told, list | tuple) else ())
    ]


def _names(rows: "tuple[Image, ...]") -> dict[str, str]:
    """Digest → what people call it."""
    return {
        layer.digest: f"{layer.image} {layer.script}".strip()
        for row in rows
        for there in row.hosts
        for layer in there.layers
    }


def _tell_removed(gone: list[dict[str, Any]], names: dict[str, str], *, is_done: bool) -> None:
    from paddock.cli import painting
    from paddock.cli.sizes import spell

    painting.table(
        ("host", "layer", "digest", "bytes", "why"),
        [
            (one["host"], names.get(one["digest"], ""), one["digest"][:12], spell(one["bytes"]), one["why"])
            for one in gone
        ],
        empty="nothing to remove: everything is used, is young, or serves",
    )
    freed = spell(sum(one["bytes"] for one in gone))
    if gone and is_done:
        painting.print_line(f"removed {len(gone)}, {freed} more are free")
    elif gone:
        painting.print_line(f"{len(gone)} would go, and {freed} more be free; to remove them say --yes")
