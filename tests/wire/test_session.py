"""One end's rules: who speaks first, what is answered, when silence ends it."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.core.errors import Refused
from paddock.wire.framing import FIRST_CONTACT, MESSAGE_LIMIT, Lines
from paddock.wire.hello import Facts, Hello, Welcome
from paddock.wire.messages import Code, Command, Failure, Fatal, Message, Success, encode, parse
from paddock.wire.session import WELCOME_LIMIT, Act, Answered, Close, Deliver, Send, Session, Side

T0 = datetime(2025, 11, 20, tzinfo=UTC)
BEAT = timedelta(seconds=15)
SECOND = timedelta(seconds=1)
HELLO = Command(
    id="h1",
    method="hello",
    params=Hello(agent="local", token="t", software="s", boot_id="b", ledger="l", facts=Facts(hostname="one")).params(),
)
ENROL = Command(id="e1", method="enrol", params={"code": "c"})
RELAY = Command(id="r1", method="relay", params={"agent": "local"})
RUN = Command(id="C", method="script.run", params={"run": "true"}, seq=41, epoch=9)
STATUS = Command(id="s1", method="task_status", params={})
WELCOME = Success(id="h1", result=Welcome(session="s", heartbeat=2 * BEAT, epoch=9, server_time=T0).params())


def opened(side: Side) -> Session:
    return Session(side=side, heartbeat=BEAT, now=T0)


@pytest.fixture
def server() -> Session:
    """A server's end that is welcome."""
    session = opened(Side.SERVER)
    assert session.receive(encode(HELLO), T0) == [Deliver(command=HELLO)]
    session.answer(Success(id="h1", result={**WELCOME.result, "heartbeat": BEAT.total_seconds()}), T0)
    assert session.is_welcome
    return session


@pytest.fixture
def agent() -> Session:
    """An agent's end that is welcome."""
    session = opened(Side.AGENT)
    session.send_command(HELLO, T0)
    session.receive(encode(WELCOME), T0)
    assert session.is_welcome
    return session


def refused(acts: list[Act]) -> str:
    """The reason, where the acts say fatal and close and nothing else."""
    send, close = acts
    assert isinstance(send, Send)
    assert isinstance(close, Close)
    fatal = parse(send.text)
    assert isinstance(fatal, Fatal)
    return close.reason


def sent(acts: list[Act]) -> Message:
    (send,) = acts
    assert isinstance(send, Send)
    return parse(send.text)


def test_hello_makes_both_ends_welcome() -> None:
    agent, server = opened(Side.AGENT), opened(Side.SERVER)
    assert server.receive(agent.send_command(HELLO, T0), T0) == [Deliver(command=HELLO)]
    assert not server.is_welcome
    text = server.answer(WELCOME, T0)
    assert server.is_welcome
    assert agent.receive(text, T0) == [Answered(request=HELLO, response=WELCOME)]
    assert agent.is_welcome
    assert agent.heartbeat == server.heartbeat == 2 * BEAT
    assert agent.receive(server.send_command(RUN, T0), T0) == [Deliver(command=RUN)]
    accepted = Success(id="C", result={"task_id": "C", "state": "accepted"})
    assert server.receive(agent.answer(accepted, T0), T0) == [Answered(request=RUN, response=accepted)]
    assert not server.unanswered


def test_a_failed_hello_welcomes_nobody() -> None:
    agent, server = opened(Side.AGENT), opened(Side.SERVER)
    server.receive(agent.send_command(HELLO, T0), T0)
    failure = Failure(id="h1", code=Code.REFUSED, msg="local: unknown token")
    assert agent.receive(server.answer(failure, T0), T0) == [Answered(request=HELLO, response=failure)]
    assert not agent.is_welcome
    assert not server.is_welcome


def test_after_enrol_comes_hello_on_the_same_connection() -> None:
    agent, server = opened(Side.AGENT), opened(Side.SERVER)
    server.receive(agent.send_command(ENROL, T0), T0)
    agent.receive(server.answer(Success(id="e1", result={"agent": "a", "token": "t"}), T0), T0)
    assert not agent.is_welcome
    assert server.receive(agent.send_command(HELLO, T0), T0) == [Deliver(command=HELLO)]


def test_after_relay_a_machine_may_say_hello_and_say_it_again() -> None:
    server = opened(Side.SERVER)
    server.receive(encode(RELAY), T0)
    server.answer(Success(id="r1", result={}), T0)
    assert server.is_relayed
    assert server.next_due is None
    for _ in range(2):
        assert server.receive(encode(HELLO), T0) == [Deliver(command=HELLO)]
        assert not server.is_welcome
        server.answer(WELCOME, T0)
        assert server.is_welcome
        server.send_command(RUN, T0)
    assert "enrol" in refused(server.receive(encode(ENROL), T0))


def test_a_refused_relay_is_no_relay() -> None:
    server = opened(Side.SERVER)
    server.receive(encode(RELAY), T0)
    server.answer(Failure(id="r1", code=Code.STALE, msg="old"), T0)
    assert not server.is_relayed


@pytest.mark.parametrize("method", ["ping", "log", "task_status", "script.run", "token"])
def test_nothing_but_an_opening_may_come_first(method: str) -> None:
    assert method in refused(opened(Side.SERVER).receive(encode(Command(id="a", method=method, params={})), T0))


@pytest.mark.parametrize("opening", [ENROL, RELAY])
def test_a_relayed_machine_may_only_say_hello(opening: Command) -> None:
    server = opened(Side.SERVER)
    server.receive(encode(RELAY), T0)
    server.answer(Success(id="r1", result={}), T0)
    assert opening.method in refused(server.receive(encode(opening), T0))


def test_nothing_follows_hello_before_its_answer() -> None:
    server = opened(Side.SERVER)
    server.receive(encode(HELLO), T0)
    assert "hello is answered" in refused(server.receive(encode(STATUS), T0))


def test_an_agent_takes_no_command_before_it_is_welcome() -> None:
    agent = opened(Side.AGENT)
    agent.send_command(HELLO, T0)
    assert "script.run" in refused(agent.receive(encode(RUN), T0))


def test_a_second_hello_on_an_agents_own_connection_ends_it(server: Session) -> None:
    assert "hello" in refused(server.receive(encode(HELLO), T0))


def test_we_keep_the_same_rules_ourselves() -> None:
    agent, server = opened(Side.AGENT), opened(Side.SERVER)
    with pytest.raises(Refused, match=r"script\.run: not before hello"):
        server.send_command(RUN, T0)
    with pytest.raises(Refused, match="task_status: not before hello"):
        agent.send_command(STATUS, T0)
    agent.send_command(HELLO, T0)
    with pytest.raises(Refused, match="enrol: hello is not answered yet"):
        agent.send_command(ENROL, T0)


def test_an_id_is_asked_once_at_a_time(server: Session) -> None:
    server.send_command(RUN, T0)
    with pytest.raises(Refused, match="C: already asked"):
        server.send_command(RUN, T0)
    server.receive(encode(Failure(id="C", code=Code.BUSY, msg="later")), T0)
    server.send_command(RUN, T0)
    assert dict(server.unanswered) == {"C": RUN}


def test_an_answer_nobody_waits_for_is_dropped(server: Session) -> None:
    assert server.receive(encode(Success(id="made up", result={})), T0) == []
    assert not server.is_closed


def test_an_unknown_method_is_delivered_and_the_connection_lives(agent: Session) -> None:
    strange = Command(id="x", method="coffee.make", params={})
    assert agent.receive(encode(strange), T0) == [Deliver(command=strange)]


def test_a_ping_is_answered_inside_with_its_params(agent: Session) -> None:
    acts = agent.receive(encode(Command(id="p", method="ping", params={"a": [1, "é"]})), T0)
    assert sent(acts) == Success(id="p", result={"a": [1, "é"]})


def test_a_ping_whose_answer_would_not_fit_ends_the_session(agent: Session) -> None:
    text = '{"version":"1","id":"p","method":"ping","params":{"a":[' + ",".join(["1e9"] * 260_000) + "]}}"
    assert "bytes, the limit is" in refused(agent.receive(text, T0))


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"a":' * 65,
        '{"version":"1","id":"a","method":"ping","params":{"a":1,"a":2}}',
        b"\xff",
        "x" * (MESSAGE_LIMIT + 1),
    ],
    ids=lambda text: repr(text)[:20],
)
def test_what_is_no_message_is_told_so_and_the_session_ends(
    side: Side, text: str | bytes, server: Session, agent: Session
) -> None:
    session = server if side is Side.SERVER else agent
    assert refused(session.receive(text, T0))
    assert session.is_closed
    assert session.receive(encode(STATUS), T0) == []
    assert session.next_due is None
    assert session.due(T0 + 9 * BEAT) == []
    assert session.refuse("again") == []
    with pytest.raises(Refused, match="the session is closed"):
        session.send_command(STATUS, T0)


def test_fatal_is_not_answered_and_its_text_is_shown_harmless(server: Session) -> None:
    (close,) = server.receive(encode(Fatal(text="\x1b[2J go away")), T0)
    assert close == Close(reason="the other side refused: '\\x1b[2J go away'")


def test_a_refusal_can_always_be_said(server: Session) -> None:
    assert refused(server.refuse("\ud800\0é" * 10_000))


def test_a_bad_welcome_ends_the_agents_session() -> None:
    agent = opened(Side.AGENT)
    agent.send_command(HELLO, T0)
    bad = Success(id="h1", result={**WELCOME.result, "heartbeat": 0})
    assert "result.heartbeat" in refused(agent.receive(encode(bad), T0))


def test_a_stranger_may_say_64_kib_and_no_byte_more() -> None:
    def of_size(length: int) -> str:
        text = encode(HELLO)
        return text[:-1] + ',"pad":"' + "x" * (length - len(text) - 9) + '"}'

    assert len(of_size(FIRST_CONTACT.size)) == FIRST_CONTACT.size
    assert opened(Side.SERVER).receive(of_size(FIRST_CONTACT.size), T0) == [Deliver(command=HELLO)]
    assert "65536 bytes" in refused(opened(Side.SERVER).receive(of_size(FIRST_CONTACT.size + 1), T0))


def test_being_refused_gives_a_stranger_neither_bytes_nor_time() -> None:
    server = opened(Side.SERVER)
    for attempt in range(1000):
        acts = server.receive(encode(HELLO), T0)
        if not isinstance(acts[0], Deliver):
            break
        server.answer(Failure(id="h1", code=Code.REFUSED, msg="no"), T0 + attempt * SECOND / 1000)
        assert server.next_due == T0 + FIRST_CONTACT.time
    assert "65536 bytes" in refused(acts)


def test_a_silent_stranger_is_shut_out_after_10_s() -> None:
    server = opened(Side.SERVER)
    assert server.next_due == T0 + FIRST_CONTACT.time
    assert server.due(T0 + FIRST_CONTACT.time - SECOND) == []
    assert refused(server.due(T0 + FIRST_CONTACT.time)) == "no hello within 10 s"


def test_the_servers_own_slowness_shuts_nobody_out() -> None:
    server = opened(Side.SERVER)
    server.receive(encode(HELLO), T0)
    assert server.next_due is None
    assert server.due(T0 + timedelta(hours=1)) == []


def test_an_agent_waits_for_its_welcome_for_so_long() -> None:
    agent = opened(Side.AGENT)
    assert agent.next_due is None
    agent.send_command(HELLO, T0 + SECOND)
    assert agent.next_due == T0 + SECOND + WELCOME_LIMIT
    (close,) = agent.due(T0 + SECOND + WELCOME_LIMIT)
    assert isinstance(close, Close)


def test_silence_is_broken_by_three_pings_and_then_ends(server: Session) -> None:
    ids = []
    for beat in range(1, 4):
        assert server.next_due == T0 + beat * BEAT
        assert server.due(T0 + beat * BEAT - SECOND) == []
        ping = sent(server.due(T0 + beat * BEAT))
        assert isinstance(ping, Command)
        assert ping.method == "ping"
        ids.append(ping.id)
        assert server.due(T0 + beat * BEAT) == []
    assert len(set(ids)) == 3
    assert not server.unanswered
    assert server.due(T0 + 4 * BEAT) == [Close(reason="3 pings were not answered")]


def test_whatever_is_received_breaks_the_silence(server: Session) -> None:
    for beat in range(1, 10):
        ping = sent(server.due(T0 + beat * BEAT))
        assert isinstance(ping, Command)
        assert server.receive(encode(Success(id=ping.id, result={})), T0 + beat * BEAT) == []
    assert server.receive(encode(STATUS), T0 + 9 * BEAT + 5 * SECOND) == [Deliver(command=STATUS)]
    assert server.next_due == T0 + 10 * BEAT + 5 * SECOND


def test_pings_that_are_never_answered_take_no_memory(server: Session) -> None:
    for beat in range(1, 1000):
        assert sent(server.due(T0 + beat * BEAT))
        server.receive(encode(Success(id="other", result={})), T0 + beat * BEAT)
    assert len(server._asked) == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_session_cut_at_any_byte_delivers_what_was_whole_and_nothing_else(data: st.DataObject) -> None:
    script = [
        HELLO,
        STATUS,
        Command(id="s2", method="log", params={"msg": "é\n"}),
        Command(id="s3", method="x", params={}),
    ]
    stream = b"".join(encode(command).encode() + b"\n" for command in script)
    cut = data.draw(st.integers(0, len(stream)))
    whole = stream[:cut].count(b"\n")
    server, lines = opened(Side.SERVER), Lines()
    found: list[Act] = []
    position = 0
    while position < cut:
        step = data.draw(st.integers(1, cut - position))
        for line in lines.feed(stream[position : position + step]):
            found += server.receive(line, T0)
            if len(found) == 1:
                server.answer(WELCOME, T0)
        position += step
    assert found == [Deliver(command=command) for command in script[:whole]]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(Side),
    st.lists(
        st.binary(max_size=20)
        | st.text(max_size=20)
        | st.sampled_from([HELLO, ENROL, RELAY, RUN, STATUS, WELCOME, Fatal(text="x")]).map(encode)
        | st.dictionaries(
            st.sampled_from("version id method params result error fatal_error seq epoch".split()),
            st.sampled_from(["1", "h1", "hello", {}, {"msg": "no"}, None, 1, []]),
        ).map(json.dumps),
        max_size=6,
    ),
    st.integers(0, 60),
)
def test_garbage_never_raises_and_ends_with_a_word(side: Side, texts: list[str | bytes], seconds: int) -> None:
    session = opened(side)
    if side is Side.AGENT:
        session.send_command(HELLO, T0)
    for text in texts:
        acts = session.receive(text, T0) + session.due(T0 + seconds * SECOND)
        closes = [act for act in acts if isinstance(act, Close)]
        assert bool(closes) <= session.is_closed
        assert not closes or acts[-1] == closes[0]
        for act in acts:
            if isinstance(act, Send):
                parse(act.text)
            if isinstance(act, Deliver) and side is Side.SERVER and act.command.method in ("hello", "enrol", "relay"):
                session.answer(Failure(id=act.command.id, code=Code.REFUSED, msg="no"), T0)


# A host and its own machine


def _host(*, is_parked: bool = False) -> Session:
    return Session(side=Side.SERVER, heartbeat=BEAT, now=T0, is_host=True, is_parked=is_parked)


def test_a_host_wakes_a_machine_that_says_that_it_is_parked_and_welcomes_it_then() -> None:
    host = _host()
    with pytest.raises(Refused, match="wake: not before hello is answered"):
        host.send_command(Command(id="w", method="wake", params={}), T0)
    parked = Command(id="p", method="parked", params={})
    assert host.receive(encode(parked), T0) == [Deliver(command=parked)]
    host.answer(Success(id="p", result={}), T0)
    assert host.is_parked
    for method in ("script.run", "task.cancel"):
        with pytest.raises(Refused, match="not before hello is answered"):
            host.send_command(Command(id=method, method=method, params={}), T0)
    wake = Command(id="w", method="wake", params={})
    host.send_command(wake, T0)
    woken = Success(id="w", result={"boot_id": "b+1"})
    assert host.receive(encode(woken), T0) == [Answered(request=wake, response=woken)]
    assert not host.is_welcome


def test_a_host_waits_for_its_machine_as_long_as_it_takes_to_boot() -> None:
    assert _host().next_due is None
    assert _host(is_parked=True).next_due is None


def test_a_machine_that_was_parked_is_welcome_no_more() -> None:
    host = _host(is_parked=True)
    host.send_command(Command(id="p", method="park", params={}), T0)
    host.receive(encode(Success(id="p", result={})), T0)
    assert (host.is_parked, host.is_welcome) == (True, False)


def test_a_server_refuses_a_machine_that_is_nobody() -> None:
    server = Session(side=Side.SERVER, heartbeat=BEAT, now=T0)
    acts = server.receive(encode(Command(id="p", method="parked", params={})), T0)
    assert acts[-1] == Close(reason="parked: nobody but its host says who a machine is")
