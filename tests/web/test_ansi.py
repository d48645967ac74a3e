"""What machines print becomes safe HTML."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock.web.ansi import Pen, plain, render


@pytest.mark.parametrize(
    ("line", "html"),
    [
        ("plain", "plain"),
        ("a < b & c", "a &lt; b &amp; c"),
        ("\x1b[31mred\x1b[0m not", '<span class="f1">red</span> not'),
        ("\x1b[1;92;41mx", '<span class="b f10 g1">x</span>'),
        ("\x1b[38;5;196mx", '<span class="f1">x</span>'),
        ("\x1b[48;2;0;0;0mx", '<span class="g0">x</span>'),
        ("\x1b[31m<b>\x1b[m", '<span class="f1">&lt;b&gt;</span>'),
        ("10%\r50%\r100%", "100%"),
        ("dos\r", "dos"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;http://evil/\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("half \x1b[3", "half "),
        ("nul \x00", 'nul <span class="odd">␀</span>'),
        ("turned \u202egpj.exe", 'turned <span class="odd">\ufffd</span>gpj.exe'),
        ("tab\tstays", "tab\tstays"),
    ],
)
def test_a_line_as_html(line: str, html: str) -> None:
    assert render(line, Pen()) == html


def test_colours_go_on_to_the_next_line_until_they_end() -> None:
    pen = Pen()
    assert render("\x1b[31mone", pen) == '<span class="f1">one</span>'
    assert render("two\x1b[39m three", pen) == '<span class="f1">two</span> three'
    assert render("four", pen) == "four"


def test_a_line_without_end_is_cut_and_says_so() -> None:
    html = render("x" * 10_000, Pen())
    assert html.endswith('<span class="cut">… 5904 more characters</span>')


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str]] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen |= {(tag, name) for name, _ in attrs} or {(tag, "")}

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x1b[;m<>&\"'0123456789\r")))
def test_nothing_but_our_own_spans_ever_comes_out(line: str) -> None:
    tags = _Tags()
    tags.feed(render(line, Pen()))
    assert tags.seen <= {("span", "class")}
    assert "\x1b" not in tags.text
    assert "\x1b" not in plain(line)
