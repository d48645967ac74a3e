"""Methods of the skill `tunnel`."""

from paddock.core.access import Role
from paddock.wire.methods.table import DAY, GIB, PUT_LIMIT, TASK, Effect, Kind, Method, Param, Toward

METHODS = (
    Method(
        name="tunnel.open",
        caption="Connect to a port of the machine's own loopback; its output is what comes from there.",
        toward=Toward.AGENT,
        effect=Effect.ONCE,
        role=Role.PERSON,
        task=True,
        params=(
            Param(name="port", kind=Kind.INTEGER, required=True, least=1, most=65535, doc="the TCP port"),
            Param(
                name="host",
                kind=Kind.TEXT,
                pattern=r"127\.0\.0\.1|::1",
                default="127.0.0.1",
                doc="127.0.0.1 or ::1: nothing that lies beyond the machine",
            ),
            Param(
                name="patience",
                kind=Kind.NUMBER,
                unit="s",
                least=1,
                most=DAY,
                default=180,
                doc="ends it when no tunnel.put came for so long; an empty one counts",
            ),
            Param(
                name="output_limit",
                kind=Kind.INTEGER,
                unit="bytes",
                least=0,
                most=1024 * GIB,
                default=16 * GIB,
                doc="of what comes from there; more than this ends it",
            ),
        ),
        result="{received, sent}: bytes; it ends when the other side has sent its last",
    ),
    Method(
        name="tunnel.put",
        caption="Write bytes into an open tunnel: those that were written before are passed over.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        params=(
            TASK,
            Param(name="offset", kind=Kind.INTEGER, unit="bytes", required=True, doc="of data in all that is put"),
            Param(name="data", kind=Kind.BYTES, most=PUT_LIMIT, default="", doc="the bytes; none says: still there"),
            Param(name="last", kind=Kind.BOOLEAN, default=False, doc="nothing follows: the other side is told so"),
        ),
        result="{have}: bytes that were written by now; go on there. Fewer than were put: no room yet",
    ),
)
