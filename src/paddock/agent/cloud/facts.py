"""What is known of a machine from its cloud, and the enrolment code in what a user gave it.

Effects: none.
"""

import re
from dataclasses import dataclass, field

KEY = "paddock-enrolment-code"
"""As a tag, label, attribute or metadata key; in user data a line `paddock-enrolment-code: CODE`, commented or not."""

_IN_USER_DATA = re.compile(
    rf"^[ \t]*(?:[#;]+[ \t]*)?(?:export[ \t]+)?{KEY}[ \t]*[:=][ \t]*([\"']?)([!-~]{{1,512}}?)\1[ \t]*\r?$", re.MULTILINE
)
_LONGEST = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class CloudFacts:
    """`name` as people spell the cloud; `code` is the enrolment code that was given to this instance, if one was."""

    name: str = ""
    instance: str = ""
    addresses: tuple[str, ...] = ()
    code: str = field(default="", repr=False)


def code_in(user_data: str) -> str:
    """The enrolment code that stands in user data; empty if none does."""
    found = _IN_USER_DATA.search(user_data)
    return found.group(2) if found else ""


def word(value: object) -> str:
    """A value of somebody's metadata as a short printable word; empty for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = str(value).strip()
    return text if text.isprintable() and len(text) <= _LONGEST else ""


def words(*values: object) -> tuple[str, ...]:
    """Those of the values that are words, each once, in their order."""
    return tuple(dict.fromkeys(found for value in values if (found := word(value))))
