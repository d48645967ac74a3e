"""The line that `paddock host add` prints, run by a shell against a real server over TLS, below a temporary base."""

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paddock.agent import identity
from paddock.cli.stage import examples
from paddock.hands import trees
from paddock.hands.launcher import read_keeper

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    *(
        pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")
        for tool in ("curl", "openssl", "dash")
    ),
]


@dataclass(frozen=True, kw_only=True)
class Certificate:
    certificate: Path
    key: Path


def certify(directory: Path, name: str) -> Certificate:
    """A certificate for 127.0.0.1 that nobody but itself has signed."""
    made = Certificate(certificate=directory / f"{name}.pem", key=directory / f"{name}.key")
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    words += ["-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run(words, check=True, capture_output=True)
    return made


class Site:
    """A server with a certificate of its own."""

    def __init__(self, directory: Path, url: str, state: Path, certificate: Path) -> None:
        self.directory = directory
        self.url = url
        self.state = state
        self._context = ssl.create_default_context(cafile=str(certificate))

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        token = (self.state / "operator.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}{path}", data=data, headers=headers)
        with urllib.request.urlopen(request, context=self._context) as answer:
            return json.loads(answer.read())

    def add(self) -> str:
        """The line that makes a machine the host."""
        return str(self.ask("/api/v1/enrolments", {"host": "local", "ttl": 3600})["command"])

    def host(self) -> Any:
        return self.ask("/api/v1/hosts/local")

    def until_online(self) -> None:
        deadline = time.monotonic() + 30
        while self.host()["state"] != "online":
            assert time.monotonic() < deadline, self.host()
            time.sleep(0.05)


@contextlib.contextmanager
def serving(directory: Path, by: Certificate, listen: str = "127.0.0.1:0") -> Iterator[Site]:
    kept = [line for line in (examples() / "demo" / "paddock.yaml").read_text().splitlines() if "server:" not in line]
    state = directory / "server"
    tls = f"tls: {{certificate: {by.certificate}, key: {by.key}}}"
    server = f'- server: {{listen: "{listen}", state: {state}, {tls}}}'
    (directory / "paddock.yaml").write_text("\n".join([server, *kept]) + "\n")
    env = {**os.environ, "XDG_STATE_HOME": str(directory / "xdg")}
    with (directory / "server.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "paddock", "serve", str(directory / "paddock.yaml"), "--json"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=env,
        )
    try:
        assert child.stdout is not None
        yield Site(directory, json.loads(child.stdout.readline())["url"], state, by.certificate)
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(20)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path, certify(tmp_path, "one")) as made:
        yield made


Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """Where the agent goes; what was started from there is ended."""
    made = tmp_path / "base"
    yield made
    found = identity.signed_in(made / "state") if (made / "state").is_dir() else None
    left = [found] if found else []
    for directory in made.glob("state/tasks/*"):
        keeper = read_keeper(directory)
        left += [keeper] if keeper is not None and trees.is_alive(keeper) else []
    trees.kill(lambda: left)


@pytest.fixture
def shell(base: Path, tmp_path: Path) -> Shell:
    """Run a line as dash does; its own options come after the code."""
    home = tmp_path / "home"
    home.mkdir()

    def run(line: str, *options: str, **env: str) -> "subprocess.CompletedProcess[str]":
        more = " ".join(["--base-path", str(base), "--no-service", "--cloud", "none", *options])
        environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(home), **env}
        command = ["dash", "-c", f"{line} {more}"]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=home)

    return run


def test_the_line_installs_an_agent_that_comes_online(site: Site, shell: Shell, base: Path, tmp_path: Path) -> None:
    line = site.add()
    assert "-k --pinnedpubkey 'sha256//" in line
    done = shell(line)
    assert done.returncode == 0, done.stderr
    assert f"wrote {base}/bin/paddock-agent.pyz" in done.stdout
    conf = (base / "etc/agent.conf").read_text()
    assert f"url = wss{site.url.removeprefix('https')}/agent" in conf
    code = line.rsplit(maxsplit=1)[-1]
    assert code not in conf
    assert (base / "state/code").read_text().strip() == code
    assert (base / "state/code").stat().st_mode & 0o777 == 0o600
    assert list((tmp_path / "home").iterdir()) == [], "nothing is left beside the base"
    with running(base):
        site.until_online()
        assert not (base / "state/code").exists()
        # Once more, with a new code, while it runs: nothing changes, and the code stays good.
        before = picture(base)
        again = shell(site.add())
        assert again.returncode == 0
        assert "nothing changed" in again.stdout
        assert "the code was not used" in again.stdout
        assert picture(base) == before
        agents = [base / "bin/paddock-agent.pyz", "status"]
        said = subprocess.check_output([sys.executable, *map(str, agents)], text=True)
        assert f"connected to wss{site.url.removeprefix('https')}/agent since" in said


def picture(base: Path) -> dict[str, Any]:
    kept = [path for name in ("bin", "etc") for path in (base / name).rglob("*")]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}


@contextlib.contextmanager
def running(base: Path) -> Iterator[None]:
    """What the unit would start."""
    with (base.parent / "agent.log").open("ab") as log:
        child = subprocess.Popen([sys.executable, "-I", str(base / "bin/paddock-agent.pyz"), "run"], stderr=log)
    try:
        yield
    finally:
        child.terminate()
        child.wait(20)


def test_another_servers_certificate_is_refused_by_the_line_and_by_the_agent(
    tmp_path: Path, shell: Shell, base: Path
) -> None:
    own, other = certify(tmp_path, "own"), certify(tmp_path, "other")
    with serving(tmp_path, own) as site:
        line = site.add()
        assert shell(line).returncode == 0
        address = site.url.removeprefix("https://")
    shutil.rmtree(base / "bin")
    with serving(tmp_path, other, address) as site:
        done = shell(line)
        assert "public key does not match pinned public key" in done.stderr
        assert not (base / "bin").exists(), "nothing was fetched and nothing was run"
        words = ["run", "--config", str(base / "etc/agent.conf"), "--json"]
        child = subprocess.Popen([sys.executable, "-m", "paddock.agent", *words], stderr=subprocess.PIPE, text=True)
        try:
            assert child.stderr is not None
            told = next(event for text in child.stderr if (event := json.loads(text))["event"] == "link is over")
        finally:
            child.terminate()
            child.communicate(timeout=20)
        assert "not the pinned one" in told["why"]
        assert (base / "state/code").exists(), "the code was told to nobody"
        assert site.host()["state"] == "joining"


def test_a_file_that_is_not_what_was_announced_is_not_run(site: Site, shell: Shell, base: Path) -> None:
    """A proxy that changes what it passes on, or an old copy of the script."""
    line = site.add()
    fetch, _, rest = line.partition(" | ")
    done = shell(f"{fetch} | sed 's/^offers=.*/offers=\"paddock-agent.pyz {'0' * 64}\"/; /^paddock-agent/d' | {rest}")
    assert done.returncode == 1
    assert "is not what" in done.stderr
    assert not base.exists()


def test_without_a_python_it_says_what_to_do_or_takes_the_standalone_agent(
    site: Site, shell: Shell, base: Path, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("curl", "sh", "sed", "cut", "sha256sum", "uname", "mktemp", "rm", "mkdir", "cat", "dash"):
        (tools / name).symlink_to(str(shutil.which(name)))
    done = shell(site.add(), PATH=str(tools))
    assert done.returncode == 1
    assert "no Python 3.11" in done.stderr
    assert "paddock agent bundle --standalone" in done.stderr
    assert not base.exists()
    # What is offered under that name is a script; this one only tells what it was asked.
    offered = site.state / "agent"
    offered.mkdir()
    (offered / f"paddock-agent-{os.uname().machine}").write_text('echo "$@"; cat\n')
    line = site.add()
    done = shell(line, PATH=str(tools))
    assert done.returncode == 0, done.stderr
    words, code = done.stdout.splitlines()[:2]
    assert words.startswith("configure --pin ")
    assert words.endswith("--code-file -")
    assert code == line.rsplit(maxsplit=1)[-1]
    assert code not in words


def test_an_image_is_installed_below_its_root(site: Site, shell: Shell, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root installs a service")
    root = tmp_path / "image"
    (root / "etc/systemd/system").mkdir(parents=True)
    line = f"{site.add()} --root {root} --cloud none #"
    done = shell(line)
    assert done.returncode == 0, done.stderr
    unit = (root / "etc/systemd/system/paddock-agent.service").read_text()
    assert "ExecStart=/usr/bin/python3 -I /opt/paddock-agent/bin/paddock-agent.pyz run" in unit
    assert (root / "opt/paddock-agent/bin/paddock-agent.pyz").exists()
