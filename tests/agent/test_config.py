"""config.apply with the real ansible; of puppet and chef the command lines and what their codes and records mean."""

import hashlib
import http.server
import json
import os
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from paddock.agent import fetching
from paddock.agent.entry import Outcome
from paddock.agent.skills import config, programs
from paddock.agent.skills.config.chef import CHEF
from paddock.agent.skills.config.puppet import PUPPET
from paddock.agent.skills.config.tool import Recipe
from paddock.agent.skills.skill import Program
from paddock.core.errors import Broken, Refused
from paddock.hands.launcher import Launcher
from paddock.wire.fields import BadParams
from paddock.wire.messages import Code
from tests.agent.conftest import Host
from tests.agent.desk import Desk
from tests.agent.doing import Doer

ansible = pytest.mark.skipif(not programs.find("ansible-playbook"), reason="ansible-core is not installed")
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: the file says hello
      ansible.builtin.copy:
        dest: "{{ place }}"
        content: "hello {{ who }}\\n"
"""
BROKEN = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.command: touch {{ place }}
    - ansible.builtin.command: "false"
"""


class Applying:
    """The skill in a directory."""

    def __init__(self, doer: Doer) -> None:
        self.doer = doer
        deed = config.methods(doer.place)["config.apply"]
        assert isinstance(deed, Program)
        self.deed = deed
        self.last = doer.call("config.apply", tool="ansible", content="")

    async def apply(self, **params: Any) -> Outcome:
        self.last = self.doer.call("config.apply", **{"tool": "ansible", **params})
        return await self.doer.do(self.deed, self.last)

    @property
    def output(self) -> str:
        return self.doer.output(self.last)

    def is_untouched(self) -> bool:
        """Whether nothing at all ran."""
        return not (self.last.directory / "output").exists()


@pytest.fixture
async def applying(tmp_path: Path) -> AsyncIterator[Applying]:
    async with Launcher() as launcher:
        yield Applying(Doer(tmp_path / "agent", launcher))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ---- ansible ---------------------------------------------------------------------------------------------------------


@ansible
@pytest.mark.slow
async def test_a_playbook_changes_a_file_and_then_nothing(applying: Applying, tmp_path: Path) -> None:
    place = tmp_path / "hello"
    params = {"content": PLAYBOOK, "variables": {"place": str(place), "who": "you"}}
    would = await applying.apply(**params, check=True)
    assert (would.result["state"], would.result["check"], place.exists()) == ("changed", True, False)
    assert "+hello you" in applying.output
    first = await applying.apply(**params)
    assert place.read_text() == "hello you\n"
    assert "the file says hello" in applying.output
    counts = {"ok": 1, "failures": 0, "unreachable": 0, "changed": 1, "skipped": 0, "rescued": 0, "ignored": 0}
    hosts = {"localhost": counts}
    assert first.result == {"tool": "ansible", "state": "changed", "exit": 0, "check": False, "hosts": hosts}
    second = await applying.apply(**params)
    assert second.result["state"] == "unchanged"
    assert second.result["hosts"] == {"localhost": {**counts, "changed": 0}}


@ansible
@pytest.mark.slow
async def test_a_playbook_that_fails_is_told_apart_with_what_it_had_changed(applying: Applying, tmp_path: Path) -> None:
    outcome = await applying.apply(content=BROKEN, variables={"place": str(tmp_path / "made")})
    assert (outcome.code, outcome.result["state"], outcome.result["exit"]) == (None, "failed", 2)
    hosts: Any = outcome.result["hosts"]
    assert (hosts["localhost"]["changed"], hosts["localhost"]["failures"]) == (1, 1)
    assert (tmp_path / "made").exists()


@ansible
@pytest.mark.slow
@pytest.mark.parametrize("content", ["- hosts: [", "not a playbook", "- hosts: all\n  tasks:\n    - nonsense: 1"])
async def test_what_is_no_playbook_is_failed_and_never_unchanged(applying: Applying, content: str) -> None:
    outcome = await applying.apply(content=content)
    assert (outcome.code, outcome.result["state"], outcome.result["hosts"]) == (None, "failed", {})
    assert outcome.result["exit"] != 0


@ansible
@pytest.mark.slow
async def test_a_playbook_for_no_host_is_unchanged(applying: Applying) -> None:
    outcome = await applying.apply(content="- hosts: others\n  tasks: []\n")
    assert (outcome.result["state"], outcome.result["hosts"]) == ("unchanged", {})


@ansible
@pytest.mark.slow
async def test_an_agent_fetches_verifies_and_applies_a_playbook(desk: Desk, host: Host, tmp_path: Path) -> None:
    host.start(PATH=programs.path())
    place = tmp_path / "hello"
    with served({"/site.yml": PLAYBOOK}) as address:
        params = {"tool": "ansible", "url": f"{address}/site.yml", "variables": {"place": str(place), "who": "agent"}}
        await desk.ask(desk.command("c1", "config.apply", **params, sha256="0" * 64))
        status = await desk.final("c1")
        assert status.code is Code.REFUSED
        assert digest(PLAYBOOK) in (status.msg or "")
        assert not place.exists()
        await desk.ask(desk.command("c2", "config.apply", **params, sha256=digest(PLAYBOOK)))
        status = await desk.final("c2", limit=60)
    assert (status.state, (status.result or {})["state"]) == ("complete", "changed")
    assert place.read_text() == "hello agent\n"
    assert b"the file says hello" in await desk.whole("c2")


@ansible
@pytest.mark.slow
async def test_a_playbook_that_is_being_fetched_can_be_cancelled(desk: Desk, host: Host) -> None:
    host.start(PATH=programs.path())
    with silent() as address:
        params = {"tool": "ansible", "url": f"{address}/site.yml", "sha256": "0" * 64}
        await desk.ask(desk.command("c1", "config.apply", **params))
        await desk.ask(desk.command("c2", "task.cancel", task_id="c1"))
        assert (await desk.final("c1", limit=10)).code is Code.CANCELLED


@ansible
@pytest.mark.slow
async def test_an_agent_that_is_killed_meanwhile_tells_what_became_of_it(
    desk: Desk, host: Host, tmp_path: Path
) -> None:
    waiting = """
    - ansible.builtin.command: touch {{ place }}
    - ansible.builtin.wait_for: {path: "{{ place }}.go", sleep: 1, timeout: 60}
"""
    content = f"- hosts: all\n  gather_facts: false\n  tasks:{waiting}"
    host.start(PATH=programs.path())
    params = {"tool": "ansible", "content": content, "variables": {"place": str(tmp_path / "made")}}
    await desk.ask(desk.command("c1", "config.apply", **params))
    await desk.until((tmp_path / "made").exists)
    host.kill()
    (tmp_path / "made.go").touch()
    host.start(PATH=programs.path())
    status = await desk.final("c1", limit=60)
    assert (status.state, (status.result or {})["state"]) == ("complete", "changed")
    assert (await desk.whole("c1")).count(b"PLAY RECAP") == 1


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.org/a.yml", "http to another machine"),
        ("http://127.0.0.1.example.org/a.yml", "http to another machine"),
        ("https://user:secret@example.org/a.yml", "a user or a password"),
        ("ftp://example.org/a.yml", "neither https"),
        ("file://example.org/a.yml", "neither https"),
        ("file:a.yml", "neither https"),
        ("/etc/passwd", "neither https"),
        ("https:///a.yml", "neither https"),
        ("https://example.org:port/a.yml", "ort could not be cast"),
        ("http://[::1", "Invalid IPv6 URL"),
    ],
)
def test_a_url_that_is_not_taken_is_refused_before_it_is_asked(url: str, why: str) -> None:
    assert why in fetching.objection(url)


@pytest.mark.parametrize("url", ["https://example.org/a", "http://127.0.0.1:8/a", "http://[::1]/a", "file:///a/b"])
def test_a_url_that_is_taken(url: str) -> None:
    assert fetching.objection(url) == ""


@ansible
@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"url": "https://example.org/a.yml"}, "params.sha256"),
        ({"url": "http://example.org/a.yml", "sha256": "0" * 64}, "params.url"),
        ({"tool": "puppet", "content": "", "variables": {"a": {"b": 1}}}, "params.variables['a']"),
    ],
)
async def test_params_that_do_not_go_together_are_named(applying: Applying, params: dict[str, Any], path: str) -> None:
    with pytest.raises(BadParams) as refused:
        await applying.apply(**params)
    assert refused.value.path == path
    assert applying.is_untouched()


@ansible
@pytest.mark.slow
async def test_content_with_another_digest_is_refused(applying: Applying) -> None:
    with pytest.raises(Refused, match=digest(PLAYBOOK)):
        await applying.apply(content=PLAYBOOK, sha256="0" * 64)
    assert applying.is_untouched()


@pytest.mark.slow
async def test_a_tool_that_is_missing_is_refused_by_name_and_where_to_get_it(
    applying: Applying, monkeypatch: pytest.MonkeyPatch
) -> None:
    if programs.find(*CHEF.programs):
        pytest.skip("chef is installed here")
    with pytest.raises(Refused, match="chef-client: is not installed on this machine; Chef Infra Client, or Cinc"):
        await applying.apply(tool="chef", content="")
    assert applying.is_untouched()


# ---- fetching --------------------------------------------------------------------------------------------------------


class _Pages(http.server.BaseHTTPRequestHandler):
    pages: dict[str, str]

    def do_GET(self) -> None:
        page = self.pages.get(self.path)
        if page is not None and page.startswith("-> "):
            self.send_response(302)
            self.send_header("Location", page[3:])
            self.end_headers()
            return
        self.send_response(200 if page is not None else 404)
        self.end_headers()
        self.wfile.write((page or "").encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(pages: dict[str, str], context: ssl.SSLContext | None = None) -> Iterator[str]:
    handler = type("Pages", (_Pages,), {"pages": pages})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def fetch(url: str, into: Path, *, sha256: str, most: int = 1000, limit: float = 10) -> None:
    await fetching.fetch(fetching.Wanted(url=url, sha256=sha256, most=most), into, limit=timedelta(seconds=limit))


async def test_a_file_is_fetched_whole_or_not_at_all(tmp_path: Path) -> None:
    with served({"/a": "hello", "/there": "-> /a"}) as address:
        await fetch(f"{address}/there", tmp_path / "a", sha256=digest("hello"))
        assert (tmp_path / "a").read_text() == "hello"
        with pytest.raises(Refused, match=f"its sha256 is {digest('hello')}, not 0000"):
            await fetch(f"{address}/a", tmp_path / "b", sha256="0" * 64)
        with pytest.raises(Refused, match="more than 4 bytes"):
            await fetch(f"{address}/a", tmp_path / "b", sha256=digest("hello"), most=4)
        with pytest.raises(Broken, match="Not Found"):
            await fetch(f"{address}/b", tmp_path / "b", sha256=digest("hello"))
    with pytest.raises(Broken, match="Connection refused"):
        await fetch(f"{address}/a", tmp_path / "b", sha256=digest("hello"))
    assert os.listdir(tmp_path) == ["a"]


async def test_a_redirection_to_where_nobody_may_be_asked_is_refused(tmp_path: Path) -> None:
    with served({"/a": "-> http://example.org/a", "/b": "-> file:///etc/passwd"}) as address:
        for name in ("a", "b"):
            with pytest.raises((Refused, Broken)):
                await fetch(f"{address}/{name}", tmp_path / "a", sha256=digest("hello"))
    assert os.listdir(tmp_path) == []


async def test_a_file_of_this_machine_is_taken_where_the_place_allows(tmp_path: Path) -> None:
    (tmp_path / "source file").write_text("hello")
    await fetch(f"file://{tmp_path}/source%20file", tmp_path / "a", sha256=digest("hello"))
    assert (tmp_path / "a").read_text() == "hello"

    def nowhere(path: str) -> Path:
        raise Refused(f"{path}: lies outside")

    wanted = fetching.Wanted(url=f"file://{tmp_path}/a", sha256=digest("hello"), most=9, resolve=nowhere)
    with pytest.raises(Refused, match="lies outside"):
        await fetching.fetch(wanted, tmp_path / "b", limit=timedelta(seconds=5))


@pytest.fixture
def untrusted(tmp_path: Path) -> ssl.SSLContext:
    """A server's certificate that no authority has signed."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    if subprocess.run(["openssl", *words, "-keyout", key, "-out", certificate], capture_output=True).returncode:
        pytest.skip("openssl made no certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.slow
async def test_a_certificate_that_nobody_trusts_ends_it(tmp_path: Path, untrusted: ssl.SSLContext) -> None:
    with served({"/a": "hello"}, untrusted) as address, pytest.raises(Broken, match="CERTIFICATE_VERIFY_FAILED"):
        await fetch(f"{address}/a", tmp_path / "a", sha256=digest("hello"))


async def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with silent() as address, pytest.raises(Broken, match=r"is not here after 0.05 s"):
        await fetch(f"{address}/a", tmp_path / "a", sha256="0" * 64, limit=0.05)


# ---- puppet and chef -------------------------------------------------------------------------------------------------


def recipe(tmp_path: Path, **more: Any) -> Recipe:
    return Recipe(file=tmp_path / "file", directory=tmp_path, **more)


def test_puppet_is_asked_in_its_own_words(tmp_path: Path) -> None:
    fixed = ("apply", "--detailed-exitcodes", "--color=false", f"--lastrunfile={tmp_path}/results")
    assert PUPPET.command(recipe(tmp_path)) == (*fixed, f"{tmp_path}/file")
    asked = recipe(tmp_path, check=True, variables={"who": "you", "many": 2, "sure": True})
    assert PUPPET.command(asked) == (*fixed, "--noop", f"{tmp_path}/file")
    assert PUPPET.env(asked) == {"FACTER_who": "you", "FACTER_many": "2", "FACTER_sure": "true"}


@pytest.mark.parametrize(
    ("exit", "state"),
    [(0, "unchanged"), (1, "failed"), (2, "changed"), (4, "failed"), (6, "failed"), (137, "failed")],
)
def test_the_detailed_exit_codes_of_puppet(tmp_path: Path, exit: int, state: str) -> None:
    (tmp_path / "results").write_text("---\nresources:\n  changed: 1\n  total: 8\nevents:\n  total: 1\n")
    verdict = PUPPET.judge(recipe(tmp_path), exit)
    assert (verdict.state, verdict.counts) == (state, {"resources": {"changed": 1, "total": 8}})


def test_a_dry_run_of_puppet_tells_by_what_is_out_of_sync(tmp_path: Path) -> None:
    dry = recipe(tmp_path, check=True)
    for count, state in ((0, "unchanged"), (2, "changed")):
        (tmp_path / "results").write_text(f"resources:\n  changed: 0\n  out_of_sync: {count}\n")
        assert PUPPET.judge(dry, 0).state == state
    (tmp_path / "results").write_text("{broken")
    assert PUPPET.judge(dry, 0).counts == {"resources": {}}


def test_chef_is_asked_in_its_own_words(tmp_path: Path) -> None:
    fixed = ("--local-mode", "--config", "client.rb", "--no-color", "--force-formatter")
    assert CHEF.command(recipe(tmp_path)) == (*fixed, f"{tmp_path}/file")
    asked = recipe(tmp_path, check=True, variables={"a": [1]})
    assert CHEF.command(asked) == (*fixed, "--json-attributes", "attributes.json", "--why-run", f"{tmp_path}/file")
    assert json.loads(CHEF.files(asked)["attributes.json"]) == {"a": [1]}


@pytest.mark.parametrize(
    ("exit", "changed", "state"),
    [
        (0, 0, "unchanged"),
        (0, 3, "changed"),
        (35, 1, "changed"),
        (37, 1, "changed"),
        (1, 1, "failed"),
        (41, 1, "failed"),
        (213, 0, "failed"),
    ],
)
def test_the_exit_codes_of_chef_and_its_report(tmp_path: Path, exit: int, changed: int, state: str) -> None:
    (tmp_path / "results").write_text(json.dumps({"resources": {"total": 5, "changed": changed}}))
    verdict = CHEF.judge(recipe(tmp_path), exit)
    assert (verdict.state, verdict.counts) == (state, {"resources": {"total": 5, "changed": changed}})


def test_chef_without_its_report_is_failed_even_if_it_exits_well(tmp_path: Path) -> None:
    assert CHEF.judge(recipe(tmp_path), 0).state == "failed"


@pytest.mark.skipif(not programs.find(*PUPPET.programs), reason="puppet is not installed")
@pytest.mark.slow
async def test_a_manifest_changes_a_file_and_then_nothing(applying: Applying, tmp_path: Path) -> None:
    content = f"file {{ '{tmp_path}/hello': ensure => file, content => \"hello ${{facts['who']}}\" }}"
    params = {"tool": "puppet", "content": content, "variables": {"who": "you"}}
    assert (await applying.apply(**params, check=True)).result["state"] == "changed"
    assert (await applying.apply(**params)).result["state"] == "changed"
    assert (tmp_path / "hello").read_text() == "hello you"
    assert (await applying.apply(**params)).result["state"] == "unchanged"
    assert (await applying.apply(**{**params, "content": "nonsense {"})).result["state"] == "failed"


@pytest.mark.skipif(not programs.find(*CHEF.programs), reason="chef is not installed")
@pytest.mark.slow
async def test_a_recipe_changes_a_file_and_then_nothing(applying: Applying, tmp_path: Path) -> None:
    content = f"file '{tmp_path}/hello' do\n  content node['who']\nend\n"
    params = {"tool": "chef", "content": content, "variables": {"who": "you"}}
    assert (await applying.apply(**params, check=True)).result["state"] == "changed"
    assert (await applying.apply(**params)).result["state"] == "changed"
    assert (tmp_path / "hello").read_text() == "you"
    assert (await applying.apply(**params)).result["state"] == "unchanged"
