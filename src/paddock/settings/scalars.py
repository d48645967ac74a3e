"""Durations, sizes, names, globs, expressions: what single values of a settings file may be."""

import base64
import ipaddress
import re
from collections.abc import Callable, Iterator
from datetime import timedelta

# The parser's own tree is the only way to see how an expression repeats; it is the same in 3.11 to 3.14.
from re import _constants, _parser  # type: ignore[attr-defined, unused-ignore]
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from paddock.core.egress import Egress
from paddock.core.errors import Refused
from paddock.core.variables import PREFIX
from paddock.settings.problems import show

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
EXPRESSION_MAX = 200
"""Characters of a regular expression."""
REPETITIONS_MAX = 3
MANY = 16
"""From how many on a repetition counts as unbounded."""


_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)


def parse_duration(value: object) -> timedelta:
    """`90s`, `10m`, `2h`, `7d`; `ValueError` with the fact otherwise."""
    if value == 0 and not isinstance(value, bool):
        return timedelta()
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", value) if isinstance(value, str) else None
    if not found:
        raise ValueError(f"{show(value)} is not a duration like 90s, 10m, 2h or 7d")
    return timedelta(seconds=int(found[1]) * SECONDS[found[2]])


def parse_size(value: object) -> int:
    """`512MiB` as bytes; `ValueError` with the fact otherwise."""
    found = re.fullmatch(r"([0-9]{1,12})(B|KiB|MiB|GiB|TiB)", value) if isinstance(value, str) else None
    if not found:
        raise ValueError(f"{show(value)} is not a size like 64KiB, 512MiB or 2GiB")
    return int(found[1]) * BYTES[found[2]]


def _between(low: str, high: str) -> Callable[[object], timedelta]:
    def parse(value: object) -> timedelta:
        duration = parse_duration(value)
        if not parse_duration(low) <= duration <= parse_duration(high):
            raise ValueError(f"{value} is not between {low} and {high}")
        return duration

    return parse


def _host_key(value: object) -> str:
    """A public key as `ssh-keyscan` prints it without the host, or a path; `ValueError` with the fact otherwise."""
    text = _text(value).strip()
    kind, _, rest = text.partition(" ")
    if not rest or text.startswith("/"):
        return text
    try:
        blob = base64.b64decode(rest.split()[0], validate=True)
    except ValueError:
        blob = b""
    # RFC 4253, 6.6: a key is its own type as a counted string, then what belongs to that type.
    named = len(kind).to_bytes(4, "big") + kind.encode()
    if not blob.startswith(named) or len(blob) < len(named) + _SHORTEST_KEY:
        raise ValueError(f"{show(text)} is not a public key; `ssh-keyscan -t ed25519 -p 29418 HOST` prints one")
    return text


_SHORTEST_KEY = 36
"""Bytes after the type: an ed25519 key, counted."""


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not text: put it into quotes")
    if not value:
        raise ValueError("is empty")
    if "\0" in value:
        raise ValueError("holds a NUL")
    return value


def _matching(pattern: str, rule: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = _text(value)
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{show(value)} {rule}")
        return text

    return parse


def _glob(value: object) -> str:
    text = _text(value)
    if text.startswith("/") or any(part in ("", ".", "..") for part in text.split("/")) or not text.isprintable():
        raise ValueError(f"{show(value)} is not a path below $PADDOCK_RESULTS")
    return text


def _expression(value: object) -> str:
    text = _text(value)
    if len(text) > EXPRESSION_MAX:
        raise ValueError(f"{show(value)} is longer than {EXPRESSION_MAX} characters")
    try:
        re.compile(text)
        tree = _parser.parse(text)
    except (re.error, OverflowError, RecursionError) as exc:
        raise ValueError(f"{show(value)} is not a regular expression: {exc}") from exc
    depths = list(_repetitions(tree, depth=1))
    # `(a+)+` takes a time that doubles with each character of a stranger's comment; `.*.*.*.*` its fourth power.
    if max(depths, default=0) > 1:
        raise ValueError(f"{show(value)} repeats a repetition: a comment could keep it busy for ever")
    if len(depths) > REPETITIONS_MAX:
        raise ValueError(f"{show(value)} has more than {REPETITIONS_MAX} repetitions like `.*`")
    return text


def _repetitions(tree: object, *, depth: int) -> Iterator[int]:
    """For each unbounded repetition of an expression, how deep it stands within others: 1 is within none."""
    if isinstance(tree, tuple) and len(tree) == 2 and tree[0] in _REPEATS:
        _, most, inside = tree[1]
        if most >= MANY:
            yield depth
        yield from _repetitions(inside, depth=depth + 1 if most >= MANY else depth)
    elif isinstance(tree, (tuple, list, _parser.SubPattern)):
        for part in tree:
            yield from _repetitions(part, depth=depth)


def _name_or_expression(value: object) -> str:
    text = _text(value)
    if text.startswith("^"):
        return _expression(value)
    if re.search(r"[*+?|()\[\]{}\\$]", text):
        raise ValueError(f"{show(value)} is a plain name; an expression begins with ^")
    if re.search(r"\s", text) or not text.isprintable():
        raise ValueError(f"{show(value)} holds a space or a control character")
    return text


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_text(value: object) -> object:
    """A number or a truth value of `env` as it is spelled in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _text(value) if value else value
    raise ValueError(f"{show(value)} is not text")


def _listen(value: object) -> str:
    text = _text(value)
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{show(value)} is not HOST:PORT")
    return text


def is_loopback(listen: str) -> bool:
    """Whether only this machine reaches a `HOST:PORT`."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url(value: object) -> str:
    text = _text(value).rstrip("/")
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text):
        raise ValueError(f"{show(value)} is not an address like https://ci.example.org")
    return text


def _sources(value: object) -> str:
    text = _text(value)
    if "{project}" not in text:
        raise ValueError(f"{show(value)} has no {{project}} in it")
    # A URL of a transport that runs no command of its own (`ext::` does), or a path.
    if not re.fullmatch(r"(https?|ssh|git|file)://\S+|/\S+", text) or re.search(r"[{}]", text.replace("{project}", "")):
        raise ValueError(f"{show(value)} is not an http, https, ssh, git or file address, or an absolute path")
    return text


def _store(value: object) -> str:
    text = _text(value)
    if not re.match(r"(sqlite|postgresql)(\+\w+)?://", text):
        # Never shown: it may hold a password.
        raise ValueError("is not a sqlite:// or postgresql:// address")
    return text


def _variable(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", text):
        raise ValueError(f"{show(value)} is not the name of a variable")
    if text.startswith(PREFIX):
        raise ValueError(f"{show(value)}: names that begin with {PREFIX} are Paddock's own")
    return text


def _latency(value: object) -> timedelta:
    """`20ms`, or a duration of whole seconds; at most ten of them."""
    found = re.fullmatch(r"([0-9]{1,5})ms", value) if isinstance(value, str) else None
    try:
        latency = timedelta(milliseconds=int(found[1])) if found else parse_duration(value)
    except ValueError:
        raise ValueError(f"{show(value)} is not a latency like 20ms or 1s") from None
    if latency > timedelta(seconds=10):
        raise ValueError(f"{value} is more than 10s")
    return latency


def _loss(value: object) -> float:
    """`5%`, or a share like `0.05`."""
    text = value if isinstance(value, str) else str(value) if value in (0, 1) and not isinstance(value, bool) else ""
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)(%?)", text)
    share = float(found[1]) / (100 if found[2] else 1) if found else 2.0
    if share > 1:
        raise ValueError(f"{show(value)} is not a share like 5% or 0.05")
    return share


def parse_factor(value: object) -> float:
    """How many times of something: a whole number, or text like `1.5`; `ValueError` with the fact otherwise."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) or not 0.1 <= float(text) <= 100:
        raise ValueError(f"{show(value)} is not a number from 0.1 to 100, like 2 or 1.5")
    return float(text)


def _mac(value: object) -> str:
    text = _text(value).lower()
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text):
        raise ValueError(f"{show(value)} is not a MAC address like 52:54:00:12:34:56")
    if int(text[:2], 16) & 1 or text == "00:00:00:00:00:00":
        raise ValueError(f"{show(value)} is a group address: no card has it as its own")
    return text


def _subnet(value: object) -> str:
    text = _text(value)
    try:
        found = ipaddress.IPv4Network(text)
    except ValueError:
        raise ValueError(f"{show(value)} is not an IPv4 network like 192.168.80.0/24") from None
    if not 8 <= found.prefixlen <= 28:
        raise ValueError(f"{show(value)}: its prefix is not between /8 and /28")
    if found.is_loopback or found.is_multicast or found.is_link_local or found.is_unspecified or found.is_reserved:
        raise ValueError(f"{show(value)} is not a network for machines")
    return str(found)


def _egress(value: object) -> str:
    text = _text(value)
    try:
        Egress.read([text])
    except Refused as exc:
        raise ValueError(exc.message + (f" ({exc.hint})" if exc.hint else "")) from None
    return text


def _absolute(value: object) -> str:
    text = _text(value)
    if not text.startswith("/") or ".." in text.split("/") or not text.isprintable() or text.endswith("/"):
        raise ValueError(f"{show(value)} is not an absolute path of a file")
    return text


def _download(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"https?://[^\s/?#@]+/\S+", text):
        raise ValueError(f"{show(value)} is not an http or https address of a file")
    return text


_DURATION = {"type": ["string", "integer"], "pattern": "^[0-9]+[smhd]$"}

Text = Annotated[str, BeforeValidator(_text)]
HostKey = Annotated[str, BeforeValidator(_host_key), WithJsonSchema({"type": "string"})]
Name = Annotated[
    str,
    BeforeValidator(
        _matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "is not a name: letters, digits, `.`, `_`, `-`, at most 100")
    ),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"}),
]
MachineName = Annotated[
    str,
    BeforeValidator(
        _matching(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "is not a machine's name: a-z, 0-9 and `-` within, at most 63")
    ),
    WithJsonSchema({"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}),
]
Account = Annotated[str, BeforeValidator(_matching(r"\S{1,100}", "is not an account's name"))]
NameOrExpression = Annotated[str, BeforeValidator(_name_or_expression)]
Expression = Annotated[str, BeforeValidator(_expression), WithJsonSchema({"type": "string", "format": "regex"})]
Glob = Annotated[str, BeforeValidator(_glob)]
Limit = Annotated[timedelta, BeforeValidator(_between("1s", "7d")), WithJsonSchema(_DURATION)]
Heartbeat = Annotated[timedelta, BeforeValidator(_between("1s", "5m")), WithJsonSchema(_DURATION)]
HoldTime = Annotated[timedelta, BeforeValidator(_between("1s", "30d")), WithJsonSchema(_DURATION)]
Age = Annotated[timedelta, BeforeValidator(_between("1s", "3650d")), WithJsonSchema(_DURATION)]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)$"}),
]
Listen = Annotated[str, BeforeValidator(_listen)]
Url = Annotated[str, BeforeValidator(_url)]
Sources = Annotated[str, BeforeValidator(_sources)]
Store = Annotated[str, BeforeValidator(_store)]
VariableName = Annotated[str, BeforeValidator(_variable)]
VariableText = Annotated[str, BeforeValidator(_as_text), WithJsonSchema({"type": ["string", "integer", "boolean"]})]
OneOrMany = Annotated[
    list[MachineName],
    BeforeValidator(_one_or_many),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Port = Annotated[int, Field(ge=1, le=65535)]
Sha256 = Annotated[
    str,
    BeforeValidator(_matching(r"[0-9a-f]{64}", "is not a SHA-256: 64 digits of 0-9 and a-f")),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{64}$"}),
]
Download = Annotated[str, BeforeValidator(_download)]
Absolute = Annotated[str, BeforeValidator(_absolute)]
Latency = Annotated[
    timedelta, BeforeValidator(_latency), WithJsonSchema({"type": ["string", "integer"], "pattern": "^[0-9]+(ms|s)$"})
]
Loss = Annotated[float, BeforeValidator(_loss), WithJsonSchema({"type": ["string", "integer"]})]
Factor = Annotated[float, BeforeValidator(parse_factor), WithJsonSchema({"type": ["string", "integer"]})]
Mac = Annotated[str, BeforeValidator(_mac)]
Subnet = Annotated[str, BeforeValidator(_subnet)]
Door = Annotated[str, BeforeValidator(_egress)]
