"""How dnf and zypper are asked: Fedora, RHEL and their kin, SUSE."""

import shlex

from paddock.agent.skills.package.names import RPM
from paddock.agent.skills.package.tool import Among, Step, Tool, Verb, Wish

_FORMAT = r"%{NAME}\t%{ARCH}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n"


def _listing(root: str) -> str:
    return f"rpm --root={shlex.quote(root or '/')} -qa --qf {shlex.quote(_FORMAT)}"


def _dnf_steps(wish: Wish) -> tuple[Step, ...]:
    def words(verb: str, *options: str) -> tuple[str, ...]:
        # By itself it would wait for its lock for ever; best=0: what is installed satisfies whoever asks for any.
        fixed = ("dnf", "-y", "--setopt=exit_on_lock=1", "--setopt=clean_requirements_on_remove=0")
        return (*fixed, *((f"--installroot={wish.root}",) if wish.root else ()), *options, verb)

    acts: tuple[Step, ...]
    match wish.verb:
        case Verb.INSTALL:
            spelled = tuple(f"{one.name}-{one.version}" for one in wish.versioned)
            acts = (
                *((Step(words=words("install"), names=spelled),) if spelled else ()),
                *((Step(words=words("install"), names=wish.plain, among=Among.ABSENT),) if wish.plain else ()),
            )
        case Verb.REMOVE:
            acts = (Step(words=words("remove"), names=wish.plain, among=Among.PRESENT),)
        case Verb.UPGRADE if wish.wanted:
            acts = (Step(words=words("upgrade"), names=wish.plain, among=Among.PRESENT),)
        case _:
            acts = (Step(words=words("upgrade")),)
    return (*((Step(words=words("makecache", "--refresh")),) if wish.refresh else ()), *acts)


def _zypper_steps(wish: Wish) -> tuple[Step, ...]:
    def words(verb: str, *options: str) -> tuple[str, ...]:
        return ("zypper", "--non-interactive", *((f"--root={wish.root}",) if wish.root else ()), verb, *options)

    agreed = "--auto-agree-with-licenses"
    acts: tuple[Step, ...]
    match wish.verb:
        case Verb.INSTALL:
            spelled = tuple(f"{one.name}={one.version}" for one in wish.versioned)
            acts = (
                *((Step(words=words("install", agreed, "--oldpackage"), names=spelled),) if spelled else ()),
                *((Step(words=words("install", agreed), names=wish.plain, among=Among.ABSENT),) if wish.plain else ()),
            )
        case Verb.REMOVE:
            acts = (Step(words=words("remove"), names=wish.plain, among=Among.PRESENT),)
        case Verb.UPGRADE if wish.wanted:
            acts = (Step(words=words("update", agreed), names=wish.plain, among=Among.PRESENT),)
        case _:
            acts = (Step(words=words("update", agreed)),)
    return (*((Step(words=words("refresh")),) if wish.refresh else ()), *acts)


DNF = Tool(
    name="dnf",
    program="dnf",
    families=frozenset({"fedora", "rhel", "centos"}),
    grammar=RPM,
    joint=".",
    steps=_dnf_steps,
    listing=_listing,
    # Its documented code for a lock that it did not get.
    locked=lambda root: '[ "$1" -eq 200 ]',
    pause=2,
)
ZYPPER = Tool(
    name="zypper",
    program="zypper",
    families=frozenset({"suse", "opensuse", "sles", "sled"}),
    grammar=RPM,
    joint=".",
    steps=_zypper_steps,
    listing=_listing,
    # ZYPPER_EXIT_ZYPP_LOCKED
    locked=lambda root: '[ "$1" -eq 7 ]',
    # Done, and a reboot, or a restart of the manager itself, is recommended.
    done="case $1 in 0 | 102 | 103) ;; *) false ;; esac",
    pause=2,
)
