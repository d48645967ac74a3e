"""paddock agent configure: tree, configuration and service, made or brought up to date.

Effects: idempotent; the same words again change nothing, and a run that is killed leaves the old configuration whole.
"""

import argparse
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.agent.commands.grammar import Commands, command, path, say, tell, warn
from paddock.agent.keys import BASE, CLOUDS, LEVELS
from paddock.agent.settings import WrongUse
from paddock.core.errors import PaddockError, Refused

if TYPE_CHECKING:
    from paddock.agent.conf import Conf
    from paddock.agent.identity import Identity
    from paddock.agent.ini import Name
    from paddock.agent.keys import Key
    from paddock.agent.setup.installing import Wanted

_OPTIONS = {
    "url": "connection.url",
    "line": "connection.line",
    "parked": "connection.parked",
    "pin": "connection.pin",
    "ca_file": "connection.ca-file",
    "proxy": "connection.proxy",
    "insecure": "connection.insecure",
    "cloud": "cloud.type",
    "metadata_url": "cloud.metadata-url",
    "user": "system.user",
    "skills": "skills.enabled",
    "log_level": "logging.level",
    "on_boot": "service.on-boot",
    "confined": "service.confined",
}
"""Which key an option gives a value."""


def add(commands: Commands) -> None:
    """Declare it."""
    one = command(
        commands,
        "configure",
        "install or reconfigure the agent of this machine",
        example="paddock agent configure --url wss://ci.example.org/agent --code-file - < code\n"
        "paddock agent configure -i\n"
        f"paddock agent configure -r {BASE}/etc/agent.conf --log-level debug",
    )
    one.add_argument("-i", "--interactive", action="store_true", help="ask for each value")
    one.add_argument("-r", "--reload-conf", metavar="FILE", help="its values are the defaults; all else in it is kept")
    one.add_argument("-p", "--base-path", metavar="DIR", help=f"the directory that holds all of it (default: {BASE})")
    one.add_argument("-u", "--url", action="append", help="the server: wss://HOST/agent; repeatable: tried in turn")
    one.add_argument("-c", "--cloud", help=f"where this machine runs: {', '.join(CLOUDS)}, in any case")
    one.add_argument("--metadata-url", metavar="URL", help="where its metadata are served, if not at the usual address")
    one.add_argument("--code-file", metavar="FILE|-", help="the enrolment code, in a file or on standard input")
    one.add_argument("--code", help="the same, for everybody on this machine to see while this runs")
    one.add_argument("-U", "--user", help="who it runs as (default: who installs it)")
    one.add_argument("--line", help="serve a line instead: virtio:/dev/virtio-ports/org.paddock.0")
    one.add_argument("--parked", metavar="yes|no", nargs="?", const="yes", help="be nobody until the host says who")
    one.add_argument("--pin", metavar="SHA256|FILE", help="fingerprint of the server's certificate, or a file of it")
    one.add_argument("-A", "--ca-file", metavar="FILE", help="authorities that are trusted instead of the system's")
    one.add_argument("--proxy", metavar="URL", help="an HTTP or SOCKS proxy, or none")
    one.add_argument("--insecure", metavar="yes|no", nargs="?", const="yes", help="let ws:// carry secrets in clear")
    one.add_argument("--skills", metavar="LIST", help="what the server may ask for, comma separated")
    one.add_argument("-L", "--log-level", metavar="LEVEL", help=f"how much it says: {', '.join(LEVELS)}")
    one.add_argument("-B", "--on-boot", metavar="yes|no", help="whether the service begins with the machine")
    one.add_argument("--confined", metavar="yes|no", help="shut the service out of the rest of the system")
    one.add_argument("--no-service", action="store_true", help="install no systemd unit")
    one.add_argument("--root", type=path, default=Path("/"), metavar="DIR", help="an image's file system, not this one")
    one.add_argument("--json", action="store_true", help="say what was done as one JSON object")
    one.set_defaults(act=_configure)


def _configure(chosen: argparse.Namespace) -> None:
    from paddock.agent.bundle import bundled
    from paddock.agent.conf import PATH
    from paddock.agent.setup import asking, installing, placing, unit

    for option in ("base_path", "reload_conf"):
        if getattr(chosen, option) == "":
            raise WrongUse(f"configure: --{option.replace('_', '-')} is empty: it names no file")
    code = _code(chosen)
    if chosen.interactive and chosen.base_path is None and chosen.reload_conf is None:
        chosen.base_path = asking.ask_base(BASE)
    conf = _changed(chosen, _start(chosen))
    if chosen.interactive:
        conf, code = _asked(chosen, conf, code)
    _check_whole(chosen, conf)
    wanted = installing.Wanted(
        conf=conf,
        root=chosen.root,
        has_service=not chosen.no_service and _is_admin() and installing.has_systemd(chosen.root),
        code=_if_needed(chosen.root, conf, code),
        program=bundled.program(),
    )
    things = list(installing.plan(wanted))
    done = [said for thing in things if (said := placing.place(thing))]
    if wanted.has_service and any(unit.NAME in said for said in done):
        _tell_systemd(chosen.root)
    config = conf.base / PATH
    unknown = conf.unknown()
    if chosen.json:
        return tell(
            {
                "config": str(config),
                "service": unit.NAME if wanted.has_service else None,
                "changed": done,
                "unknown": unknown,
            }
        )
    for line in unknown:
        warn(f"{config}: {line}", "it is kept, and nobody reads it")
    for line in done or [f"{config}: nothing changed"]:
        say(line)
    say(_next(chosen, wanted, code=code, is_new=bool(done)))


def _start(chosen: argparse.Namespace) -> "Conf":
    """The configuration that is there: the one that was named, or the one at the base; else a new one.

    What is at the base is never thrown away: somebody may have edited it.
    """
    from paddock.agent.conf import PATH, Conf
    from paddock.agent.setup import installing

    root: Path = chosen.root
    if chosen.reload_conf is not None:
        found = root / chosen.reload_conf.lstrip("/") if root != Path("/") else path(chosen.reload_conf)
        conf = Conf.load(found)
        base = chosen.base_path or conf["storage.base"]
    else:
        base = chosen.base_path or BASE
        there = root / _absolute(base).lstrip("/") / PATH
        conf = Conf.load(there) if there.is_file() else Conf.fresh()
    base = _absolute(base)
    is_new = not conf["system.user"]
    changes: dict[Name, str] = {("storage", "base"): base}
    # Emptied by an operator who wants standard error, it stays empty; it moves with the base.
    if is_new or conf["logging.configfile"] == f"{conf.base}/{installing.LOGGING_FILE}":
        changes["logging", "configfile"] = str(Path(base) / installing.LOGGING_FILE)
    if is_new:
        changes["system", "user"] = _who()
    return conf.put(changes)


def _absolute(base: str) -> str:
    return str(Path(os.path.abspath(base)))


def _who() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _is_admin() -> bool:
    return os.geteuid() == 0


def _changed(chosen: argparse.Namespace, conf: "Conf") -> "Conf":
    """With the values of the options, which go before what the file says."""
    changes: dict[Name, str] = {}
    for option, id in _OPTIONS.items():
        value = getattr(chosen, option)
        if value is None:
            continue
        section, _, name = id.partition(".")
        text = " ".join(value) if isinstance(value, list) else value
        # A relative file means one beside whoever types; the agent runs elsewhere.
        is_file = option in ("ca_file", "pin") and text and chosen.root == Path("/") and os.path.exists(text)
        changes[section, name] = str(path(text)) if is_file else text
    if changes.get(("connection", "url")):
        changes.setdefault(("connection", "line"), "")
    if changes.get(("connection", "line")):
        changes.setdefault(("connection", "url"), "")
    try:
        return conf.put(changes)
    except Refused as exc:
        raise WrongUse(f"configure: {exc.message}", hint=exc.hint) from exc


def _asked(chosen: argparse.Namespace, conf: "Conf", code: str) -> tuple["Conf", str]:
    from paddock.agent.setup import asking

    def check(key: "Key", value: str) -> None:
        _check_one(chosen.root, key.name, value)
        if key.name == "url" and not value and not conf["connection.line"]:
            raise Refused("it needs one", hint="wss://HOST/agent")

    answers = dict(asking.ask(conf, check))
    if any(_is_clear(url) for url in answers["connection", "url"].split()):
        answers["connection", "insecure"] = asking.confirm("Code and token would go there in clear. Is that wanted?")
    return conf.put(answers), code or asking.ask_code()


def _check_one(root: Path, name: str, value: str) -> None:
    """What can only be known on this machine."""
    from paddock.agent.setup import installing
    from paddock.hands import trust

    if name == "user" and value:
        installing.owner_of(value, root)
    if name in ("ca-file", "pin") and value.startswith("/"):
        trust.trusting(authorities=root / value.lstrip("/"))


def _check_whole(chosen: argparse.Namespace, conf: "Conf") -> None:
    """What one value says of another, before anything is touched."""
    from paddock.agent import skills
    from paddock.agent.settings import HOST_SKILLS
    from paddock.agent.setup import unit

    url, line = conf["connection.url"], conf["connection.line"]
    if not url and not line:
        raise WrongUse("configure: no server", hint="--url wss://HOST/agent, or -i to be asked")
    if conf.is_set("connection.parked") and not line:
        raise WrongUse("configure: parked, and no line", hint="--line virtio:/dev/virtio-ports/org.paddock.0")
    if url and line:
        raise WrongUse("configure: both a url and a line", hint="an agent dials, or it serves a line")
    clear = [one for one in url.split() if _is_clear(one)]
    if clear and not conf.is_set("connection.insecure"):
        raise WrongUse(f"configure: {clear[0]}: code and token would go there in clear", hint="wss://, or --insecure")
    for name, id in (("user", "system.user"), ("ca-file", "connection.ca-file"), ("pin", "connection.pin")):
        _check_one(chosen.root, name, conf[id])
    if not _is_admin() and conf["system.user"] != _who():
        raise Refused(f"configure: only root can install an agent that runs as {conf['system.user']}", hint="sudo")
    try:
        skills.known(conf.skills)
    except Refused as exc:
        raise WrongUse(f"configure: {exc.message}", hint=exc.hint) from exc
    asked = sorted(unit.WANTS_ROOT.intersection(conf.skills or HOST_SKILLS))
    if conf.is_set("service.confined") and asked:
        raise WrongUse(
            f"configure: confined, and {', '.join(asked)} acts on the whole machine",
            hint="--confined no, or --skills script,file,system",
        )


def _is_clear(url: str) -> bool:
    from paddock.hands import links

    return links.is_clear(url)


def _code(chosen: argparse.Namespace) -> str:
    from paddock.agent import enrolment

    if chosen.code_file is not None and chosen.code is not None:
        raise WrongUse("configure: both --code and --code-file", hint="--code-file is the one that nobody else sees")
    if chosen.interactive and chosen.code_file == "-":
        raise WrongUse(
            "configure: standard input has the answers", hint="--code-file FILE, or type the code when asked"
        )
    if chosen.code_file is not None:
        return enrolment.read(chosen.code_file)
    if chosen.code is not None:
        warn(
            "--code: everybody on this machine can read it in the list of processes", "--code-file FILE, or - for stdin"
        )
        return enrolment.check(chosen.code, source="--code")
    given = os.environ.get(enrolment.VARIABLE, "")
    return enrolment.check(given, source=enrolment.VARIABLE) if given else ""


def _if_needed(root: Path, conf: "Conf", code: str) -> str:
    """The code, unless the agent is enrolled: then it stays unused, and good for another machine.

    A copy of an enrolled machine's disk has the identity of that one, and needs its own.
    """
    return code if code and (_known(root, conf) is None or _is_copy(root, conf)) else ""


def _known(root: Path, conf: "Conf") -> "Identity | None":
    from paddock.agent import identity

    try:
        return identity.load(root / str(conf.state).lstrip("/"))
    except PaddockError:
        return None


def _is_copy(root: Path, conf: "Conf") -> bool:
    from paddock.agent import origin

    try:
        recorded = origin.load(root / str(conf.state).lstrip("/"))
    except PaddockError:
        return False  # the agent itself says what is wrong with it
    return recorded is not None and bool(origin.difference(recorded, origin.look(root)))


def _tell_systemd(root: Path) -> None:
    """Of an image nobody has to be told: its systemd reads everything when it boots."""
    if root != Path("/"):
        return
    try:
        subprocess.run(["systemctl", "daemon-reload"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as exc:
        warn(f"systemctl daemon-reload: {exc}", "do it by hand, then: systemctl restart paddock-agent")


def _next(chosen: argparse.Namespace, wanted: "Wanted", *, code: str, is_new: bool) -> str:
    """What remains to be done, by whom."""
    from paddock.agent.setup import unit

    said = []
    known = _known(wanted.root, wanted.conf)
    if known is not None and code and not wanted.code:
        said.append(f"it is enrolled already, as {known.agent}; the code was not used")
    elif known is None and not code and wanted.conf["connection.url"]:
        said.append("it has no enrolment code yet: paddock agent enrol --code-file FILE")
    if chosen.root != Path("/"):
        return "\n".join([*said, f"done below {chosen.root}"])
    name = unit.NAME.removesuffix(".service")
    if wanted.has_service:
        said.append(f"then: systemctl {'restart' if is_new else 'start'} {name}")
    else:
        said.append(f"then: {' '.join(wanted.command())}")
    return "\n".join(said)
