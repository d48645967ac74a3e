"""Takes secrets out of text where it enters the system: logs and messages of strangers."""

import re
from collections.abc import Mapping

MARK = "pdk_"
"""What every secret of Paddock's own begins with, so that it can be told from other text."""
LONGEST_SENTENCE = 500

_HIDDEN = "[redacted]"

_SECRETS = (
    re.compile(r"pdk_[A-Za-z0-9_-]{16,}"),
    # Inside of a JSON text the key's string ends with its quote, whatever else follows.
    re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^\"]*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|(?=\")|\Z)"),
)
_WORDS = (
    r"authorization|x-auth-token|set-cookie|cookie|password|passwd|passphrase|secret|token"
    r"|(?:api|access|private|secret)[-_]?key"
)
# No prefix before the words: `[a-z_]*token` would take quadratic time on text that somebody made for that.
_NAMED = re.compile(
    rf"(?i)({_WORDS})(\\?[\"']?\s{{0,20}}[:=]\s{{0,20}})"
    r"(?:(\")(?:[^\"\\]|\\.){4,}\"|(\\\")[^\"\\]{4,}\\\"|(')[^']{4,}'|(?:(?:bearer|basic)\s{1,20})?[^\s\"',;&]{4,})"
)
# `/etc/passwd: File exists`: a file that has such a name, and what is wrong with it. A passphrase is words, too.
_COMPLAINT = re.compile(r"[A-Z]?[a-z]+(?:[-/][a-z]+)* [a-z]+")
_LONGEST_PATH = 200
_NAME = re.compile(rf"(?i)(?:.*[^a-z])?(?:{_WORDS})")
_URL = re.compile(r"(://[^\s/:@]{0,200}:)[^\s/@]{1,2000}@")
_HINTS = ("authorization", "auth-token", "cookie", "passw", "passphrase", "secret", "token", "key")


def redact(text: str) -> str:
    """The text without what looks like a secret: our own tokens, private keys, named values, passwords in URLs."""
    for pattern in _SECRETS:
        text = pattern.sub(_HIDDEN, text)
    # Most text has none of the words, and looking for them is ten times cheaper than the pattern.
    lower = text.lower()
    if any(hint in lower for hint in _HINTS):
        text = _NAMED.sub(_hide, text)
    return _URL.sub(rf"\1{_HIDDEN}@", text)


def redacted(value: object) -> object:
    """The same for all text in a value of JSON; a field whose name says that it is a secret is hidden whole."""
    match value:
        case str():
            return redact(value)
        case Mapping():
            return {redact(str(name)): _field(str(name), inner) for name, inner in value.items()}
        case list() | tuple():
            return [redacted(inner) for inner in value]
        case _:
            return value


def sentence(text: str) -> str:
    """What a stranger said, as one line that can be shown anywhere: redacted, printable, cut after 500 characters."""
    text = redact(text[: 4 * LONGEST_SENTENCE])
    line = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return line if len(line) <= LONGEST_SENTENCE else line[: LONGEST_SENTENCE - 1] + "…"


def _field(name: str, value: object) -> object:
    return _HIDDEN if isinstance(value, str) and _NAME.fullmatch(name[-200:]) else redacted(value)


def _hide(found: re.Match[str]) -> str:
    if _is_complaint(found):
        return found[0]
    quote = found[3] or found[4] or found[5] or ""
    return f"{found[1]}{found[2]}{quote}{_HIDDEN}{quote}"


def _is_complaint(found: re.Match[str]) -> bool:
    """Whether what looks like a secret's name ends an absolute path, and its value begins a sentence."""
    has_space = " " in found.string[found.end(2) : found.end()]
    if found[2] != ": " or has_space or found[1].lower() == "passphrase":
        return False
    before = found.string[max(0, found.start() - _LONGEST_PATH) : found.start()]
    path = before.split()[-1].lstrip("\"'([") if before.split() and not before[-1].isspace() else ""
    is_path = path.startswith("/") and not any(mark in path for mark in ":=?&")
    return is_path and _COMPLAINT.match(found.string, found.end(2)) is not None
