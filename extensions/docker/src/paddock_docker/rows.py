"""Methods of the skill `docker`: the rows that it adds to the table."""

from paddock.core.access import Role
from paddock.wire.methods import Effect, Kind, Method, Param, Toward

DAY = 86400
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]{1,5})?/|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?/)?"
_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
_TAG = r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
REFERENCE = f"{_HOST}{_PATH}{_TAG}"
IMAGE = f"{REFERENCE}(?:@sha256:[0-9a-f]{{64}})?|sha256:[0-9a-f]{{64}}"
CAPABILITY = "[A-Z_]{2,40}"

_CONTAINER = Param(
    name="container", kind=Kind.TEXT, required=True, pattern=NAME, doc="its name, its id, or the beginning of that"
)


def _flag(name: str, doc: str) -> Param:
    return Param(name=name, kind=Kind.BOOLEAN, default=False, doc=doc)


def _texts(name: str, doc: str, *, most: int) -> Param:
    return Param(name=name, kind=Kind.LIST, of=Kind.TEXT, most=most, doc=doc)


def _row(name: str, caption: str, effect: Effect, *params: Param, result: str, task: bool = False) -> Method:
    return Method(
        name=f"docker.{name}",
        caption=caption,
        toward=Toward.AGENT,
        effect=effect,
        role=Role.PERSON,
        params=params,
        result=result,
        task=task,
    )


_CREATE = (
    Param(name="name", kind=Kind.TEXT, required=True, pattern=NAME, doc="what it is called from then on"),
    Param(name="image", kind=Kind.TEXT, required=True, pattern=IMAGE, doc="an image that is here already"),
    _texts("command", "a command and its arguments; the image's own if absent", most=1000),
    _texts("entrypoint", "what the command is given to, instead of the image's own", most=100),
    Param(name="env", kind=Kind.MAP, of=Kind.TEXT, most=1000, pattern="[A-Za-z_][A-Za-z0-9_.-]*", doc="its variables"),
    Param(name="hostname", kind=Kind.TEXT, pattern="[A-Za-z0-9][A-Za-z0-9.-]{0,62}", doc="its host name"),
    Param(
        name="user", kind=Kind.TEXT, pattern="[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_.-]+)?", doc="user or user:group"
    ),
    Param(name="directory", kind=Kind.TEXT, pattern="/.*", most=4096, doc="where its command starts"),
    Param(name="memory", kind=Kind.INTEGER, unit="bytes", least=6 << 20, doc="more is not to be had"),
    Param(name="cpus", kind=Kind.NUMBER, unit="processors", least=0.01, most=4096, doc="more is not to be had"),
    Param(name="pids", kind=Kind.INTEGER, least=1, doc="more processes are not to be had"),
    Param(
        name="ports",
        kind=Kind.MAP,
        of=Kind.TEXT,
        most=1000,
        pattern="[0-9]{1,5}(/(tcp|udp|sctp))?",
        doc="each of its ports, and where it is on this machine: `8080`, `127.0.0.1:8080`, or empty for any",
    ),
    Param(
        name="volumes",
        kind=Kind.MAP,
        of=Kind.TEXT,
        most=100,
        pattern="/.*",
        doc="each place in it, and what is there: a directory of this machine or a volume's name; `:ro` to read only",
    ),
    Param(name="network", kind=Kind.TEXT, pattern=f"{NAME}|container:{NAME}", doc="none, host, bridge, or one by name"),
    Param(
        name="restart",
        kind=Kind.TEXT,
        pattern="no|always|unless-stopped|on-failure(:[0-9]{1,5})?",
        default="no",
        doc="when the Engine starts it again",
    ),
    _flag("privileged", "with all rights of this machine"),
    Param(name="cap_add", kind=Kind.LIST, of=Kind.NAME, most=100, doc="capabilities it gets beside the usual ones"),
    Param(name="cap_drop", kind=Kind.LIST, of=Kind.NAME, most=100, doc="capabilities it does not get; or `ALL`"),
    _flag("tty", "with a terminal"),
    _flag("read_only", "without writing to its own root"),
    Param(
        name="labels", kind=Kind.MAP, of=Kind.TEXT, most=100, pattern="[A-Za-z0-9][A-Za-z0-9_./-]*", doc="for people"
    ),
)
METHODS = (
    _row(
        "info",
        "Tell what the Engine is and has.",
        Effect.READ,
        result="{version, api, os, kernel, driver, root, memory, cpus, containers, running, images, warnings[]}",
    ),
    _row(
        "list",
        "Tell which containers or images there are, a page at a time.",
        Effect.READ,
        Param(name="of", kind=Kind.TEXT, pattern="containers|images", default="containers", doc="containers or images"),
        _flag("all", "containers that do not run, and images that have no name, too"),
        Param(name="cursor", kind=Kind.TEXT, most=200, doc="where the page before ended, as its answer said"),
        Param(name="most", kind=Kind.INTEGER, least=1, most=5000, default=1000, doc="so many on a page at most"),
        result="{containers[] or images[], cursor}: by id, cursor while there are more",
    ),
    _row(
        "pull",
        "Make an image be here as its registry has it.",
        Effect.ENSURE,
        Param(
            name="image",
            kind=Kind.TEXT,
            required=True,
            pattern=f"{REFERENCE}(@sha256:[0-9a-f]{{64}})?",
            doc="its name; without a tag `latest`",
        ),
        result="{id, changed}",
        task=True,
    ),
    _row(
        "import",
        "Make an image of the files of a tar, and call it so.",
        Effect.ENSURE,
        Param(name="path", kind=Kind.PATH, required=True, doc="the tar, on this machine; it may be compressed"),
        Param(name="image", kind=Kind.TEXT, required=True, pattern=REFERENCE, doc="its name; without a tag `latest`"),
        _texts("changes", 'instructions of a Dockerfile, as `CMD ["/bin/sh"]`', most=100),
        result="{id, changed}: not changed if the name already is an image of this tar with these changes",
        task=True,
    ),
    _row(
        "create",
        "Make a container be there, not started. One of that name that was created otherwise is refused.",
        Effect.ENSURE,
        *_CREATE,
        result="{id, changed, warnings[]}",
    ),
    _row(
        "start",
        # One that ran and ended would run again: this is not repeated by us.
        "Start a container; one that runs is left alone.",
        Effect.ONCE,
        _CONTAINER,
        result="{changed}",
    ),
    _row(
        "stop",
        "Make a container not run: its stop signal, then KILL.",
        Effect.ENSURE,
        _CONTAINER,
        Param(name="grace", kind=Kind.NUMBER, unit="s", least=0, most=3600, default=10, doc="between the two"),
        result="{changed, exit}",
        task=True,
    ),
    _row(
        "kill",
        "Send a signal to a container's first process.",
        Effect.ONCE,
        _CONTAINER,
        Param(name="signal", kind=Kind.TEXT, pattern="(SIG)?[A-Z0-9+-]{2,12}|[0-9]{1,2}", default="KILL", doc="which"),
        result="{}",
    ),
    _row(
        "logs",
        "Send what a container prints as this task's output.",
        Effect.READ,
        _CONTAINER,
        Param(
            name="follow",
            kind=Kind.NUMBER,
            unit="s",
            least=0,
            most=30 * DAY,
            default=0,
            doc="go on so long while it runs; 0 sends what is there",
        ),
        Param(
            name="cursor",
            kind=Kind.TEXT,
            pattern="[0-9]{1,12}[.][0-9]{9}:[0-9]{1,15}",
            doc="go on where another call ended, as its result said, with the same streams",
        ),
        Param(name="since", kind=Kind.MOMENT, doc="nothing that is older; a cursor overrules it"),
        Param(
            name="streams", kind=Kind.TEXT, pattern="both|out|err", default="both", doc="both in their order, or one"
        ),
        _flag("timestamps", "each message with the moment at which the Engine took it"),
        Param(
            name="most",
            kind=Kind.INTEGER,
            unit="bytes",
            least=1,
            default=1 << 30,
            doc="ends with the message that reaches it; the cursor goes on",
        ),
        result="{cursor, bytes, more}: more if it ended by `most` or `follow`, not with the container's own end",
        task=True,
    ),
    _row(
        "remove",
        "Make a container not be there.",
        Effect.ENSURE,
        _CONTAINER,
        _flag("force", "even if it runs"),
        _flag("volumes", "and the volumes without a name that only it has"),
        result="{changed}",
    ),
    _row(
        "remove_image",
        "Make an image not be here, or not under this name.",
        Effect.ENSURE,
        Param(name="image", kind=Kind.TEXT, required=True, pattern=IMAGE, doc="its name or id"),
        _flag("force", "even if it has other names or a stopped container has it"),
        result="{changed, removed[]}: what was untagged and deleted",
    ),
)
