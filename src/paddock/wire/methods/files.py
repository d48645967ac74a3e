"""Methods of the skill `file`."""

from paddock.core.access import Role
from paddock.wire.methods.table import GIB, MIB, PATH, PUT_LIMIT, Effect, Kind, Method, Param, Toward

_FURTHEST = 1 << 53
"""No file reaches so far, and every program can count it."""

METHODS = (
    Method(
        name="file.put",
        caption="Make a file hold these bytes, at once or piece by piece: never seen before it is whole.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.PERSON,
        params=(
            PATH,
            Param(name="data", kind=Kind.BYTES, required=True, most=PUT_LIMIT, doc="the bytes"),
            Param(
                name="mode", kind=Kind.INTEGER, least=0, most=0o7777, default=0o644, doc="as a number, not octal text"
            ),
            Param(
                name="offset",
                kind=Kind.INTEGER,
                unit="bytes",
                default=0,
                doc="without total: keep so much of the file that is there and put data after it; 0 replaces the file",
            ),
            Param(
                name="total",
                kind=Kind.INTEGER,
                unit="bytes",
                doc="of the whole file: data is its piece at offset, and it appears with the last one; needs sha256",
            ),
            Param(name="owner", kind=Kind.NAME, doc="user by name or number, for root only; as it comes if absent"),
            Param(name="group", kind=Kind.NAME, doc="group by name or number; as it comes if absent"),
            Param(
                name="sha256", kind=Kind.TEXT, pattern="[0-9a-f]{64}", doc="of the whole file afterwards, or refused"
            ),
        ),
        result="{size, sha256, have, complete}; a piece that is not the last: {have, complete}: go on at have",
    ),
    Method(
        name="file.get",
        caption="Read a piece of a file.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        params=(
            PATH,
            Param(name="offset", kind=Kind.INTEGER, unit="bytes", most=_FURTHEST, default=0, doc="where to begin"),
            Param(
                name="length",
                kind=Kind.INTEGER,
                unit="bytes",
                least=1,
                most=PUT_LIMIT,
                default=PUT_LIMIT,
                doc="at most so many",
            ),
        ),
        result="{data, sha256, size, version, mode, uid, gid}: pieces of one version fit together",
    ),
    Method(
        name="file.send",
        caption="Send a whole file as the output stream `file`, of any size, with its digest.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        task=True,
        params=(
            PATH,
            Param(
                name="size_limit", kind=Kind.INTEGER, unit="bytes", default=1024 * GIB, doc="a larger file is refused"
            ),
        ),
        result="{size, sha256, version, mode, uid, gid}; a file that changes while it is sent has another digest",
    ),
    Method(
        name="file.collect",
        caption="Send the files below a directory that match, each as an output stream named by its path.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        task=True,
        params=(
            Param(name="root", kind=Kind.PATH, required=True, doc="the directory; symbolic links are not followed"),
            Param(
                name="globs",
                kind=Kind.LIST,
                of=Kind.TEXT,
                required=True,
                least=1,
                most=1000,
                doc="patterns relative to root; `**` for any depth",
            ),
            Param(
                name="file_limit",
                kind=Kind.INTEGER,
                unit="bytes",
                default=100 * MIB,
                doc="a larger file is cut there and refused",
            ),
            Param(name="total_limit", kind=Kind.INTEGER, unit="bytes", default=GIB, doc="files after it are refused"),
            Param(
                name="names_limit", kind=Kind.INTEGER, most=100_000, default=10_000, doc="files after it are refused"
            ),
        ),
        result="{files: [{path, size}], refused: [{path, why}]}",
    ),
)
