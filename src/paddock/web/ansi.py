"""Turns what a machine printed into safe HTML: escaped first, colours as classes."""

import re
from dataclasses import dataclass, field
from html import escape

# Colour sequences stay, every other escape sequence is dropped: titles, cursor moves, links, half ones at a cut.
_TOKEN = re.compile(
    r"\x1b\[(?P<sgr>[0-9;:]*)m"
    r"|\x1b\[[0-?]*[ -/]*[@-~]?"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
    r"|(?P<odd>[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069])"
)
_ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_LONGEST = 4096
"""Characters of one line that are shown; the rest is in the raw log."""

_SIXTEEN = (
    (0, 0, 0),
    (205, 49, 49),
    (13, 188, 121),
    (229, 229, 16),
    (36, 114, 200),
    (188, 63, 188),
    (17, 168, 205),
    (204, 204, 204),
    (102, 102, 102),
    (241, 76, 76),
    (35, 209, 139),
    (245, 245, 67),
    (59, 142, 234),
    (214, 112, 214),
    (41, 184, 219),
    (255, 255, 255),
)
_STYLES = {1: "b", 2: "d", 3: "i", 4: "u", 7: "v", 9: "s"}
_ENDS = {22: ("b", "d"), 23: ("i",), 24: ("u",), 27: ("v",), 29: ("s",)}


@dataclass
class Pen:
    """The colours and styles in force; it goes on from line to line of one window. Not frozen: it is a cursor."""

    fore: int | None = None
    back: int | None = None
    styles: set[str] = field(default_factory=set)

    def classes(self) -> str:
        words = sorted(self.styles)
        if self.fore is not None:
            words.append(f"f{self.fore}")
        if self.back is not None:
            words.append(f"g{self.back}")
        return " ".join(words)

    def apply(self, codes: str) -> None:
        """Follow one `m` sequence; what is unknown is passed over."""
        numbers = [int(part) if part else 0 for part in re.split("[;:]", codes[:128]) if len(part) < 6]
        position = 0
        while position < len(numbers):
            code = numbers[position]
            position += 1
            if code in (38, 48):
                colour, taken = _extended(numbers[position:])
                position += taken
                if code == 38:
                    self.fore = colour
                else:
                    self.back = colour
            else:
                self._one(code)

    def _one(self, code: int) -> None:
        if code == 0:
            self.fore, self.back, self.styles = None, None, set()
        elif code in _STYLES:
            self.styles.add(_STYLES[code])
        elif code in _ENDS:
            self.styles.difference_update(_ENDS[code])
        elif 30 <= code <= 37:
            self.fore = code - 30
        elif 90 <= code <= 97:
            self.fore = code - 82
        elif 40 <= code <= 47:
            self.back = code - 40
        elif 100 <= code <= 107:
            self.back = code - 92
        elif code == 39:
            self.fore = None
        elif code == 49:
            self.back = None


def _extended(rest: list[int]) -> tuple[int | None, int]:
    """The colour after 38 or 48 as one of our sixteen, and how many numbers it took."""
    if rest[:1] == [5] and len(rest) > 1:
        return _of_256(rest[1]), 2
    if rest[:1] == [2] and len(rest) > 3:
        return _nearest((rest[1], rest[2], rest[3])), 4
    return None, len(rest)


def _of_256(index: int) -> int:
    if index < 16:
        return index
    if index < 232:
        steps = (0, 95, 135, 175, 215, 255)
        cube = index - 16
        return _nearest((steps[cube // 36], steps[cube // 6 % 6], steps[cube % 6]))
    grey = 8 + (min(index, 255) - 232) * 10
    return _nearest((grey, grey, grey))


def _nearest(colour: tuple[int, int, int]) -> int:
    return min(range(16), key=lambda index: sum((a - b) ** 2 for a, b in zip(colour, _SIXTEEN[index], strict=True)))


def plain(line: str) -> str:
    """The line without escape sequences, odd characters made visible: for text that is not HTML."""
    return _TOKEN.sub(lambda found: _visible(found.group("odd") or ""), _overwritten(line))


def render(line: str, pen: Pen) -> str:
    """One line, without its newline, as HTML; `pen` goes on to the next line.

    A carriage return starts the line again, as on a terminal: what remains is what a person would have seen.
    """
    line = _overwritten(line)
    cut = len(line) - _LONGEST
    if cut > 0:
        line = line[:_LONGEST]
    # The usual line has nothing to follow: one escape and out.
    html = escape(line) if not pen.classes() and not _ODD.search(line) else _coloured(line, pen)
    return f'{html}<span class="cut">… {cut} more characters</span>' if cut > 0 else html


def _overwritten(line: str) -> str:
    line = line.rstrip("\r")
    return line[line.rfind("\r") + 1 :]


def _coloured(line: str, pen: Pen) -> str:
    parts: list[str] = []
    position = 0
    for found in _TOKEN.finditer(line):
        _put(parts, line[position : found.start()], pen)
        position = found.end()
        if found.group("sgr") is not None:
            pen.apply(found.group("sgr"))
        elif found.group("odd"):
            parts.append(f'<span class="odd">{_visible(found.group("odd"))}</span>')
    _put(parts, line[position:], pen)
    return "".join(parts)


def _put(parts: list[str], text: str, pen: Pen) -> None:
    if not text:
        return
    classes = pen.classes()
    parts.append(f'<span class="{classes}">{escape(text)}</span>' if classes else escape(text))


def _visible(character: str) -> str:
    """A control character as its picture; one that turns text around as a replacement sign."""
    if not character:
        return ""
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"
