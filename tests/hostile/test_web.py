"""A run whose every text is hostile, on the real server: pages stay inert, odd requests get an answer, never a 5xx."""

import asyncio
import copy
import html.parser
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx
import pytest
import schemathesis
import schemathesis.errors
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from paddock.web.roles import API, ROUTES
from tests.hostile.peers import Memory, is_well, open_files
from tests.story.house import RECHECK, ROOT, House, house

pytestmark = pytest.mark.slow

MARK = "evil1337"
SCRIPT = f"<script>{MARK}()</script><img src=x onerror={MARK}()>\"'><svg/onload={MARK}()>"
FILE = f"logs/a<img src=x onerror={MARK}()>\"'&.html"
SECRET = "pdk_" + "Zz9-" * 8

CONFIG = """
- environment: {name: pair, machines: [{name: one}], host: local, max: 1}
- job:
    name: pair
    environment: pair
    trusted: true
    steps:
      - name: work
        run: |
          printf '%s\\n' "$PADDOCK_SUBJECT" || true
          printf '<script>evil1337()</script>\\033]0;owned\\007\\033[31m\\"><img src=x onerror=evil1337()>\\033[0m\\n'
          printf '\\033]8;;javascript:evil1337()\\033\\\\click\\033]8;;\\033\\\\ https://example.org/"onclick=evil1337()\\n'
          mkdir -p "$PADDOCK_RESULTS/logs"
          printf '<script>evil1337()</script>' > "$PADDOCK_RESULTS/FILE"
          ln -s /etc/passwd "$PADDOCK_RESULTS/logs/passwd"
          printf '<svg xmlns="http://www.w3.org/2000/svg" onload="evil1337()"/>' > "$PADDOCK_RESULTS/logs/x.svg"
    after:
      - run: |
          cat > "$PADDOCK_RESULTS/result.xml" <<'XML'
          <testsuite name="&lt;script&gt;evil1337()&lt;/script&gt;"><testcase classname="&lt;b onclick=evil1337()&gt;"
            name="&lt;script&gt;evil1337()&lt;/script&gt;"><failure message="&lt;img src=x onerror=evil1337()&gt;">
            &lt;script&gt;evil1337()&lt;/script&gt;</failure></testcase></testsuite>
          XML
    results: ["*.xml"]
    artifacts: ["logs/**"]
- project: {name: openstack-dev/ci-sandbox, branches: [master], jobs: [pair]}
"""


INERT = ("text/plain", "application/json", "application/octet-stream", "image/", "text/css")


def hostile() -> dict[str, Any]:
    event: dict[str, Any] = copy.deepcopy(RECHECK)
    event["change"]["subject"] = f"subject {SCRIPT}"
    event["change"]["url"] = f"javascript:{MARK}()"
    event["change"]["topic"] = SCRIPT
    event["change"]["owner"] = {"name": SCRIPT, "email": SCRIPT, "username": SCRIPT}
    event["author"] = {"name": f"author {SCRIPT}", "email": f"a@b{SCRIPT}", "username": f"me{SCRIPT}"}
    address = "https://me:hunter2-hunter2@example.org/"
    event["comment"] = f"Patch Set 1:\n\n{SCRIPT}\nmy-ci recheck\n\x1b[2J {address} {SECRET}"
    return event


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("web")) as built:
        built.configure(CONFIG.replace("FILE", FILE.replace('"', '\\"')))
        built.tell(hostile())
        built.start_server()
        built.start_agent()
        built.until_reported()
        yield built


def links(text: str) -> set[str]:
    found = Inspector()
    found.feed(text)
    return found.links


class Inspector(html.parser.HTMLParser):
    """What a browser would see: which elements and attributes could do something."""

    HARMLESS: ClassVar = {"script"}

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.dangers: list[str] = []
        self._is_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_script = tag == "script"
        for name, value in attrs:
            if name.startswith("on"):
                self.dangers.append(f"<{tag} {name}={value}>")
            if name in ("href", "src", "action", "formaction", "data"):
                if (value or "").strip().lower().startswith(("javascript:", "data:text", "vbscript:")):
                    self.dangers.append(f"<{tag} {name}={value}>")
                elif tag == "a" and (value or "").startswith("/"):
                    self.links.add(str(value).partition("#")[0])
        if tag in ("iframe", "object", "embed", "base") or (tag == "img" and dict(attrs).get("src") == "x"):
            self.dangers.append(f"<{tag} {attrs}>")

    def handle_data(self, data: str) -> None:
        if self._is_script and MARK in data:
            self.dangers.append(f"<script>{data}")

    def handle_endtag(self, tag: str) -> None:
        self._is_script = False


def test_no_page_of_a_hostile_run_does_anything(web: House) -> None:
    seen: set[str] = set()
    todo, shown = {"/", "/events", "/runs", "/runs/1/", "/environments", "/hosts", "/leases"}, 0
    with httpx.Client(base_url=web.url, timeout=30) as client:
        while todo and len(seen) < 150:
            address = todo.pop()
            seen.add(address)
            answer = client.get(address, headers={"Accept": "text/html"})
            assert answer.status_code < 500, address
            assert answer.headers["x-content-type-options"] == "nosniff", address
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy, address
            assert "unsafe" not in policy, address
            assert "pdk_" not in answer.text, address
            kind = answer.headers.get("content-type", "")
            if not kind.startswith("text/html"):
                assert kind.startswith(INERT), (address, kind)
                continue
            page = Inspector()
            page.feed(answer.text)
            if "sandbox" not in policy:
                assert not page.dangers, (address, page.dangers)
                shown += MARK in answer.text
                todo |= page.links - seen
    assert {"/runs/1/", "/changes/review/189221", "/events"} <= seen, seen
    assert shown >= 4, "the hostile words are there to be seen"


def test_artifacts_are_inert_whatever_they_are_called(web: House) -> None:
    run = web.get("runs/1")
    paths = [one.get("path") or one["name"] for one in run["artifacts"]]
    assert any(MARK in path for path in paths), run
    assert not any("passwd" in path for path in paths)
    for path in paths:
        answer = httpx.get(
            f"{web.url}/runs/1/artifacts/{path}"
            if "%" in path
            else httpx.URL(web.url).copy_with(path=f"/runs/1/artifacts/{path}")
        )
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"].startswith("sandbox"), path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"].startswith(INERT), path
        assert not answer.headers["content-type"].startswith("image/svg"), path


def test_lines_of_a_log_come_out_as_text_without_codes(web: House) -> None:
    page = web.text("/runs/1/")
    merged = web.get("runs/1/lines")
    assert MARK in json.dumps(merged)
    with httpx.Client(base_url=web.url) as client:
        lines = client.get("/runs/1/log/main-1-one/lines").text
    assert MARK in lines
    for text in (page, lines):
        assert "\x1b" not in text
        assert f"<script>{MARK}" not in text
        assert "javascript:" not in text.replace("&#", "") or 'href="javascript' not in text


def test_secrets_of_a_comment_are_on_no_page_and_in_no_answer(web: House) -> None:
    (event,) = web.get("events")["items"]
    told = json.dumps(web.get(f"events/{event['id']}")) + web.text(f"/events/{event['id']}") + web.text("/events")
    assert "hunter2-hunter2" not in told
    assert SECRET not in told


def test_no_log_and_no_answer_holds_a_token_or_a_code(web: House) -> None:
    secrets = {(web.state / "operator.token").read_text().strip(), web.post("enrolments", host="local")["code"]}
    identity = json.loads((web.agent_state / "identity").read_text())
    secrets |= {identity["token"], identity["agent"] + ":" + identity["token"]}
    made = web.post("tokens", name="somebody", role="lab")["secret"]
    answers = [
        web.get(path) for path in ("tokens", "agents", f"agents/{identity['agent']}", "hosts/local", "events", "runs/1")
    ]
    told = json.dumps(answers) + web.text("/metrics") + web.text("/healthz")
    logs = (web.directory / "server.log").read_text() + (web.directory / "agent.log").read_text()
    for secret in secrets | {made}:
        assert secret not in told
        assert secret not in logs
    assert "pdk_" not in logs
    # Nor are they at rest where a copy of the store would hand them out.
    for file in (web.state / "paddock.sqlite", web.state / "paddock.sqlite-wal"):
        for secret in secrets | {made}:
            assert secret.encode() not in file.read_bytes()


def test_a_password_in_the_configuration_is_in_no_complaint_about_it(tmp_path: Path) -> None:
    config = tmp_path / "paddock.yaml"
    for store in (
        "postgresql://paddock:hunter2-hunter2@127.0.0.1:1/paddock",
        "nosuch://paddock:hunter2-hunter2@127.0.0.1/x",
        "postgresql://paddock:hunter2-hunter2@[::1/x",
    ):
        config.write_text(f'- server: {{listen: "127.0.0.1:0", state: {tmp_path / "state"}, store: "{store}"}}\n')
        argv = [sys.executable, "-m", "paddock", "serve", str(config)]
        ended = subprocess.run(
            argv, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}
        )
        assert ended.returncode != 0
        assert ended.stderr.strip()
        assert "hunter2-hunter2" not in ended.stdout + ended.stderr, ended.stderr


ODD_PATHS = [
    "/runs/1/artifacts/../../../../etc/passwd",
    "/runs/1/artifacts/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/runs/1/artifacts/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/runs/1/artifacts/%2fetc%2fpasswd",
    "/runs/1/artifacts//etc/passwd",
    "/runs/1/artifacts/one%00/x",
    "/runs/1/artifacts/%00",
    "/runs/1/artifacts/" + "a/" * 3000,
    "/runs/1/artifacts/" + "x" * 10_000,
    "/runs/1/artifacts/one/logs/passwd",
    "/runs/1/artifacts/%ff%fe",
    "/runs/1/artifacts/%u0000",
    "/runs/1/results/../../artifacts/one/x",
    "/runs/1/log/..%2f..%2foperator.token",
    "/runs/1/log/%00",
    "/runs/1/log/main-1-one%2f..%2fmain-1-one",
    "/runs/%2e%2e/",
    "/runs/99999999999999999999999999/",
    "/runs/-1/",
    "/runs/1%00/",
    "/static/..%2f..%2fserver.py",
    "/static/%2e%2e/%2e%2e/server.py",
    "/static/%00",
    "/api/v1/runs/1/log/..%2f..%2f",
    "/api/v1/runs/%00",
    "/api/v1/events/%ed%a0%80",
    "/api/v1/changes/review/99999999999999999999999",
    "/agents/..%2f..%2foperator.token",
    "/changes/..%2f../1",
    "/\xff",
    "//example.org/",
]


def raw(paddock: House, text: bytes, *, within: float = 10) -> bytes:
    """One request as it is written here, and everything that comes back."""
    parts = urlsplit(paddock.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=within) as sock:
        sock.sendall(text)
        data = b""
        try:
            while piece := sock.recv(65536):
                data += piece
        except (ConnectionResetError, TimeoutError):
            pass
        return data


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def test_an_odd_path_leads_nowhere(web: House) -> None:
    for path in ODD_PATHS:
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode("latin-1")
        answer = raw(web, request)
        assert 300 <= status(answer) < 500, (path, answer[:200])
        for found in (b"root:", b"import asyncio", b"pdk_"):
            assert found not in answer, path


def test_odd_requests_get_an_answer_and_no_5xx(web: House) -> None:
    token = f"Authorization: Bearer {(web.state / 'operator.token').read_text().strip()}\r\n"
    lease = "POST /api/v1/leases HTTP/1.1\r\nHost: x\r\n" + token
    made = "POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\n" + token
    deep = "[" * 100_000
    half = '{"pool": "\ud83d"}'.encode("utf-8", "surrogatepass").decode("latin-1")
    requests = [
        "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nCookie: paddock=\x01\x02;;;=\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nCookie: " + "a=b;" * 5000 + "\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + "x" * 20_000 + "\r\n\r\n",
        "GET /api/v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: \xff\xfe\r\n\r\n",
        "GET /api/v1/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xe4\xf6\r\n\r\n",
        lease + f"Content-Length: {len(deep)}\r\n\r\n" + deep,
        made + f"Content-Type: application/json\r\nContent-Length: {len(deep)}\r\n\r\n" + deep,
        lease + "Content-Length: 99999999999\r\n\r\n",
        lease + "Content-Length: -1\r\n\r\n",
        lease + f"Content-Length: {len(half)}\r\n\r\n" + half,
        lease + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "PROPFIND / HTTP/1.1\r\nHost: x\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://169.254.169.254/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /live?topics=" + "a," * 1000 + " HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /runs?below=%00&limit=1e9 HTTP/1.1\r\nHost: x\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]
    for request in requests:
        text = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
        answer = raw(web, text.encode("latin-1"), within=3)
        assert status(answer) < 500, (request[-90:], answer[:300])
        assert status(answer) >= 200, (request[-90:], answer[:300])
    assert is_well(web)


def test_a_body_over_a_mebibyte_is_refused(web: House) -> None:
    token = (web.state / "operator.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"name": "x" * (1 << 20), "role": "lab"})
    for path in ("/api/v1/tokens", "/api/v1/leases"):
        assert httpx.post(web.url + path, content=body, headers=headers).status_code == 413

        def chunks() -> Iterator[bytes]:
            for _ in range(40):
                yield b"x" * 65536

        try:
            assert httpx.post(web.url + path, content=chunks(), headers=headers).status_code == 413
        except httpx.TransportError:
            pass  # it hung up before we had said it all
    assert is_well(web)


def test_slow_headers_and_bodies_are_cut_and_long_ones_refused(web: House) -> None:
    assert web.server is not None
    files, memory = open_files(web.server.pid), Memory(web.server.pid)
    memory.begin()
    parts = urlsplit(web.url)
    place = (parts.hostname or "", parts.port or 0)
    slow = [socket.create_connection(place, timeout=15) for _ in range(300)]
    for number, sock in enumerate(slow):
        if number % 2:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    ending = threading.Event()

    def drip() -> None:
        while not ending.wait(1):
            for sock in slow[1::2]:
                try:
                    sock.sendall(b"x")
                except OSError:
                    return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        answer = raw(web, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Long: " + b"y" * (1 << 20), within=5)
        assert status(answer) in (400, 431) or answer == b""
        assert is_well(web)
        began = time.monotonic()
        for sock in slow:
            try:
                assert sock.recv(100) == b""
            except ConnectionResetError:
                pass
        assert time.monotonic() - began < 13
    finally:
        ending.set()
        dripping.join()
        for sock in slow:
            sock.close()
    time.sleep(0.3)
    assert open_files(web.server.pid) <= files + 5
    assert memory.grew < 40


async def test_two_hundred_long_polls_do_not_keep_others_waiting(web: House) -> None:
    assert web.server is not None
    memory = Memory(web.server.pid)
    memory.begin()
    limits = httpx.Limits(max_connections=250)
    async with httpx.AsyncClient(base_url=web.url, timeout=60, limits=limits) as client:
        token = (web.state / "operator.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        # All environments are one; who comes after waits in the queue.
        taken = [
            (await client.post("/api/v1/leases", json={"pool": "pair", "holder": "me"}, headers=headers)).json()
            for _ in range(2)
        ]
        waiting = taken[1]["id"]
        polls = [asyncio.create_task(client.get(f"/api/v1/leases/{waiting}", params={"wait": 5})) for _ in range(200)]
        await asyncio.sleep(0.5)
        began = time.perf_counter()
        for _ in range(10):
            assert (await client.get("/api/v1/hosts")).status_code == 200
        assert time.perf_counter() - began < 2
        assert {answer.status_code for answer in await asyncio.gather(*polls)} == {200}
        for lease in taken:
            await client.post(f"/api/v1/leases/{lease['id']}/cancel", headers=headers)
            await client.post(
                f"/api/v1/leases/{lease['id']}/release", json={"fence": lease.get("fence") or 0}, headers=headers
            )
    assert memory.grew < 60


def test_a_button_works_for_a_session_on_our_own_page_alone(web: House) -> None:
    token = (web.state / "operator.token").read_text().strip()
    with httpx.Client(base_url=web.url) as client:
        entered = client.post("/login", data={"token": token, "back": "//evil.example/"}, headers={"Origin": web.url})
        assert entered.status_code == 303
        assert entered.headers["location"].startswith("/")
        assert not entered.headers["location"].startswith("//")
        cookie = entered.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        for headers in (
            {},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": web.url, "Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            for path in ("/runs/1/retry", "/runs/1/cancel", "/api/v1/drain", "/api/v1/tokens"):
                answer = client.post(path, headers=headers)
                assert answer.status_code == 403, (path, headers, answer.text)
        assert len(web.get("runs")["items"]) == 1


@pytest.mark.parametrize("token", ["pdk_" + "x" * 40, "x", "é".encode().decode("latin-1")])
def test_an_unknown_token_is_refused_everywhere(web: House, token: str) -> None:
    headers = [(b"Authorization", b"Bearer " + token.encode("latin-1"))]
    asked = 0
    with httpx.Client(base_url=web.url, timeout=30, trust_env=False) as client:
        for method, route in ROUTES:
            if route.startswith(API):
                path = re.sub(r"\{[^}]*\}", "1", route)
                answer = client.request(method, path, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "no_token"), (method, route)
                assert answer.headers["www-authenticate"] == "Bearer", (method, route)
                assert token not in answer.text or token == "x", (method, route)
                asked += 1
    assert asked > 30, "every route of the API was asked, those that anyone may read too"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def test_no_request_that_the_schema_allows_or_forbids_meets_a_defect(web: House) -> None:
    token = (web.state / "operator.token").read_text().strip()
    schema = schemathesis.openapi.from_dict(httpx.get(f"{web.url}/openapi.json").json())
    schema.config.update(base_url=web.url)
    count, worst = 0, ""
    generation = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    with httpx.Client(base_url=web.url, timeout=30) as client:
        for found in schema.get_all_operations():
            operation = found.ok()  # type: ignore[union-attr]
            if operation.path.endswith("/drain") and operation.method == "post" and "hosts" not in operation.path:
                continue  # it would keep the tests after this one from running
            for mode in generation:

                @settings(
                    max_examples=6,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(case=operation.as_strategy(generation_mode=mode))
                def ask(case: Any) -> None:
                    nonlocal count, worst
                    sent = case.as_transport_kwargs(headers={"Authorization": f"Bearer {token}"})
                    if (sent.get("params") or {}).get("wait"):
                        sent["params"]["wait"] = 0
                    try:
                        answer = client.request(
                            sent["method"],
                            sent["url"],
                            params=sent.get("params"),
                            json=sent.get("json"),
                            headers=dict(sent["headers"]),
                        )
                    except (httpx.InvalidURL, UnicodeEncodeError, httpx.LocalProtocolError, ValueError, TypeError):
                        return
                    count += 1
                    assert answer.status_code < 500, (sent, answer.text)

                try:
                    ask()
                except schemathesis.errors.InvalidSchema:  # pragma: no cover
                    raise
                except BaseException as exc:
                    if type(exc).__name__ in ("Unsatisfiable", "SkipTest", "Skipped"):
                        continue  # nothing to forbid there
                    raise
    print(f"{count} requests")
    assert count > 200
    assert is_well(web)
