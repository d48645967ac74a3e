"""paddock agent methods: what an agent can be asked."""

import argparse
from typing import Any

from paddock.agent.commands.grammar import Commands, command, say, tell


def add(commands: Commands) -> None:
    """Declare it."""
    methods = command(commands, "methods", "what an agent can be asked", example="paddock agent methods --json")
    methods.add_argument("--json", action="store_true", help="one JSON object a method, one a line")
    methods.set_defaults(act=_methods)


def _methods(chosen: argparse.Namespace) -> None:
    from paddock.agent import skills
    from paddock.wire.methods import describe

    rows = describe(skills.rows(skills.usual(())))
    if chosen.json:
        nested: list[dict[str, Any]] = []
        for row in rows:
            if row["method"]:
                nested.append({**row, "params": []})
            else:
                nested[-1]["params"].append({name: told for name, told in row.items() if name != "method"})
        for one in nested:
            tell(one)
        return
    for row in rows:
        if row["method"]:
            say(f"\n{row['method']}  ({row['toward']}, {row['effect']})  {row['caption']}\n    -> {row['result']}")
        else:
            say(f"    {row['param']}: {row['kind']}, {row['needed']}: {row['doc']}")
