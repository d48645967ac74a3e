"""How commands are written: nouns loaded when named, verbs that show an example."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import click

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Verb(click.Command):
    """A command whose help ends with an example."""

    def __init__(self, *args: Any, example: str, **rest: Any) -> None:
        super().__init__(*args, **{"context_settings": SETTINGS, **rest})
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        show_example(self.example, formatter)


def show_example(example: str, formatter: click.HelpFormatter) -> None:
    with formatter.section("Example" if "\n" not in example else "Examples"):
        for line in example.splitlines():
            formatter.write(f"{'':>{formatter.current_indent}}$ {line}\n")


class Noun(click.Group):
    """The verbs of one noun."""

    command_class = Verb

    def __init__(self, *args: Any, example: str = "", **rest: Any) -> None:
        super().__init__(*args, **{"context_settings": SETTINGS, **rest})
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.example:
            show_example(self.example, formatter)


class Shelf(Noun):
    """The nouns, each told by a line until somebody names it. `entries`: name → (module:attribute, its line)."""

    def __init__(self, *args: Any, entries: Mapping[str, tuple[str, str]], **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.entries:
            return None
        module, _, attribute = self.entries[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.entries.items()])


def verb(group: click.Group, name: str, *, example: str, **rest: Any) -> Callable[[Callable[..., Any]], Verb]:
    """A verb of a noun."""

    def wrap(function: Callable[..., Any]) -> Verb:
        made = click.command(name, cls=Verb, example=example, **rest)(function)
        group.add_command(made)
        return made

    return wrap
