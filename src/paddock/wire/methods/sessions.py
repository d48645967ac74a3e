"""Methods of the session itself: hello, enrolment, tokens, statuses, output, logs, alerts."""

from paddock.core.access import Role
from paddock.wire.methods.table import KIB, MACHINE, TASK, Effect, Kind, Method, Param, Toward

_AGENT = Param(name="agent", kind=Kind.NAME, doc="the agent's name; absent from a relayed agent")
_SECRET = Param(name="token", kind=Kind.NAME, doc="the agent's token; absent from a relayed agent")
_MESSAGE = Param(name="msg", kind=Kind.TEXT, required=True, most=64 * KIB, doc="for a person")
_TIME = Param(name="time", kind=Kind.MOMENT, required=True, doc="when, by the agent's clock")
_DETAILS = Param(name="fields", kind=Kind.OBJECT, doc="more about it")
_FACTS = Param(name="facts", kind=Kind.OBJECT, required=True, doc="{hostname, cloud, instance, arch, os, addresses[]}")

METHODS = (
    Method(
        name="ping",
        caption="The params come back: the other side is alive.",
        toward=Toward.BOTH,
        effect=Effect.READ,
        role=Role.AGENT,
        result="the params",
    ),
    Method(
        name="hello",
        caption="An agent begins a session.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.ANYONE,
        params=(
            _AGENT,
            _SECRET,
            Param(name="software", kind=Kind.NAME, required=True, doc="name and version of the agent"),
            Param(name="boot_id", kind=Kind.NAME, required=True, doc="new after each boot of its machine"),
            Param(name="ledger", kind=Kind.NAME, required=True, doc="names its journal"),
            Param(name="skills", kind=Kind.LIST, of=Kind.NAME, most=1000, doc="what it can do"),
            Param(name="methods", kind=Kind.LIST, of=Kind.NAME, most=1000, doc="every method that it carries out"),
            _FACTS,
            Param(name="fences", kind=Kind.MAP, of=Kind.INTEGER, doc="highest fence seen per environment"),
            Param(name="epoch", kind=Kind.INTEGER, doc="highest epoch seen"),
            Param(name="seq", kind=Kind.INTEGER, doc="highest seq seen"),
            Param(name="tasks", kind=Kind.LIST, of=Kind.OBJECT, doc="{task_id, state} of every task not forgotten"),
        ),
        result="{session, heartbeat, epoch, server_time, fences, forget[], deliver[{task_id, stream, offset}]}",
    ),
    Method(
        name="enrol",
        caption="A new agent gets its identity for a code that a person gave it.",
        toward=Toward.SERVER,
        effect=Effect.ONCE,
        role=Role.ANYONE,
        params=(Param(name="code", kind=Kind.NAME, required=True, doc="the enrolment code"), _FACTS),
        result="{agent, token}",
    ),
    Method(
        name="token",
        caption="An agent changes its token; both are valid until the new one has said hello.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.AGENT,
        params=(Param(name="new", kind=Kind.NAME, required=True, least=20, doc="the new token"),),
    ),
    Method(
        name="relay",
        caption="A host's agent vouches for the machine that speaks on this connection from now on.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.ANYONE,
        params=(
            Param(name="agent", kind=Kind.NAME, required=True, doc="the host's agent"),
            Param(name="token", kind=Kind.NAME, required=True, doc="its token"),
            MACHINE,
        ),
        fenced=True,
    ),
    Method(
        name="alert",
        caption="Something a person should know; repeated until it is answered, and until a person acknowledged it.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.AGENT,
        params=(
            Param(
                name="id",
                kind=Kind.NAME,
                required=True,
                most=100,
                doc="names the condition, chosen by the agent: the same id again is the same alert, told once more",
            ),
            Param(name="subject", kind=Kind.TEXT, most=200, default="", doc="what it is about: a disk, a service"),
            Param(name="level", kind=Kind.TEXT, pattern="warning|error", default="warning", doc="warning or error"),
            Param(
                name="state",
                kind=Kind.TEXT,
                pattern="raised|over",
                default="raised",
                doc="raised while the condition lasts, over once it does not",
            ),
            _MESSAGE,
            _TIME,
            _DETAILS,
        ),
        result="{acknowledged, repeat_after}: whether a person did, or s until it is told again; null: not again",
    ),
    Method(
        name="log",
        caption="Lines of the agent's own log; limited in rate, in order, spooled on its disk while offline.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.AGENT,
        params=(
            Param(
                name="level",
                kind=Kind.TEXT,
                required=True,
                pattern="debug|info|warning|error",
                doc="debug, info, warning or error",
            ),
            _MESSAGE,
            _TIME,
            _DETAILS,
            Param(
                name="more",
                kind=Kind.LIST,
                of=Kind.OBJECT,
                most=1000,
                doc="lines that follow this one: {level, msg, time, fields} each, as here",
            ),
        ),
    ),
    Method(
        name="task_status",
        caption="How a task is; the last one is repeated until it is answered.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.AGENT,
        params=(
            TASK,
            Param(
                name="state",
                kind=Kind.TEXT,
                required=True,
                pattern="running|complete|error",
                doc="running, complete or error",
            ),
            Param(name="percent", kind=Kind.NUMBER, unit="%", least=0, most=100, doc="how much is done"),
            Param(name="eta", kind=Kind.NUMBER, unit="s", least=0, doc="until it is done"),
            Param(name="code", kind=Kind.TEXT, doc="of an error: why, a code of a failed command"),
            Param(name="msg", kind=Kind.TEXT, doc="for a person"),
            Param(name="result", kind=Kind.OBJECT, doc="of a complete task: the method's result"),
            Param(name="outputs", kind=Kind.MAP, of=Kind.INTEGER, unit="bytes", doc="final length of each stream"),
        ),
    ),
    Method(
        name="output",
        caption="A piece of a task's output; everything else overtakes it.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.AGENT,
        params=(
            TASK,
            Param(
                name="stream",
                kind=Kind.PATH,
                required=True,
                doc="out, file (of file.send), or the path of a collected file",
            ),
            Param(name="offset", kind=Kind.INTEGER, unit="bytes", required=True, doc="where data begins in the stream"),
            Param(name="data", kind=Kind.BYTES, required=True, most=64 * KIB, doc="the piece"),
            Param(name="times", kind=Kind.LIST, of=Kind.ANY, doc="[offset, moment]: when it was written"),
        ),
        result="{offset}: everything below it is safe on the server",
    ),
)
