"""How apk is asked: Alpine."""

import shlex

from paddock.agent.skills.package.names import ALPINE
from paddock.agent.skills.package.tool import Among, Step, Tool, Verb, Wish

_PLACES = ("lib/apk/db", "usr/lib/apk/db")
"""Where the database is; the second since version 3."""
_READER = """
/^P:/ { name = substr($0, 3) }
/^V:/ { version = substr($0, 3) }
/^A:/ { arch = substr($0, 3) }
/^$/ { tell() }
END { tell() }
function tell() { if (name != "") print name "\\t" arch "\\t" version; name = "" }
"""


def _steps(wish: Wish) -> tuple[Step, ...]:
    def words(verb: str, *options: str) -> tuple[str, ...]:
        return ("apk", *(("--root", wish.root) if wish.root else ()), verb, *options)

    acts: tuple[Step, ...]
    match wish.verb:
        case Verb.INSTALL:
            names = (*(f"{one.name}={one.version}" for one in wish.versioned), *wish.plain)
            acts = (Step(words=words("add"), names=names),)
        case Verb.REMOVE:
            options = ("--purge",) if wish.purge else ()
            acts = (Step(words=words("del", *options), names=wish.plain, among=Among.PRESENT),)
        case Verb.UPGRADE if wish.wanted:
            acts = (Step(words=words("upgrade"), names=wish.plain, among=Among.PRESENT),)
        case _:
            acts = (Step(words=words("upgrade")),)
    return (*((Step(words=words("update")),) if wish.refresh else ()), *acts)


def _listing(root: str) -> str:
    files = " ".join(shlex.quote(f"{root}/{place}/installed") for place in _PLACES)
    return f'for file in {files}; do [ ! -f "$file" ] || awk {shlex.quote(_READER)} "$file"; done'


def _locked(root: str) -> str:
    return "held " + " ".join(shlex.quote(f"{root}/{place}/lock") for place in _PLACES)


APK = Tool(
    name="apk",
    program="apk",
    families=frozenset({"alpine"}),
    grammar=ALPINE,
    joint=":",
    steps=_steps,
    listing=_listing,
    locked=_locked,
)
