"""Takes secrets out of text where it enters the system."""

import re

MARK = "pdk_"
"""What every secret of Paddock's own begins with, so that it can be told from other text."""

_HIDDEN = "[redacted]"

_SECRETS = (
    re.compile(r"pdk_[A-Za-z0-9_-]{16,}"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
)
_NAMED = re.compile(
    r"(?i)\b(authorization|x-auth-token|set-cookie|cookie|password|passwd|secret|token|api[-_]?key)"
    r"(\"?\s*[:=]\s*\"?)(?:(?:bearer|basic)\s+)?([^\s\"',;&]{4,})"
)
_URL = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+@")


def redact(text: str) -> str:
    """The text without what looks like a secret: our own tokens, private keys, named values, passwords in URLs."""
    for pattern in _SECRETS:
        text = pattern.sub(_HIDDEN, text)
    text = _NAMED.sub(rf"\1\2{_HIDDEN}", text)
    return _URL.sub(rf"\1{_HIDDEN}@", text)
