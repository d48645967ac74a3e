"""Methods of the skill `log`."""

from paddock.core.access import Role
from paddock.wire.methods.table import DAY, GIB, KIB, MIB, Effect, Kind, Method, Param, Toward

METHODS = (
    Method(
        name="log.tail",
        caption="Follow a file or a unit's journal as output, through rotation and truncation, until it is cancelled.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        task=True,
        params=(
            Param(name="path", kind=Kind.PATH, doc="the file, as for file.get"),
            Param(
                name="unit",
                kind=Kind.TEXT,
                pattern="[A-Za-z0-9@][A-Za-z0-9:_.@\\\\-]{0,254}",
                doc="a systemd unit, out of its journal",
            ),
            Param(name="lines", kind=Kind.INTEGER, most=100_000, default=10, doc="begin so many lines before the end"),
            Param(name="offset", kind=Kind.INTEGER, unit="bytes", doc="begin at this byte of the file instead"),
            Param(name="cursor", kind=Kind.TEXT, most=KIB, doc="go on where the result of an earlier one has ended"),
            Param(name="follow", kind=Kind.BOOLEAN, default=True, doc="else it ends where the log does"),
            Param(name="seconds", kind=Kind.NUMBER, unit="s", least=0.1, most=30 * DAY, doc="ends it, as a success"),
            Param(
                name="rate", kind=Kind.INTEGER, unit="bytes/s", least=KIB, most=GIB, default=MIB, doc="at most so fast"
            ),
            Param(
                name="output_limit",
                kind=Kind.INTEGER,
                unit="bytes",
                least=1,
                most=16 * GIB,
                default=64 * MIB,
                doc="ends it, as a success: go on with the cursor",
            ),
        ),
        one_of=("path", "unit"),
        result="{cursor, ended: cancelled, time, limit or end, bytes}; of a file {rotations, truncations, gap} too",
    ),
)
