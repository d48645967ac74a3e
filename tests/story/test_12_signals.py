"""SIGTERM stops the server within 5 s whatever is open; SIGHUP takes new settings, or says why it does not."""

import signal
import threading
import time

import httpx
import pytest

from tests.story.house import RECHECK, House, assert_whole, waiting

pytestmark = pytest.mark.slow

CONFIG = """
- environment: {{name: single, machines: [{{name: one}}], host: local, max: 1}}
- job: {{name: long, environment: single, trusted: true, steps: [{{run: '{script}'}}]}}
- project: {{name: openstack-dev/ci-sandbox, jobs: [long]}}
"""


def test_a_stop_takes_5_s_at_most_and_the_next_start_takes_the_run_up(paddock: House) -> None:
    gate = paddock.directory / "gate"
    paddock.configure(CONFIG.format(script=waiting("main", gate)))
    paddock.tell(RECHECK)
    paddock.start_server()
    paddock.start_agent()
    run = paddock.in_phase("main")
    opened = threading.Barrier(4, timeout=20)

    def follow(path: str) -> None:
        with (
            httpx.Client(verify=False, timeout=30) as client,
            client.stream("GET", f"{paddock.url}{path}") as answer,
        ):
            pieces = answer.iter_bytes()
            next(pieces)
            opened.wait()
            for _ in pieces:
                pass

    def wait_for_a_lease() -> None:
        opened.wait()
        paddock.post("leases", pool="single", holder="waits", ttl=60, wait=60)

    acts = [
        lambda: follow(f"/runs/{run['id']}/log/main-1-one/live"),
        lambda: follow("/live?topics=now,events"),
        wait_for_a_lease,
    ]
    waiters = [threading.Thread(target=quietly, args=(act,), daemon=True) for act in acts]
    for waiter in waiters:
        waiter.start()
    opened.wait()
    paddock.until(lambda: paddock.get("leases", state="queued")["items"], "a lease waits")

    began = time.monotonic()
    assert paddock.server is not None
    paddock.server.send_signal(signal.SIGTERM)
    assert paddock.server.wait(timeout=10) == 0
    assert time.monotonic() - began < 5
    for waiter in waiters:
        waiter.join(timeout=5)
        assert not waiter.is_alive(), "whoever waited is told"

    assert paddock.tasks(), "the run goes on meanwhile"
    paddock.start_server()
    gate.touch()
    done = paddock.run("done")
    assert (done["id"], done["verdict"]) == (run["id"], "success")
    assert_whole(paddock.step_log(run["id"], "main-1-one"), "main")
    assert len(paddock.until_reported()) == 1
    lease = paddock.get("leases", state=["queued", "granted"], owner="operator")["items"][0]
    granted = paddock.granted(lease["id"])
    paddock.post(f"leases/{lease['id']}/release", fence=granted["fence"])
    paddock.until_environments("ready")
    assert not paddock.tasks()


def quietly(act: "object") -> None:
    """A cut connection is what is expected here."""
    assert callable(act)
    try:
        act()
    except (httpx.HTTPError, AssertionError):
        pass


def test_a_reload_takes_what_is_right_and_refuses_what_is_wrong_with_its_place(paddock: House) -> None:
    config = CONFIG.format(script="echo once")
    paddock.configure(config)
    paddock.start_server()
    paddock.start_agent()
    assert paddock.server is not None

    paddock.configure(config + "- environment: {name: other, machines: [{name: two}], host: local, min-ready: 1}\n")
    paddock.server.send_signal(signal.SIGHUP)
    (other,) = paddock.until_environments("ready")
    assert (other["pool"], [machine["name"] for machine in other["machines"]]) == ("other", ["two"])

    paddock.configure(config + "- environment: {name: other, machines: [{name: two}], host: local, mix-ready: 1}\n")
    paddock.server.send_signal(signal.SIGHUP)
    health = paddock.until(lambda: ailing(paddock), "the server says that it does not like this")
    assert "mix-ready" in health["configuration"]
    assert "paddock.yaml:" in health["configuration"]
    assert [one["state"] for one in paddock.get("environments")["items"]] == ["ready"], "what was right stays"

    paddock.configure(config)
    paddock.server.send_signal(signal.SIGHUP)
    paddock.until(lambda: not ailing(paddock), "all is well again")
    paddock.until(lambda: not paddock.get("environments")["items"], "the pool that is gone is taken down")
    assert not list(paddock.agent_state.glob("machines/*"))


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("listen", "listen: '127.0.0.1:1'"),
        ("state", "state: /somewhere/else"),
        ("store", "store: 'sqlite:////somewhere/else.sqlite'"),
        ("tls", "tls: {certificate: /somewhere/c.pem, key: /somewhere/k.pem}"),
    ],
)
def test_a_reload_of_what_is_read_once_is_refused_whole(paddock: House, name: str, instead: str) -> None:
    paddock.configure("")
    paddock.start_server()
    assert paddock.server is not None
    before = paddock.config.read_text()
    paddock.server.send_signal(signal.SIGHUP)
    paddock.until(lambda: b"configuration was reloaded" in server_log(paddock), "the same file is taken again")
    assert not ailing(paddock), "the port that --listen gave is no change of the file"

    line, _, rest = before.partition("\n")
    kept = [part for part in line[len("- server: {") : -1].split(", ") if not part.startswith(f"{name}:")]
    pool = "- environment: {name: other, machines: [{name: two}], host: local}\n"
    paddock.config.write_text(f"- server: {{{', '.join([instead, *kept])}}}\n{rest}{pool}")
    paddock.server.send_signal(signal.SIGHUP)
    health = paddock.until(lambda: ailing(paddock), "the server says that it does not do this")
    assert health["configuration"].endswith(f"paddock.yaml: server.{name} changed: that needs a restart")
    answer = httpx.get(f"{paddock.url}/environments")
    assert answer.status_code == 200
    assert "other" not in answer.text, "nothing else of that file is taken"

    paddock.config.write_text(before + pool)
    paddock.server.send_signal(signal.SIGHUP)
    paddock.until(lambda: not ailing(paddock), "all is well again")
    assert "other" in httpx.get(f"{paddock.url}/environments").text


def server_log(paddock: House) -> bytes:
    return (paddock.directory / "server.log").read_bytes()


def ailing(paddock: House) -> dict[str, str]:
    answer = httpx.get(f"{paddock.url}/healthz")
    reasons: dict[str, str] = answer.json()["reasons"]
    assert answer.status_code == (503 if reasons else 200)
    return reasons
