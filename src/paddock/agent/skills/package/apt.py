"""How apt and dpkg are asked: Debian, Ubuntu and their kin."""

import shlex
from collections.abc import Mapping

from paddock.agent.skills.package.names import DEBIAN
from paddock.agent.skills.package.tool import Among, Step, Tool, Verb, Wish

_OPTIONS = (
    "-y",
    "-q",
    # A configuration file that somebody changed stays; a question that nobody answers would stop everything.
    *("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"),
    # Locks are waited for before; this covers who was quicker in between.
    *("-o", "DPkg::Lock::Timeout=30"),
    *("-o", "Dpkg::Use-Pty=0"),
    # `lib.*` is no package: without this it would be an expression for many.
    *("-o", "APT::Cmd::Pattern-Only=1"),
    # A list that could not be fetched is no warning: what follows would act on an old one.
    *("-o", "APT::Update::Error-Mode=any"),
)
_LOCKS = ("dpkg/lock-frontend", "dpkg/lock", "apt/lists/lock", "../cache/apt/archives/lock")
_FORMAT = r"${db:Status-Status}\t${Package}\t${Architecture}\t${Version}\n"


def _steps(wish: Wish) -> tuple[Step, ...]:
    acts: tuple[Step, ...]
    match wish.verb:
        case Verb.INSTALL:
            spelled = tuple(f"{one.name}={one.version}" for one in wish.versioned)
            acts = (
                *((Step(words=_words("install", "--allow-downgrades"), names=spelled),) if spelled else ()),
                *((Step(words=_words("install", "--no-upgrade"), names=wish.plain),) if wish.plain else ()),
            )
        case Verb.REMOVE:
            words = _words("purge" if wish.purge else "remove")
            acts = (Step(words=words, names=wish.plain, among=Among.PRESENT),)
        case Verb.UPGRADE if wish.wanted:
            acts = (Step(words=_words("install", "--only-upgrade"), names=wish.plain, among=Among.PRESENT),)
        case _:
            acts = (Step(words=_words("upgrade", "--with-new-pkgs")),)
    return (*((Step(words=_words("update")),) if wish.refresh else ()), *acts)


def _words(verb: str, *options: str) -> tuple[str, ...]:
    return ("apt-get", *_OPTIONS, *options, verb)


def _query(root: str) -> str:
    # Without a single package it prints nothing, and one that only left its configuration behind is not installed.
    return f"dpkg-query --admindir={shlex.quote(root + '/var/lib/dpkg')} -W -f={shlex.quote(_FORMAT)}"


def _listing(root: str) -> str:
    return f"{_query(root)} | sed -n -E 's/^(installed|triggers-awaited|triggers-pending)\\t//p'"


def _known(wish: Wish) -> str:
    if not wish.purge:
        return _listing(wish.root)
    return f"{_query(wish.root)} | sed -n -E '/^not-installed/!s/^[a-z-]+\\t//p'"


def _locked(root: str) -> str:
    return "held " + " ".join(shlex.quote(f"{root}/var/lib/{name}") for name in _LOCKS)


def _repair(root: str) -> str:
    """What a run of dpkg left half-done when it was ended is done to its end: apt would refuse to begin before."""
    dpkg = f"dpkg --root={shlex.quote(root or '/')} --force-confdef --force-confold --configure -a"
    return f'[ -z "$(ls -A {shlex.quote(root + "/var/lib/dpkg/updates")} 2>/dev/null)" ] || {dpkg}'


def _files(wish: Wish) -> Mapping[str, str]:
    """Another system's own configuration, and none of the running one's."""
    if not wish.root:
        return {}
    quoted = wish.root.replace("\\", "\\\\").replace('"', '\\"')
    return {"APT_CONFIG": f'Dir "{quoted}/";\nDPkg::Options {{ "--root={quoted}"; }};\n'}


APT = Tool(
    name="apt",
    program="apt-get",
    families=frozenset({"debian", "ubuntu"}),
    grammar=DEBIAN,
    joint=":",
    steps=_steps,
    listing=_listing,
    known=_known,
    locked=_locked,
    repair=_repair,
    files=_files,
    env={
        "DEBIAN_FRONTEND": "noninteractive",
        "DEBIAN_PRIORITY": "critical",
        "APT_LISTCHANGES_FRONTEND": "none",
        # Services are restarted by whoever asked for the packages, not under somebody else's tasks.
        "NEEDRESTART_SUSPEND": "1",
    },
)
