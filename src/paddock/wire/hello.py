"""The fields of hello, welcome, enrol, relay, status and output, read strictly."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from paddock.core.host import Stored
from paddock.core.machine import Size
from paddock.wire import fields
from paddock.wire.fields import BadParams, Fields
from paddock.wire.framing import JSON
from paddock.wire.messages import Code, code_of

__all__ = [
    "LOG_STREAM",
    "Alert",
    "BadParams",
    "Deliver",
    "Enrol",
    "Facts",
    "Heard",
    "Hello",
    "Output",
    "Relay",
    "Status",
    "TaskReport",
    "TaskState",
    "Welcome",
]

OUTPUT_LIMIT = 64 << 10
"""Bytes of data in one output message."""
LOG_STREAM = "out"
"""The stream of a program: what it wrote to standard output and standard error, in their true order."""
UNACKNOWLEDGED_LIMIT = 1 << 20
"""Bytes of output that an agent sends of one task ahead of the server's acknowledgement."""


class TaskState(StrEnum):
    """How far a task is: what its agent says of it."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    COMPLETE = "complete"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What an agent says of the machine it runs on. Evidence, not truth."""

    hostname: str
    cloud: str = ""
    instance: str = ""
    arch: str = ""
    os: str = ""
    addresses: tuple[str, ...] = ()
    capacity: Size | None = None
    """What machines may have of a host in all; only an agent that makes them from images says so."""
    stored: Stored | None = None
    """What its images and templates take, said by the same."""

    def params(self) -> dict[str, JSON]:
        """For the wire."""
        told: dict[str, JSON] = {
            "hostname": self.hostname,
            "cloud": self.cloud,
            "instance": self.instance,
            "arch": self.arch,
            "os": self.os,
            "addresses": list(self.addresses),
        }
        if self.capacity is not None:
            has = self.capacity
            told["capacity"] = {"memory": has.memory, "vcpus": has.vcpus, "disk": has.disk}
        if self.stored is not None:
            told["stored"] = stored_params(self.stored)
        return told

    @classmethod
    def read(cls, value: JSON, path: str) -> Self:
        """From the wire."""
        found = Fields(value, path)
        return cls(
            hostname=found.need("hostname", fields.name),
            cloud=found.maybe("cloud", _word, ""),
            instance=found.maybe("instance", _word, ""),
            arch=found.maybe("arch", _word, ""),
            os=found.maybe("os", _word, ""),
            addresses=found.each("addresses", fields.name),
            capacity=found.maybe("capacity", _size, None),
            stored=found.maybe("stored", read_stored, None),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskReport:
    """One task in hello."""

    task_id: str
    state: TaskState

    def params(self) -> dict[str, JSON]:
        """For the wire."""
        return {"task_id": self.task_id, "state": str(self.state)}

    @classmethod
    def read(cls, value: JSON, path: str) -> Self:
        """From the wire."""
        found = Fields(value, path)
        return cls(task_id=found.need("task_id", fields.name), state=found.need("state", _state))


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """An agent's first words. A guest's, relayed by its host, has no agent and no token.

    `fences` are the highest seen per environment; `epoch` and `seq` the highest seen; `ledger` names the journal.
    `methods` is all that it carries out: those of skills that the server has no table for are in it too.
    """

    agent: str | None = None
    token: str | None = field(default=None, repr=False)
    software: str
    boot_id: str
    ledger: str
    skills: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    facts: Facts
    fences: Mapping[str, int] = field(default_factory=dict)
    epoch: int = 0
    seq: int = 0
    tasks: tuple[TaskReport, ...] = ()

    def params(self) -> dict[str, JSON]:
        """For the wire."""
        return _without_nones(
            agent=self.agent,
            token=self.token,
            software=self.software,
            boot_id=self.boot_id,
            ledger=self.ledger,
            skills=list(self.skills),
            methods=list(self.methods),
            facts=self.facts.params(),
            fences=dict(self.fences),
            epoch=self.epoch,
            seq=self.seq,
            tasks=[task.params() for task in self.tasks],
        )

    @classmethod
    def from_params(cls, params: Mapping[str, JSON]) -> Self:
        """From the wire. Raises BadParams, also for an agent without token or a token without agent."""
        found = Fields(params)
        agent = found.maybe("agent", fields.name, None)
        token = found.maybe("token", fields.name, None)
        if (agent is None) != (token is None):
            raise BadParams("params.token" if token is None else "params.agent", "is missing")
        return cls(
            agent=agent,
            token=token,
            software=found.need("software", fields.name),
            boot_id=found.need("boot_id", fields.name),
            ledger=found.need("ledger", fields.name),
            skills=found.each("skills", fields.name),
            methods=found.each("methods", fields.name),
            facts=found.need("facts", Facts.read),
            fences=found.table("fences", fields.integer),
            epoch=found.maybe("epoch", fields.integer, 0),
            seq=found.maybe("seq", fields.integer, 0),
            tasks=found.each("tasks", TaskReport.read),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Deliver:
    """Where the server wants output to go on from: `offset` in bytes of the stream."""

    task_id: str
    stream: str
    offset: int

    def params(self) -> dict[str, JSON]:
        """For the wire."""
        return {"task_id": self.task_id, "stream": self.stream, "offset": self.offset}

    @classmethod
    def read(cls, value: JSON, path: str) -> Self:
        """From the wire."""
        found = Fields(value, path)
        return cls(
            task_id=found.need("task_id", fields.name),
            stream=found.need("stream", fields.stream),
            offset=found.need("offset", fields.integer),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Welcome:
    """The server's answer to hello. `fences` are floors, `forget` names tasks that the agent may drop."""

    session: str
    heartbeat: timedelta
    epoch: int
    server_time: datetime
    fences: Mapping[str, int] = field(default_factory=dict)
    forget: tuple[str, ...] = ()
    deliver: tuple[Deliver, ...] = ()

    def params(self) -> dict[str, JSON]:
        """For the wire (the result of hello)."""
        return {
            "session": self.session,
            "heartbeat": fields.seconds(self.heartbeat),
            "epoch": self.epoch,
            "server_time": fields.iso(self.server_time),
            "fences": dict(self.fences),
            "forget": list(self.forget),
            "deliver": [wanted.params() for wanted in self.deliver],
        }

    @classmethod
    def from_params(cls, params: Mapping[str, JSON]) -> Self:
        """From the wire (the result of hello). Raises BadParams, its paths beginning with `result`."""
        found = Fields(params, "result")
        return cls(
            session=found.need("session", fields.name),
            heartbeat=found.need("heartbeat", _heartbeat),
            epoch=found.need("epoch", fields.integer),
            server_time=found.need("server_time", fields.moment),
            fences=found.table("fences", fields.integer),
            forget=found.each("forget", fields.name),
            deliver=found.each("deliver", Deliver.read),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Enrol:
    """A new agent shows its code, good for one agent and a limited time; the result is `{agent, token}`."""

    code: str = field(repr=False)
    facts: Facts

    def params(self) -> dict[str, JSON]:
        """For the wire."""
        return {"code": self.code, "facts": self.facts.params()}

    @classmethod
    def from_params(cls, params: Mapping[str, JSON]) -> Self:
        """From the wire. Raises BadParams."""
        found = Fields(params)
        return cls(code=found.need("code", fields.name), facts=found.need("facts", Facts.read))


@dataclass(frozen=True, kw_only=True, slots=True)
class Relay:
    """A host's agent vouches for what follows on this connection: it comes from that machine, under that fence."""

    agent: str
    token: str = field(repr=False)
    environment: str
    machine: str
    fence: int

    def params(self) -> dict[str, JSON]:
        """For the wire."""
        return {
            "agent": self.agent,
            "token": self.token,
            "environment": self.environment,
            "machine": self.machine,
            "fence": self.fence,
        }

    @classmethod
    def from_params(cls, params: Mapping[str, JSON]) -> Self:
        """From the wire. Raises BadParams."""
        found = Fields(params)
        return cls(
            agent=found.need("agent", fields.name),
            token=found.need("token", fields.name),
            environment=found.need("environment", fields.name),
            machine=found.need("machine", fields.name),
            fence=found.need("fence", fields.integer),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """A piece of a task's output. `offset` counts bytes of the stream; `times` are (offset, when it was written)."""

    task_id: str
    stream: str
    offset: int
    data: bytes = field(repr=False)
    times: tuple[tuple[int, datetime], ...] = ()

    def params(self) -> dict[str, JSON]:
        """For the wire."""
        return {
            "task_id": self.task_id,
            "stream": self.stream,
            "offset": self.offset,
            "data": base64.b64encode(self.data).decode("ascii"),
            "times": [[offset, fields.iso(moment)] for offset, moment in self.times],
        }

    @property
    def end(self) -> int:
        """Where what follows begins."""
        return self.offset + len(self.data)

    @classmethod
    def joined(cls, pieces: Sequence[Self]) -> Self:
        """Pieces of one stream, each beginning where the one before ends, as one piece."""
        first = pieces[0]
        return cls(
            task_id=first.task_id,
            stream=first.stream,
            offset=first.offset,
            data=b"".join(piece.data for piece in pieces),
            times=tuple(time for piece in pieces for time in piece.times),
        )

    @classmethod
    def from_params(cls, params: Mapping[str, JSON]) -> Self:
        """From the wire. Raises BadParams, also for more than OUTPUT_LIMIT bytes."""
        found = Fields(params)
        data = found.need("data", fields.octets)
        if len(data) > OUTPUT_LIMIT:
            raise BadParams("params.data", f"{len(data)} bytes, the limit is {OUTPUT_LIMIT}")
        return cls(
            task_id=found.need("task_id", fields.name),
            stream=found.need("stream", fields.stream),
            offset=found.need("offset", fields.integer),
            data=data,
            times=found.each("times", _time),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """Something a person should know. `name` is the condition's, chosen by the agent; `is_over`: it has passed."""

    name: str
    message: str
    subject: str = ""
    level: str = "warning"
    is_over: bool = False

    @classmethod
    def from_params(cls, params: Mapping[str, JSON]) -> Self:
        """From params that the table has checked."""
        return cls(
            name=str(params["id"]),
            message=str(params["msg"]),
            subject=str(params.get("subject") or ""),
            level=str(params.get("level") or "warning"),
            is_over=params.get("state") == "over",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """The answer to an alert: whether a person knows of it, and when to tell it again; None: not again."""

    is_acknowledged: bool
    repeat_after: timedelta | None = None

    def params(self) -> dict[str, JSON]:
        """For the wire (the result of alert)."""
        after = None if self.repeat_after is None else fields.seconds(self.repeat_after)
        return {"acknowledged": self.is_acknowledged, "repeat_after": after}


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """How a task is: running (percent, eta), complete (result, outputs) or error (code, msg, result, outputs).

    `outputs` are the final lengths of its streams in bytes: collecting waits for them.
    """

    task_id: str
    state: TaskState
    percent: float | None = None
    eta: timedelta | None = None
    code: Code | None = None
    msg: str | None = None
    result: Mapping[str, JSON] | None = None
    outputs: Mapping[str, int] = field(default_factory=dict)

    def params(self) -> dict[str, JSON]:
        """For the wire."""
        return _without_nones(
            task_id=self.task_id,
            state=str(self.state),
            percent=self.percent,
            eta=None if self.eta is None else fields.seconds(self.eta),
            code=None if self.code is None else str(self.code),
            msg=self.msg,
            result=self.result,
            outputs=dict(self.outputs) or None,
        )

    @classmethod
    def from_params(cls, params: Mapping[str, JSON]) -> Self:
        """From the wire. Raises BadParams, also for complete without result and error without code."""
        found = Fields(params)
        state = found.need("state", _state)
        match state:
            case TaskState.ACCEPTED:
                raise BadParams("params.state", "accepted is the answer to a command, not a status")
            case TaskState.COMPLETE:
                found.need("result", fields.obj)
            case TaskState.ERROR:
                found.need("code", _code)
        return cls(
            task_id=found.need("task_id", fields.name),
            state=state,
            percent=found.maybe("percent", fields.percent, None),
            eta=found.maybe("eta", fields.span, None),
            code=found.maybe("code", _code, None),
            msg=found.maybe("msg", fields.text, None),
            result=found.maybe("result", fields.obj, None),
            outputs=found.table("outputs", fields.integer),
        )


def _without_nones(**values: JSON) -> dict[str, JSON]:
    return {name: value for name, value in values.items() if value is not None}


def stored_params(stored: Stored) -> dict[str, JSON]:
    """For the wire."""
    return {
        "images": stored.images,
        "templates": stored.templates,
        "counter": stored.counter,
        "number": stored.number,
    }


def read_stored(value: JSON, path: str) -> Stored:
    """From the wire."""
    found = Fields(value, path)
    return Stored(
        images=found.need("images", fields.integer),
        templates=found.need("templates", fields.integer),
        counter=found.maybe("counter", _word, ""),
        number=found.maybe("number", fields.integer, 0),
    )


def _size(value: JSON, path: str) -> Size:
    found = Fields(value, path)
    return Size(
        memory=found.need("memory", fields.integer),
        vcpus=found.need("vcpus", fields.integer),
        disk=found.need("disk", fields.integer),
    )


def _word(value: JSON, path: str) -> str:
    return "" if value == "" else fields.name(value, path)


def _state(value: JSON, path: str) -> TaskState:
    try:
        return TaskState(fields.text(value, path))
    except ValueError:
        raise BadParams(path, f"not one of {', '.join(TaskState)}") from None


def _code(value: JSON, path: str) -> Code:
    return code_of(fields.text(value, path))


def _heartbeat(value: JSON, path: str) -> timedelta:
    return timedelta(seconds=fields.bounded_number(value, path, 0.1, 3600))


def _time(value: JSON, path: str) -> tuple[int, datetime]:
    if not isinstance(value, list) or len(value) != 2:
        raise BadParams(path, "not a pair of offset and moment")
    return fields.integer(value[0], f"{path}[0]"), fields.moment(value[1], f"{path}[1]")
