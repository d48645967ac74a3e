"""A line of a person's own words, as long as the server takes it."""

from typing import Any

import click


class Line(click.ParamType[str]):
    """One line of at most so many characters, without control characters."""

    name = "text"

    def __init__(self, *, most: int) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if len(text) > self.most:
            self.fail(f"it has {len(text)} characters, and {self.most} at most are taken", param, ctx)
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
            self.fail("it is not one line: no line breaks, tabs or other control characters", param, ctx)
        return text


REASON = Line(most=500)
HOLDER = Line(most=255)
