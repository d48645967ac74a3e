"""`paddock agent`: the agent's own command line, which needs nothing that is installed."""

import click


class _Passed(click.Command):
    """Whatever follows is the agent's to understand, its -h too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args


@click.command("agent", cls=_Passed, add_help_option=False)
@click.pass_context
def agent(ctx: click.Context) -> int:
    """The agent of this machine: run, methods, ledger, status."""
    from paddock.agent.__main__ import run

    return run(ctx.args)
