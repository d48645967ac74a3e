"""The hub on sockets in memory: who may speak, for how long, and what is sent again."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paddock.adapters.links.hub import AT_ONCE, PIECES, SILENCE, SLOW, Hub
from paddock.core.command import Command
from paddock.core.errors import Broken, Conflict, PaddockError, Refused, Stale
from paddock.ports import Admitted
from paddock.wire.hello import Alert, Enrol, Heard, Hello, Output, Relay, Status, Welcome
from tests.adapters.links.loop import without_waiting

T0 = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
HELLO: dict[str, Any] = {
    "agent": "a1",
    "token": "t" * 43,
    "software": "fake 1",
    "boot_id": "b",
    "ledger": "l",
    "facts": {"hostname": "h"},
}


class Socket:
    """Both ends of one WebSocket: the hub's by ASGI, the agent's by `say` and `heard`."""

    def __init__(self, hub: Hub) -> None:
        self._in: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._out: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.is_reading = asyncio.Event()
        self.is_reading.set()
        self.is_cut = False
        self.closed: dict[str, Any] | None = None
        self._in.put_nowait({"type": "websocket.connect"})
        self.serving = asyncio.ensure_future(hub({"type": "websocket"}, self._in.get, self._send))

    async def _send(self, message: Any) -> None:
        if self.is_cut:
            raise OSError("the connection is over")
        if message["type"] == "websocket.close":
            self.closed = dict(message)
            return
        await self.is_reading.wait()
        if message["type"] == "websocket.send":
            self._out.put_nowait(json.loads(message["text"]))

    def say(self, text: str | bytes) -> None:
        kind = "text" if isinstance(text, str) else "bytes"
        self._in.put_nowait({"type": "websocket.receive", kind: text})

    @property
    def waiting(self) -> int:
        """Messages that the hub did not take yet."""
        return self._in.qsize()

    def ask(self, method: str, params: Mapping[str, Any], id: str = "1") -> None:
        self.say(json.dumps({"version": "1", "id": id, "method": method, "params": params}))

    def answer(self, id: str, **result: Any) -> None:
        self.say(json.dumps({"version": "1", "id": id, "result": result}))

    async def heard(self) -> Any:
        """The hub's next message, pings left out (and answered)."""
        while True:
            async with asyncio.timeout(300):
                message = await self._out.get()
            if message.get("method") != "ping":
                return message
            self.answer(message["id"])

    async def pinged(self) -> Any:
        async with asyncio.timeout(300):
            message = await self._out.get()
        assert message["method"] == "ping"
        return message

    async def ended(self, within: float = 300) -> float:
        """Wait for the end of the connection, without a word; how long it took."""
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(within):
            await self.serving
        return asyncio.get_running_loop().time() - began

    async def hello(self, **rest: Any) -> Any:
        self.ask("hello", {**HELLO, **rest}, id="hello")
        return await self.heard()

    def cut(self) -> None:
        self.is_cut = True
        self._in.put_nowait({"type": "websocket.disconnect", "code": 1006})


class Desk:
    """The engine's place, played: it admits everybody and keeps what it was told."""

    def __init__(self) -> None:
        self.queued: list[Command] = []
        self.open: dict[str, Command] = {}
        self.told_of: list[Any] = []
        self.left_by: list[tuple[str, str]] = []
        self.sessions: list[str] = []
        self.raising: PaddockError | None = None
        self.admitting = asyncio.Event()
        self.admitting.set()
        self.probes: list[bool] = []
        self.is_probing = False
        self.vouched_by: list[Relay] = []
        self.storing = asyncio.Event()
        """Cleared: whatever is to be recorded waits, as for a disk."""
        self.storing.set()
        self.begun: list[str] = []
        self.stored: list[Output] = []
        self.limit = 1 << 30

    def queue(self, id: str, params: Mapping[str, Any] | None = None) -> None:
        number = len(self.queued) + len(self.open) + 1
        self.queued.append(Command(id=id, agent="a1", seq=number, method="status", asked=T0, params=params or {}))

    async def vouched(self, relay: Relay) -> None:
        if self.raising is not None:
            raise self.raising
        self.vouched_by.append(relay)

    async def enrol(self, enrol: Enrol) -> tuple[str, str]:
        if enrol.code != "good":
            raise Refused("enrolment: this code is not known")
        return "a1", "t" * 43

    async def admit(
        self, hello: Hello, *, relay: Relay | None, session: str, probe: Callable[[str], Awaitable[bool]]
    ) -> Admitted:
        agent = hello.agent or f"{relay.environment}.{relay.machine}" if relay else str(hello.agent)
        if self.is_probing:
            self.probes.append(await probe(agent))
        await self.admitting.wait()
        if self.raising is not None:
            raise self.raising
        self.sessions.append(session)
        welcome = Welcome(session=session, heartbeat=timedelta(seconds=15), epoch=9, server_time=T0)
        return Admitted(agent=agent, session=session, welcome=welcome)

    async def outgoing(self, agent: str, session: str, *, limit: int) -> list[Command]:
        if session != self.sessions[-1]:
            return []
        sent, self.queued = self.queued[:limit], self.queued[limit:]
        self.open.update({one.id: one for one in sent})
        return sent

    async def unanswered(self, agent: str, session: str) -> list[Command]:
        return list(self.open.values()) if session == self.sessions[-1] else []

    async def answered(
        self, agent: str, command: str, *, result: Mapping[str, object] | None, code: str, message: str
    ) -> None:
        self.begun.append(command)
        await self.storing.wait()
        self.open.pop(command, None)
        self.told_of.append((agent, command, result, str(code)))

    async def told(self, agent: str, status: Status) -> None:
        self.begun.append(status.state)
        await self.storing.wait()
        if self.raising is not None:
            raise self.raising
        self.told_of.append((agent, status))

    async def output(self, agent: str, output: Output) -> int:
        await self.storing.wait()
        if output.end > self.limit:
            raise Refused("too much")
        self.stored.append(output)
        return output.end

    async def alerted(self, agent: str, alert: Alert) -> Heard:
        self.told_of.append((agent, alert))
        return Heard(is_acknowledged=False, repeat_after=timedelta(minutes=5))

    async def logged(self, agent: str, entries: Sequence[Mapping[str, object]]) -> None:
        self.told_of += entries

    async def rotate(self, agent: str, token: str) -> None:
        self.told_of.append((agent, token))

    async def left(self, agent: str, session: str) -> None:
        self.left_by.append((agent, session))


def house() -> tuple[Hub, Desk]:
    hub, desk = Hub(), Desk()
    hub.attach(desk)
    return hub, desk


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# --- strangers ---


@without_waiting
async def test_who_says_nothing_is_gone_after_ten_seconds() -> None:
    hub, desk = house()
    assert 10 <= await Socket(hub).ended() <= 12
    assert desk.left_by == []


@without_waiting
async def test_who_speaks_before_hello_is_refused() -> None:
    hub, _ = house()
    socket = Socket(hub)
    socket.ask("log", {"level": "info", "msg": "x", "time": "2026-05-01T12:00:00Z"})
    assert "not before hello" in (await socket.heard())["fatal_error"]
    await socket.ended()


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\x01",
        "no json",
        "[]",
        '{"version": "1", "id": "1", "id": "2", "method": "hello", "params": {}}',
        '{"version": "1", "id": "1", "method": "hello", "params": NaN}',
        "{" * 70,
        json.dumps({"version": "1", "id": "1", "method": "hello", "params": {"x": "y" * (64 << 10)}}),
    ],
)
@without_waiting
async def test_what_is_no_message_ends_the_connection_in_words(said: str | bytes) -> None:
    hub, _ = house()
    socket = Socket(hub)
    socket.say(said)
    assert (await socket.heard())["fatal_error"]
    await socket.ended()


@without_waiting
async def test_after_hello_a_message_over_a_mebibyte_ends_the_connection_in_words() -> None:
    hub, _ = house()
    socket = Socket(hub)
    await socket.hello()
    socket.ask("ping", {"x": "y" * (1 << 20)}, id="2")
    assert "the limit is" in (await socket.heard())["fatal_error"]
    await socket.ended()


@without_waiting
async def test_a_hello_that_is_refused_is_answered_and_closed() -> None:
    hub, desk = house()
    desk.raising = Refused("agent: this identity and token are not known here")
    socket = Socket(hub)
    told = await socket.hello()
    assert (told["error"]["code"], told["error"]["msg"]) == ("refused", str(desk.raising))
    await socket.ended()
    assert hub.connected == 0


@without_waiting
async def test_a_hello_with_a_bad_field_names_it() -> None:
    hub, _ = house()
    told = await Socket(hub).hello(ledger=7)
    assert told["error"]["code"] == "bad_params"
    assert "params.ledger" in told["error"]["msg"]


@without_waiting
async def test_a_relay_that_is_not_vouched_for_ends_before_its_hello() -> None:
    hub, desk = house()
    desk.raising = Refused("agent: this identity and token are not known here")
    socket = Socket(hub)
    relay = {"agent": "h", "token": "x", "environment": "pair-1", "machine": "one", "fence": 1}
    socket.ask("relay", relay)
    assert (await socket.heard())["error"]["code"] == "refused"
    await socket.ended()


@without_waiting
async def test_a_relayed_machine_may_take_its_time_to_say_hello() -> None:
    hub, desk = house()
    socket = Socket(hub)
    relay = {"agent": "h", "token": "x", "environment": "pair-1", "machine": "one", "fence": 1}
    socket.ask("relay", relay)
    await socket.heard()
    await asyncio.sleep(600)
    assert not socket.serving.done()
    socket.ask("hello", {name: value for name, value in HELLO.items() if name not in ("agent", "token")})
    assert "session" in (await socket.heard())["result"]
    assert desk.vouched_by[0].machine == "one"


@without_waiting
async def test_enrolling_gives_an_identity_with_which_to_say_hello_on_the_same_connection() -> None:
    hub, _ = house()
    socket = Socket(hub)
    socket.ask("enrol", {"code": "good", "facts": {"hostname": "h"}})
    assert (await socket.heard())["result"] == {"agent": "a1", "token": "t" * 43}
    assert "session" in (await socket.hello())["result"]


@without_waiting
async def test_a_wrong_code_is_refused_and_closed() -> None:
    hub, _ = house()
    socket = Socket(hub)
    socket.ask("enrol", {"code": "guess", "facts": {"hostname": "h"}})
    assert (await socket.heard())["error"]["code"] == "refused"
    await socket.ended()


# --- a session ---


@without_waiting
async def test_after_the_welcome_what_was_queued_is_sent_with_seq_and_epoch() -> None:
    hub, desk = house()
    desk.queue("c1")
    desk.queue("c2")
    socket = Socket(hub)
    assert (await socket.hello())["result"]["epoch"] == 9
    first, second = await socket.heard(), await socket.heard()
    assert [(one["id"], one["seq"], one["epoch"]) for one in (first, second)] == [("c1", 1, 9), ("c2", 2, 9)]


@without_waiting
async def test_a_nudge_fetches_what_is_queued() -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    desk.queue("c1")
    hub.nudge("a1")
    hub.nudge("nobody")
    assert (await socket.heard())["id"] == "c1"


@without_waiting
async def test_more_than_a_batch_is_sent_to_the_last() -> None:
    hub, desk = house()
    for number in range(200):
        desk.queue(f"c{number}")
    socket = Socket(hub)
    await socket.hello()
    assert [(await socket.heard())["id"] for _ in range(200)] == [f"c{number}" for number in range(200)]


@without_waiting
async def test_an_answer_goes_to_the_desk() -> None:
    hub, desk = house()
    desk.queue("c1")
    desk.queue("c2")
    socket = Socket(hub)
    await socket.hello()
    await socket.heard()
    socket.answer("c1", uptime=3)
    await socket.heard()
    socket.say(json.dumps({"version": "1", "id": "c2", "error": {"msg": "not now", "code": "busy"}}))
    await turns()
    assert desk.told_of == [("a1", "c1", {"uptime": 3}, ""), ("a1", "c2", None, "busy")]


@without_waiting
async def test_after_a_reconnect_what_has_no_answer_is_sent_again_first_under_the_same_id_and_seq() -> None:
    hub, desk = house()
    desk.queue("c1")
    desk.queue("c2")
    first = Socket(hub)
    await first.hello()
    await first.heard()
    await first.heard()
    first.answer("c1")
    await turns()
    first.cut()
    await first.ended()
    desk.queue("c3")
    second = Socket(hub)
    await second.hello()
    again, fresh = await second.heard(), await second.heard()
    assert [(one["id"], one["seq"]) for one in (again, fresh)] == [("c2", 2), ("c3", 2)]


@without_waiting
async def test_a_command_that_no_message_can_carry_ends_and_keeps_no_other_from_going() -> None:
    hub, desk = house()
    desk.queue("c1", {"run": "x" * (1 << 20)})
    desk.queue("c2")
    socket = Socket(hub)
    await socket.hello()
    assert (await socket.heard())["id"] == "c2"
    assert desk.told_of == [("a1", "c1", None, "bad_params")]


@without_waiting
async def test_an_unknown_method_is_answered_and_the_connection_lives_on() -> None:
    hub, _ = house()
    socket = Socket(hub)
    await socket.hello()
    socket.ask("dance", {}, id="2")
    assert (await socket.heard())["error"]["code"] == "unknown_method"
    socket.ask("ping", {"x": 1}, id="3")
    assert (await socket.heard())["result"] == {"x": 1}


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (Refused("no"), "refused"),
        (Stale("over"), "stale"),
        (Conflict("again"), "busy"),
        (Broken("disk"), "busy"),
    ],
)
@without_waiting
async def test_whatever_a_status_meets_is_an_answer(raised: PaddockError, code: str) -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    desk.raising = raised
    socket.ask("task_status", {"task_id": "c1", "state": "running"}, id="2")
    assert (await socket.heard())["error"]["code"] == code
    desk.raising = None
    socket.ask("task_status", {"task_id": "c1", "state": "running"}, id="3")
    assert (await socket.heard())["result"] == {}


@without_waiting
async def test_output_is_acknowledged_with_its_length() -> None:
    hub, _ = house()
    socket = Socket(hub)
    await socket.hello()
    socket.ask("output", {"task_id": "c1", "stream": "out", "offset": 3, "data": "aGk=", "times": []}, id="2")
    assert (await socket.heard())["result"] == {"offset": 5}


@without_waiting
async def test_answers_and_statuses_wait_for_the_disk_together_and_in_their_order() -> None:
    hub, desk = house()
    for number in range(50):
        desk.queue(f"c{number}")
    socket = Socket(hub)
    await socket.hello()
    desk.storing.clear()
    for number in range(50):
        await socket.heard()
        socket.answer(f"c{number}")
    socket.ask("task_status", {"task_id": "c1", "state": "running"}, id="2")
    await turns()
    assert desk.begun == [*(f"c{number}" for number in range(50)), "running"]
    assert not desk.told_of
    desk.storing.set()
    assert (await socket.heard())["id"] == "2"


@without_waiting
async def test_more_answers_than_wait_together_wait_in_the_connection() -> None:
    hub, desk = house()
    for number in range(AT_ONCE + 50):
        desk.queue(f"c{number}")
    socket = Socket(hub)
    await socket.hello()
    desk.storing.clear()
    for number in range(AT_ONCE + 50):
        await socket.heard()
        socket.answer(f"c{number}")
    await turns()
    assert len(desk.begun) == AT_ONCE
    desk.storing.set()
    await turns()
    assert len(desk.told_of) == AT_ONCE + 50


@without_waiting
async def test_what_a_relayed_machine_said_before_its_next_hello_is_recorded_before_it() -> None:
    hub, desk = house()
    socket = Socket(hub)
    vouching = {"agent": "a1", "token": "t" * 43, "environment": "e1", "machine": "one", "fence": 1}
    socket.ask("relay", vouching, id="relay")
    await socket.heard()
    await socket.hello(agent=None, token=None)
    desk.storing.clear()
    socket.ask("task_status", {"task_id": "c1", "state": "running"}, id="2")
    socket.ask("hello", {**HELLO, "agent": None, "token": None}, id="again")
    await turns()
    assert len(desk.sessions) == 1
    desk.storing.set()
    assert [(await socket.heard())["id"] for _ in range(2)] == ["2", "again"]


def _piece(offset: int, data: str = "aGk=", stream: str = "out") -> dict[str, Any]:
    return {"task_id": "c1", "stream": stream, "offset": offset, "data": data, "times": [[offset, T0.isoformat()]]}


@without_waiting
async def test_output_that_comes_together_is_stored_together_and_answered_piece_by_piece() -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    desk.storing.clear()
    for number in range(4):
        socket.ask("output", _piece(2 * number), id=f"p{number}")
    socket.ask("output", _piece(0, stream="err"), id="p4")
    await turns()
    desk.storing.set()
    told = [await socket.heard() for _ in range(5)]
    assert [(one["id"], one["result"]["offset"]) for one in told] == [
        ("p0", 8),
        ("p1", 8),
        ("p2", 8),
        ("p3", 8),
        ("p4", 2),
    ]
    assert [(one.stream, one.offset, one.data, len(one.times)) for one in desk.stored] == [
        ("out", 0, b"hihihihi", 4),
        ("err", 0, b"hi", 1),
    ]


@without_waiting
async def test_of_output_that_goes_too_far_as_much_is_stored_as_may_be() -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    desk.limit = 5
    desk.storing.clear()
    for number in range(4):
        socket.ask("output", _piece(2 * number), id=f"p{number}")
    await turns()
    desk.storing.set()
    told = [await socket.heard() for _ in range(4)]
    assert ["result" in one for one in told] == [True, True, False, False]
    assert [one.end for one in desk.stored] == [2, 4]


@without_waiting
async def test_output_that_cannot_be_read_is_an_answer() -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    socket.ask("output", {"task_id": "c1", "stream": "out", "offset": 0, "data": "***"}, id="2")
    assert (await socket.heard())["error"]["code"] == "bad_params"
    assert not desk.stored


@without_waiting
async def test_who_prints_faster_than_disks_write_waits_in_the_connection() -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    desk.storing.clear()
    for number in range(3 * PIECES):
        socket.ask("output", _piece(2 * number), id=f"p{number}")
    await turns(300)
    assert socket.waiting > PIECES // 2
    desk.storing.set()
    assert [(await socket.heard())["id"] for _ in range(3 * PIECES)][-1] == f"p{3 * PIECES - 1}"
    assert b"".join(one.data for one in desk.stored) == b"hi" * 3 * PIECES


@without_waiting
async def test_log_lines_and_new_tokens_reach_the_desk() -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    socket.ask("log", {"level": "info", "msg": "hi", "time": "2026-05-01T12:00:00Z"}, id="2")
    await socket.heard()
    socket.ask("token", {"new": "n" * 43}, id="3")
    await socket.heard()
    assert desk.told_of[0]["msg"] == "hi"
    assert desk.told_of[1] == ("a1", "n" * 43)


@without_waiting
async def test_lines_that_come_together_reach_the_desk_one_by_one_and_a_bad_one_is_refused() -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    line = {"level": "info", "msg": "one", "time": "2026-05-01T12:00:00Z"}
    more = [{**line, "msg": "two", "fields": {"n": 2}}, {**line, "msg": "three", "level": "error"}]
    socket.ask("log", {**line, "more": more}, id="2")
    await socket.heard()
    assert [one["msg"] for one in desk.told_of] == ["one", "two", "three"]
    assert all("more" not in one and one["kind"] == "log" for one in desk.told_of)
    socket.ask("log", {**line, "more": [{"msg": "without a level"}]}, id="3")
    assert (await socket.heard())["error"]["code"] == "bad_params"
    assert len(desk.told_of) == 3


@without_waiting
async def test_an_alert_is_answered_with_when_to_tell_it_again() -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    told = {"id": "disk:/", "msg": "full", "time": "2026-05-01T12:00:00Z", "level": "error", "subject": "/"}
    socket.ask("alert", told, id="2")
    assert (await socket.heard())["result"] == {"acknowledged": False, "repeat_after": 300}
    socket.ask("alert", {"id": "disk:/", "msg": "fine", "time": "2026-05-01T12:00:00Z", "state": "over"}, id="3")
    await socket.heard()
    assert desk.told_of == [
        ("a1", Alert(name="disk:/", message="full", subject="/", level="error")),
        ("a1", Alert(name="disk:/", message="fine", is_over=True)),
    ]


# --- the end of a session ---


@without_waiting
async def test_an_agent_that_answers_no_ping_is_given_up() -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    passed = await socket.ended()
    assert 45 <= passed <= 75
    assert desk.left_by == [("a1", desk.sessions[0])]


@without_waiting
async def test_an_agent_that_answers_pings_stays() -> None:
    hub, _ = house()
    socket = Socket(hub)
    await socket.hello()
    for _ in range(20):
        socket.answer((await socket.pinged())["id"])
    assert not socket.serving.done()


@without_waiting
async def test_a_session_that_is_dropped_ends_with_the_reason() -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    hub.drop("nobody", "x")
    hub.drop("a1", "sh\u00fct out " * 40)
    await socket.ended(1)
    assert socket.closed is not None
    assert len(socket.closed["reason"].encode()) <= 120
    assert desk.left_by == [("a1", desk.sessions[0])]
    assert hub.connected == 0


@without_waiting
async def test_when_the_hub_closes_everybody_is_let_go_strangers_too() -> None:
    hub, _ = house()
    stranger, agent = Socket(hub), Socket(hub)
    await agent.hello()
    await hub.close()
    await agent.ended(1)
    await stranger.ended(1)


@without_waiting
async def test_who_does_not_read_is_cut() -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    socket.is_reading.clear()
    desk.queue("c1")
    hub.nudge("a1")
    assert SLOW <= await socket.ended() <= SLOW + 3
    assert desk.left_by == [("a1", desk.sessions[0])]


@without_waiting
async def test_a_connection_that_breaks_while_it_is_written_to_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    hub, desk = house()
    socket = Socket(hub)
    await socket.hello()
    socket.is_cut = True
    desk.queue("c1")
    hub.nudge("a1")
    await socket.ended(1)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert list(desk.open) == ["c1"]


# --- one identity, one session ---


@without_waiting
async def test_a_newer_session_replaces_the_older() -> None:
    hub, desk = house()
    older, newer = Socket(hub), Socket(hub)
    await older.hello()
    await newer.hello()
    await older.ended(1)
    assert older.closed is not None
    assert older.closed["reason"] == "a newer session of this agent took over"
    desk.queue("c1")
    hub.nudge("a1")
    assert (await newer.heard())["id"] == "c1"
    assert hub.connected == 1


@without_waiting
async def test_a_probe_is_answered_by_a_session_that_lives() -> None:
    hub, desk = house()
    older, newer = Socket(hub), Socket(hub)
    await older.hello()
    desk.is_probing = True
    newer.ask("hello", HELLO)
    older.answer((await older.pinged())["id"])
    await newer.heard()
    assert desk.probes == [True]


@pytest.mark.parametrize("is_reading", [True, False])
@without_waiting
async def test_a_probe_of_a_silent_session_takes_its_time_and_no_longer(is_reading: bool) -> None:
    hub, desk = house()
    older, newer = Socket(hub), Socket(hub)
    await older.hello()
    if not is_reading:
        older.is_reading.clear()
    desk.is_probing = True
    began = asyncio.get_running_loop().time()
    newer.ask("hello", HELLO)
    await newer.heard()
    assert desk.probes == [False]
    assert SILENCE <= asyncio.get_running_loop().time() - began <= SILENCE + 1


@without_waiting
async def test_of_two_hellos_at_once_the_last_that_is_let_in_is_the_live_one() -> None:
    hub, desk = house()
    desk.admitting.clear()
    sockets = [Socket(hub), Socket(hub)]
    for socket in sockets:
        socket.ask("hello", HELLO)
    await turns()
    desk.admitting.set()
    await turns(100)
    live = [socket for socket in sockets if not socket.serving.done()]
    assert len(live) == 1
    assert len(desk.sessions) == 2
    desk.queue("c1")
    hub.nudge("a1")
    await live[0].heard()
    assert (await live[0].heard())["id"] == "c1"
    assert [session for _, session in desk.left_by] == [desk.sessions[0]]


@without_waiting
async def test_a_connection_that_ends_while_it_is_let_in_leaves_no_session_behind() -> None:
    hub, desk = house()
    desk.admitting.clear()
    socket = Socket(hub)
    socket.ask("hello", HELLO)
    await turns()
    await hub.close()
    await turns()
    desk.admitting.set()
    await socket.ended(5)
    assert desk.left_by == [("a1", session) for session in desk.sessions]
    assert hub.connected == 0


@without_waiting
async def test_agents_of_different_identities_do_not_wait_for_each_other() -> None:
    hub, desk = house()
    desk.admitting.clear()
    waiting, other = Socket(hub), Socket(hub)
    waiting.ask("hello", HELLO)
    await turns()
    other.ask("hello", {**HELLO, "agent": "a2"})
    await turns()
    desk.admitting.set()
    assert "session" in (await other.heard())["result"]
    assert "session" in (await waiting.heard())["result"]
    assert hub.connected == 2
