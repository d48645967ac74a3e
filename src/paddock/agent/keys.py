"""The keys of agent.conf: what each means, what it is by default, what may stand there.

Effects: none.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from paddock.agent.ini import Name
from paddock.core.errors import Refused

CLOUDS = tuple(
    """Amazon Atmos ATT Azure Bluelock CloudCentral CloudSigma CloudStack CloudStack3 Eucalyptus GoGrid Google IBM
    Joyent OpenStack Rackspace ServerExpress Terremark VMware Other""".split()
)
DISKS = ("auto", "btrfs", "zfs", "reflink", "qcow2")
LEVELS = ("debug", "info", "warning", "error")
BASE = "/opt/paddock-agent"
PROXIES = ("http://", "https://", "socks4://", "socks4a://", "socks5://", "socks5h://")

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}\$?")
_SIZES = {"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SPANS = {"m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class Key:
    """`check` gives a value as it is written into the file, or refuses it with what is wrong. Empty is always right.

    A key with a `question` is asked for with --interactive.
    """

    section: str
    name: str
    doc: str
    check: Callable[[str], str]
    default: str = ""
    question: str = ""

    @property
    def id(self) -> Name:
        return self.section, self.name

    def checked(self, value: str) -> str:
        """The value as it is written. Refused, with the key's name, if it cannot be meant."""
        try:
            return self.check(value) if value else ""
        except Refused as exc:
            raise Refused(f"[{self.section}] {self.name}: {exc.message}", hint=exc.hint) from exc

    def writable(self, value: str) -> str:
        """The same for a value that is to be written: it stays one value there."""
        checked = self.checked(value)
        if not checked.isprintable():
            raise Refused(f"[{self.section}] {self.name}: {checked[:80]!r} holds characters that do not print")
        return checked


def one_of(*words: str) -> Callable[[str], str]:
    """One of these words, in any case."""

    def check(value: str) -> str:
        for word in words:
            if word.lower() == value.lower():
                return word
        raise Refused(f"{value} is none of {', '.join(words)}")

    return check


def truth(value: str) -> str:
    """Yes or no, as people write it."""
    word = value.lower()
    if word in ("yes", "true", "on", "1", "y"):
        return "yes"
    if word in ("no", "false", "off", "0", "n"):
        return "no"
    raise Refused(f"{value} is neither yes nor no")


def urls(value: str) -> str:
    """URLs that an agent can dial, each once, separated by spaces."""
    from paddock.hands import links

    found = dict.fromkeys(value.replace(",", " ").split())
    for url in found:
        links.check(url)
    return " ".join(found)


def line(value: str) -> str:
    """A line that is served instead of a server that is dialled."""
    kind, _, place = value.partition(":")
    if not kind or not place:
        raise Refused(f"{value} is no line", hint="unix:PATH or virtio:/dev/virtio-ports/org.paddock.0")
    return value


def pin(value: str) -> str:
    """A fingerprint as 64 hex digits, or a path that begins with a slash."""
    from paddock.hands import trust

    found = trust.fingerprint_of(value)
    if found:
        return found
    if not value.startswith("/"):
        raise Refused(f"{value[:80]} is no SHA-256 fingerprint, and no path from / on")
    return value


def proxy(value: str) -> str:
    """A proxy's URL, or `none`."""
    if value.lower() == "none":
        return "none"
    if not value.startswith(PROXIES):
        raise Refused("not a proxy's URL", hint=f"none, or one of {', '.join(PROXIES)}")
    return value


def http(value: str) -> str:
    """A URL of plain HTTP or HTTPS."""
    if not re.fullmatch(r"https?://[^\s/]+\S*", value):
        raise Refused(f"{value[:80]} is no http:// or https:// URL")
    return value


def path(value: str) -> str:
    """A path from / on."""
    if not value.startswith("/") or "\0" in value or any(letter.isspace() for letter in value):
        raise Refused(f"{value} is no path from / on without spaces")
    return value.rstrip("/") or "/"


def user(value: str) -> str:
    """A user's name."""
    if not _USER.fullmatch(value):
        raise Refused(f"{value} is no user's name")
    return value


def skills(value: str) -> str:
    """Names, each once, separated by commas. Whether there is such a skill is known where the agent runs."""
    names = dict.fromkeys(name for name in value.replace(",", " ").split())
    for name in names:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", name):
            raise Refused(f"{name} is no skill's name")
    return ", ".join(names)


def words(value: str) -> str:
    """Names, each once, separated by commas."""
    return ", ".join(dict.fromkeys(value.replace(",", " ").split()))


def size(value: str) -> str:
    """A size with its unit."""
    if not re.fullmatch(r"[1-9][0-9]{0,6}(MiB|GiB|TiB)", value):
        raise Refused(f"{value} is no size", hint="a number and MiB, GiB or TiB: 24GiB")
    return value


def octets(value: str) -> int:
    """How many bytes a size is."""
    return int(value[:-3]) * _SIZES[value[-3:]]


def count(value: str) -> str:
    """A number of things."""
    if not re.fullmatch(r"[1-9][0-9]{0,5}", value):
        raise Refused(f"{value} is no number of things")
    return value


def span(value: str) -> str:
    """A time with its unit."""
    if not re.fullmatch(r"[1-9][0-9]{0,4}[mhd]", value):
        raise Refused(f"{value} is no time", hint="a number and m, h or d: 90m, 12h, 2d")
    return value


def seconds(value: str) -> int:
    """How long a span is."""
    return int(value[:-1]) * _SPANS[value[-1]]


KEYS = (
    Key(
        section="connection",
        name="url",
        doc="Where the server is: wss://HOST/agent. Several, separated by spaces, are tried in turn.",
        check=urls,
        question="Where the server is",
    ),
    Key(
        section="connection",
        name="line",
        doc="Serve this line instead of dialling a url: virtio:/dev/virtio-ports/org.paddock.0 in a guest whose host\n"
        "speaks for it, unix:PATH for a machine that is a directory.",
        check=line,
    ),
    Key(
        section="connection",
        name="parked",
        doc="yes: this machine is nobody until its host says on the line who it is; for images and templates.",
        check=truth,
        default="no",
    ),
    Key(
        section="connection",
        name="pin",
        doc="SHA-256 fingerprint of the server's certificate, or a file of it: it alone is trusted then.",
        check=pin,
        question="Fingerprint of its certificate, if no authority that this machine trusts has signed it",
    ),
    Key(
        section="connection",
        name="ca-file",
        doc="Authorities that are trusted instead of the system's.",
        check=path,
        question="File of the authorities that are trusted instead of the system's",
    ),
    Key(
        section="connection",
        name="proxy",
        doc="The way out: an HTTP or SOCKS proxy's URL, or none. Empty: what https_proxy and no_proxy say.",
        check=proxy,
        question="HTTP or SOCKS proxy on the way there, or none",
    ),
    Key(
        section="connection",
        name="insecure",
        doc="yes lets code and token go to a ws:// server in clear.",
        check=truth,
        default="no",
    ),
    Key(
        section="cloud",
        name="type",
        doc="The cloud that this machine runs in, as the server is told. Empty: the agent finds out; none: it asks no\n"
        "metadata. Else one of\n"
        f"{', '.join(CLOUDS[:10])},\n{', '.join(CLOUDS[10:])}.",
        check=one_of(*CLOUDS, "none"),
        question=f"The cloud of this machine: {', '.join(CLOUDS)}, none; empty to find out",
    ),
    Key(
        section="cloud",
        name="metadata-url",
        doc="Where the cloud's metadata are served, if not at the clouds' usual address.",
        check=http,
    ),
    Key(
        section="system",
        name="user",
        doc="Who the agent runs as. Adding users, installing packages and mounting disks want root.",
        check=user,
        question="The user that the agent runs as",
    ),
    Key(
        section="storage",
        name="base",
        doc="The directory that holds all of the agent.",
        check=path,
        default=BASE,
    ),
    Key(
        section="storage",
        name="state",
        doc="Ledger, token and tasks, for the agent alone. Empty: state below the base. Two agents never share one.",
        check=path,
    ),
    Key(section="storage", name="work", doc="Where tasks start. Empty: work below the base.", check=path),
    Key(
        section="storage",
        name="retention",
        doc="How long commands are remembered after their results were acknowledged.",
        check=span,
        default="2d",
    ),
    Key(
        section="skills",
        name="enabled",
        doc="What the server may ask for, separated by commas. Empty: all that Paddock brings but hypervisor.\n"
        "`paddock agent methods` says what each does.",
        check=skills,
        question="What the server may ask for, separated by commas; empty for all",
    ),
    Key(
        section="hypervisor",
        name="storage",
        doc="The directory of images, templates and machines' disks, on the file system that clones them. Empty:\n"
        "hypervisor below the state.",
        check=path,
    ),
    Key(
        section="hypervisor",
        name="disks",
        doc=f"How disks are cloned: {', '.join(DISKS)}. auto takes what the storage's file system can.",
        check=one_of(*DISKS),
        default="auto",
    ),
    Key(
        section="hypervisor",
        name="networks",
        doc="rootless: switches of our own, without privileges; rooted: bridges in namespaces, with dnsmasq.",
        check=one_of("rootless", "rooted"),
        default="rootless",
    ),
    Key(
        section="hypervisor",
        name="bridges",
        doc="Bridges of this host that an environment may be joined to, separated by commas.",
        check=words,
    ),
    Key(
        section="hypervisor",
        name="accel",
        doc="auto tries KVM with a guest of its own and takes TCG where that does not run.",
        check=one_of("auto", "kvm", "tcg"),
        default="auto",
    ),
    Key(
        section="hypervisor",
        name="memory",
        doc="What machines may take of this host's memory: 24GiB. Empty: nine tenths of it.",
        check=size,
    ),
    Key(
        section="hypervisor",
        name="disk",
        doc="What machines may take of the storage: 500GiB. Empty: nine tenths of what is free there.",
        check=size,
    ),
    Key(
        section="hypervisor",
        name="vcpus",
        doc="How many virtual processors machines may have together. Empty: eight for each of this host's.",
        check=count,
    ),
    Key(
        section="hypervisor",
        name="metadata",
        doc="Tell guests about themselves over HTTP, as EC2 and OpenStack do. 169.254.169.254:80: those of private\n"
        "networks; an address and port of this host: those on its bridges, too. Empty: none.",
        check=line,
    ),
    Key(
        section="hypervisor",
        name="user-data",
        doc="A file that each machine is given as its user data: on its drive `cidata` when it boots, and over HTTP.",
        check=path,
    ),
    Key(
        section="hypervisor",
        name="authorized-keys",
        doc="A file of public keys that may log in to every machine of this host, beside those of its lease.",
        check=path,
    ),
    Key(
        section="logging",
        name="level",
        doc=f"How much is said: {', '.join(LEVELS)}. What configfile says of the logger paddock goes before it.",
        check=one_of(*LEVELS),
        default="info",
        question=f"How much is said: {', '.join(LEVELS)}",
    ),
    Key(
        section="logging",
        name="configfile",
        doc="Where lines go and how they look (YAML, Python's dictConfig). Empty: to standard error.",
        check=path,
    ),
    Key(
        section="service",
        name="on-boot",
        doc="Whether the service begins when the machine does.",
        check=truth,
        default="yes",
        question="Whether it begins when the machine does",
    ),
    Key(
        section="service",
        name="confined",
        doc="yes shuts the service out of the rest of the system: for an agent that runs scripts and moves files in\n"
        "its own directories, and never acts as root.",
        check=truth,
        default="no",
    ),
)
SECTIONS = {
    "connection": "How the server is reached, and how it is known to be the one.",
    "cloud": "Where this machine is.",
    "system": "What the agent is here.",
    "storage": "Where things are. Move them only while the agent is stopped.",
    "skills": "What the agent may be asked.",
    "hypervisor": "How virtual machines are made here, by the skill hypervisor.",
    "logging": "What the agent says of itself.",
    "service": "How systemd runs it. `paddock agent configure -r` on this file brings the unit up to date.",
}
"""What each section is about, in the order in which they stand in the file."""
