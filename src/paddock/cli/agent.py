"""`paddock agent`: the agent of this machine, and any agent as its server knows it."""

from typing import TYPE_CHECKING

import click

from paddock.cli.call import orders
from paddock.cli.connection import asks, every
from paddock.cli.grammar import Noun, show_example, verb
from paddock.cli.naming import agent_of

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import Agent, AgentCommand, AgentLines, Alert

LEVELS = ("debug", "info", "warning", "error")
_WAIT = 20.0


class _Passed(click.Command):
    """A verb of the agent's own command line: whatever follows is that one's to understand, its -h too."""

    def __init__(self, name: str) -> None:
        super().__init__(name, add_help_option=False)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args

    def invoke(self, ctx: click.Context) -> int:
        from paddock.agent.__main__ import run

        return run([self.name or "", *ctx.args])


class _Agent(Noun):
    """Verbs that speak to a server are ours; all others are the agent's own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from paddock.agent.__main__ import verbs

        return [*self.commands, *verbs()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (ours := super().get_command(ctx, cmd_name)) is not None:
            return ours
        from paddock.agent.__main__ import verbs

        is_its = cmd_name in verbs() or cmd_name.startswith("-")
        return _Passed(cmd_name) if is_its else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            # `paddock agent --version` and the like: the agent's own.
            args = ["--", *args]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from paddock.agent.__main__ import verbs

        with formatter.section("Any agent, over its server"):
            formatter.write_dl([(name, one.get_short_help_str(80)) for name, one in self.commands.items()])
        with formatter.section("The agent of this machine"):
            formatter.write_dl([(name, f"{told[:1].upper()}{told[1:]}.") for name, told in verbs().items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        show_example(self.example, formatter)


agent = _Agent(
    "agent",
    help="Agents: what is on this machine, and any other as its server knows it.",
    example="paddock agent list\npaddock agent call --follow vm-1 script.run run='uname -a'\npaddock agent status",
)


@verb(agent, "list", example="paddock agent list\npaddock agent list --host vm-1 --json")
@click.option("--host", default="", help="Of one host and what it carries.")
@asks
def list_(client: "Client", host: str, as_json: bool) -> None:
    """Agents and whether they are connected."""
    from paddock.cli import painting
    from paddock.client import calls

    rows: list[Agent] = [
        row for row in every(client, lambda below: calls.agents(below=below)) if not host or row.host == host
    ]
    if as_json:
        return painting.tell_all(rows)
    painting.table(
        ("id", "state", "seen", "what", "carried by", "software"),
        [
            (
                row.id,
                state_of(row),
                painting.ago(row.seen),
                f"{row.kind} {row.machine or row.name}",
                row.environment or row.host,
                row.software,
            )
            for row in rows
        ],
        empty="no agents; make a code for one: paddock host add NAME",
    )


def state_of(row: "Agent") -> str:
    if row.shut_out:
        return "shut out"
    return "online" if row.connected else "away"


@verb(agent, "show", example="paddock agent show vm-1")
@click.argument("name", metavar="AGENT")
@asks
def show(client: "Client", name: str, as_json: bool) -> None:
    """One agent: what it is, what it can do, what it is doing."""
    from paddock.cli import painting

    row = agent_of(client, name)
    if as_json:
        return painting.tell(row)
    painting.fields(
        f"agent {row.id}",
        [
            ("state", state_of(row)),
            ("why", row.shut_out),
            ("seen", painting.ago(row.seen)),
            ("host", row.host),
            ("environment", row.environment),
            ("software", row.software),
            ("boot", row.boot_id),
            ("skills", " ".join(row.skills)),
            ("methods", " ".join(sorted(row.methods))),
        ],
    )
    if row.commands:
        painting.print_line("")
        painting.table(
            ("id", "method", "state", "asked"),
            [(each.id, each.method, each.state, painting.ago(each.asked)) for each in row.commands],
            empty="",
        )


@verb(agent, "commands", example="paddock agent commands vm-1\npaddock agent commands --in running vm-1 --json")
@click.argument("name", metavar="AGENT")
@click.option("--in", "condition", default="", metavar="STATE", help="In one state: queued, running, complete...")
@click.option("--limit", type=click.IntRange(1, 100_000), default=30, show_default=True, help="At most so many.")
@asks
def commands(client: "Client", name: str, condition: str, limit: int, as_json: bool) -> None:
    """What an agent was asked to do, newest first."""
    from paddock.cli import painting
    from paddock.client import calls

    id = agent_of(client, name).id
    rows: list[AgentCommand] = every(
        client, lambda below: calls.commands(id, below=below, state=condition, limit=min(limit, 500)), limit
    )
    if as_json:
        return painting.tell_all(rows)
    painting.table(
        ("id", "method", "state", "for", "asked", "took", "said"),
        [
            (
                row.id,
                row.method,
                row.state,
                f"run {row.run}" if row.run else row.by or row.environment,
                painting.ago(row.asked),
                painting.lasted(row.sent, row.ended) if row.ended else "",
                f"{row.code}: {row.message}" if row.code else "" if row.exit is None else f"exit {row.exit}",
            )
            for row in rows
        ],
        empty=f"none; order one: paddock agent call {name} METHOD",
    )


@verb(agent, "log", example="paddock agent log -f vm-1\npaddock agent log --level warning -n 50 vm-1")
@click.argument("name", metavar="AGENT")
@click.option("-f", "--follow", is_flag=True, help="Go on until you press Ctrl-C.")
@click.option("--level", type=click.Choice(LEVELS), default="info", show_default=True, help="At this level or above.")
@click.option("-n", "--last", type=click.IntRange(1, 5000), default=200, show_default=True, help="The last N lines.")
@asks
def log(client: "Client", name: str, follow: bool, level: str, last: int, as_json: bool) -> None:
    """What an agent logs about itself, newest last."""
    import sys
    import time

    from paddock.client import Unreachable, calls
    from paddock.client.waiting import PAUSE

    id = agent_of(client, name).id
    page: AgentLines = client.send(calls.agent_log(id, level=level, limit=last))
    _tell_lines(page, as_json=as_json)
    while follow:
        sys.stdout.flush()
        try:
            page = client.send(calls.agent_log(id, level=level, cursor=page.cursor, wait=_WAIT))
        except Unreachable:
            time.sleep(PAUSE)
            continue
        _tell_lines(page, as_json=as_json)


def _tell_lines(page: "AgentLines", *, as_json: bool) -> None:
    from paddock.cli import painting

    for line in page.items:
        if as_json:
            painting.tell(line)
        else:
            fields = "".join(f"  {key}={value}" for key, value in line.fields.items())
            painting.print_line(f"{line.at[:19]:<19}  {line.level:<7}  {line.message}{fields}")


@verb(agent, "alerts", example="paddock agent alerts\npaddock agent alerts --all vm-1 --json")
@click.argument("name", metavar="[AGENT]", default="")
@click.option("--all", "also_over", is_flag=True, help="Those that are over, too.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@asks
def alerts(client: "Client", name: str, also_over: bool, limit: int, as_json: bool) -> None:
    """What agents want a person to know."""
    from paddock.cli import painting
    from paddock.client import calls

    id = agent_of(client, name).id if name else ""
    states = ("raised", "acknowledged", "over") if also_over else ()
    rows: list[Alert] = every(
        client, lambda below: calls.alerts(below=below, agent=id, states=states, limit=min(limit, 500)), limit
    )
    if as_json:
        return painting.tell_all(rows)
    painting.table(
        ("id", "agent", "level", "state", "since", "told", "by", "about"),
        [
            (
                row.id,
                row.agent,
                row.level,
                row.state,
                painting.ago(row.at),
                str(row.count),
                row.acknowledged_by,
                f"{row.subject}: {row.message}" if row.subject else row.message,
            )
            for row in rows
        ],
        empty="no alerts",
    )


@verb(agent, "acknowledge", example="paddock agent acknowledge 17")
@click.argument("alert")
@asks
def acknowledge(client: "Client", alert: str, as_json: bool) -> None:
    """Say that you know of an alert: its agent stops repeating it."""
    from paddock.cli import painting
    from paddock.client import calls

    row = client.send(calls.acknowledge(alert))
    if as_json:
        return painting.tell(row)
    painting.print_line(f"alert {row.id} of {row.agent}: {row.state}, {row.acknowledged_by} knows")


for _name, _command in orders.commands.items():
    agent.add_command(_command, _name)
