"""The fields that sessions are made of, both ways."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from paddock.wire.hello import (
    OUTPUT_LIMIT,
    BadParams,
    Deliver,
    Enrol,
    Facts,
    Hello,
    Output,
    Relay,
    Status,
    TaskReport,
    TaskState,
    Welcome,
)
from paddock.wire.messages import Code
from paddock.wire.methods import Toward, check

MOMENT = datetime(2025, 11, 20, 5, 51, 7, 123456, tzinfo=UTC)
FACTS = Facts(hostname="one", cloud="", arch="x86_64", os="Debian 12", addresses=("127.0.0.1", "::1"))
HELLO = Hello(
    agent="local",
    token="t0ken",
    software="paddock 0.1",
    boot_id="b",
    ledger="l",
    skills=("script", "file"),
    methods=("script.run", "task.cancel"),
    facts=FACTS,
    fences={"two-machines-1": 7},
    epoch=3,
    seq=41,
    tasks=(TaskReport(task_id="C", state=TaskState.RUNNING),),
)
WELCOME = Welcome(
    session="s",
    heartbeat=timedelta(seconds=15),
    epoch=9,
    server_time=MOMENT,
    fences={"two-machines-1": 8},
    forget=("A", "B"),
    deliver=(Deliver(task_id="C", stream="out", offset=65536),),
)
ENROL = Enrol(code="c0de", facts=FACTS)
RELAY = Relay(agent="local", token="t0ken", environment="two-machines-1", machine="one", fence=7)
OUTPUT = Output(task_id="C", stream="logs/a b.txt", offset=10, data=b"\0\xff\n", times=((10, MOMENT), (12, MOMENT)))
STATUS = Status(task_id="C", state=TaskState.RUNNING, percent=12.5, eta=timedelta(seconds=30))
COMPLETE = Status(task_id="C", state=TaskState.COMPLETE, result={"exit": 1}, outputs={"out": 12, "err": 0})
ERROR = Status(task_id="C", state=TaskState.ERROR, code=Code.TIMED_OUT, msg="its limit of 600 s ended it")
ALL = [HELLO, WELCOME, ENROL, RELAY, OUTPUT, STATUS, COMPLETE, ERROR]
METHODS = {Hello: "hello", Enrol: "enrol", Relay: "relay", Output: "output", Status: "task_status"}


@pytest.mark.parametrize("value", ALL, ids=lambda value: type(value).__name__)
def test_it_reads_back_equal(value: Hello) -> None:
    assert type(value).from_params(json.loads(json.dumps(value.params()))) == value


@pytest.mark.parametrize("value", ALL, ids=lambda value: type(value).__name__)
def test_an_unknown_field_is_ignored(value: Hello) -> None:
    assert type(value).from_params({**value.params(), "color": "blue"}) == value


@pytest.mark.parametrize("value", [v for v in ALL if type(v) in METHODS], ids=lambda value: type(value).__name__)
def test_the_table_of_methods_knows_the_same_fields(value: Hello) -> None:
    params = value.params()
    assert check(METHODS[type(value)], params, toward=Toward.SERVER) == params


@pytest.mark.parametrize(
    ("value", "field", "wrong", "path"),
    [
        (HELLO, "software", None, "params.software"),
        (HELLO, "agent", None, "params.agent"),
        (HELLO, "token", None, "params.token"),
        (HELLO, "token", "a\nb", "params.token"),
        (HELLO, "ledger", "\x1b[31m", "params.ledger"),
        (HELLO, "ledger", "a\0b", "params.ledger"),
        (HELLO, "skills", "script", "params.skills"),
        (HELLO, "skills", ["script", 7], "params.skills[1]"),
        (HELLO, "facts", [], "params.facts"),
        (HELLO, "facts", {}, "params.facts.hostname"),
        (HELLO, "facts", {"hostname": "a", "addresses": [None]}, "params.facts.addresses[0]"),
        (HELLO, "fences", {"a": "7"}, "params.fences['a']"),
        (HELLO, "fences", {"a": -1}, "params.fences['a']"),
        (HELLO, "fences", {"a\x1b": 1}, "params.fences key"),
        (HELLO, "epoch", 2**63, "params.epoch"),
        (HELLO, "seq", True, "params.seq"),
        (HELLO, "tasks", [{"task_id": "C"}], "params.tasks[0].state"),
        (HELLO, "tasks", [{"task_id": "C", "state": "dead"}], "params.tasks[0].state"),
        (WELCOME, "heartbeat", 0, "result.heartbeat"),
        (WELCOME, "heartbeat", 1e300, "result.heartbeat"),
        (WELCOME, "heartbeat", 10**400, "result.heartbeat"),
        (WELCOME, "server_time", "yesterday", "result.server_time"),
        (WELCOME, "server_time", "2025-11-20T05:51:07", "result.server_time"),
        (WELCOME, "server_time", "0001-01-01T00:00:00+23:00", "result.server_time"),
        (WELCOME, "deliver", [{"task_id": "C", "stream": "out", "offset": -1}], "result.deliver[0].offset"),
        (ENROL, "code", 7, "params.code"),
        (RELAY, "fence", None, "params.fence"),
        (RELAY, "machine", "", "params.machine"),
        (OUTPUT, "data", "a", "params.data"),
        (OUTPUT, "data", "YQ==\n", "params.data"),
        (OUTPUT, "data", "é", "params.data"),
        (OUTPUT, "stream", "a\nb", "params.stream"),
        (OUTPUT, "times", [[1]], "params.times[0]"),
        (OUTPUT, "times", [[1, "x"]], "params.times[0][1]"),
        (STATUS, "state", "accepted", "params.state"),
        (STATUS, "percent", 101, "params.percent"),
        (STATUS, "percent", True, "params.percent"),
        (STATUS, "eta", -1, "params.eta"),
        (STATUS, "eta", 1e300, "params.eta"),
        (COMPLETE, "result", None, "params.result"),
        (COMPLETE, "outputs", {"out": 1.5}, "params.outputs['out']"),
        (ERROR, "code", None, "params.code"),
    ],
    ids=str,
)
def test_a_bad_field_is_named_by_its_path(value: Hello, field: str, wrong: object, path: str) -> None:
    with pytest.raises(BadParams) as refusal:
        type(value).from_params({**value.params(), field: wrong})
    assert refusal.value.path == path
    assert str(refusal.value).startswith(f"{path}: ")


def test_a_relayed_hello_has_no_agent_and_no_token() -> None:
    params = {name: value for name, value in HELLO.params().items() if name not in ("agent", "token")}
    found = Hello.from_params(params)
    assert found.agent is None
    assert found.token is None
    assert found.params() == params


def test_output_over_64_kib_is_refused_and_64_kib_are_not() -> None:
    full = Output(task_id="C", stream="out", offset=0, data=b"x" * OUTPUT_LIMIT)
    assert Output.from_params(full.params()) == full
    with pytest.raises(BadParams, match=r"params\.data: 65537 bytes"):
        Output.from_params(Output(task_id="C", stream="out", offset=0, data=b"x" * (OUTPUT_LIMIT + 1)).params())


def test_a_code_of_a_newer_agent_is_failed() -> None:
    assert Status.from_params({**ERROR.params(), "code": "melted"}).code is Code.FAILED


def test_secrets_stay_out_of_logs() -> None:
    assert "t0ken" not in repr(HELLO) + repr(RELAY)
    assert "c0de" not in repr(ENROL)
