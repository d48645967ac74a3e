"""`paddock agent configure`: the tree it makes, what it keeps, what it refuses, and that twice changes nothing."""

import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paddock.agent import identity, origin
from paddock.agent.__main__ import _parser, run
from paddock.agent.commands import filling
from paddock.agent.identity import Identity
from paddock.agent.keys import CLOUDS, KEYS
from paddock.agent.origin import Origin

URL = "wss://ci.example.org/agent"
SEED = """Amazon, Atmos, ATT, Azure, Bluelock, CloudCentral, CloudSigma, CloudStack, CloudStack3, Eucalyptus, GoGrid,
    Google, IBM, Joyent, OpenStack, Rackspace, ServerExpress, Terremark, VMware, Other"""

Configure = Callable[..., tuple[int, str, str]]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "base"


@pytest.fixture
def configure(base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Configure:
    """`configure("--cloud", "Other", stdin="...")` → exit code, stdout, stderr; on `base` unless told otherwise."""
    monkeypatch.delenv("PADDOCK_AGENT_CODE", raising=False)

    def said(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        place = () if {"-p", "-r", "--base-path"} & set(words) else ("-p", str(base))
        code = run(["configure", "--no-service", *place, *words])
        out, err = capsys.readouterr()
        return code, out, err

    return said


def conf(base: Path) -> Path:
    return base / "etc/agent.conf"


def value(base: Path, name: str) -> str:
    found = re.findall(rf"^{name} =(.*)$", conf(base).read_text(), flags=re.MULTILINE)
    assert len(found) == 1, name
    return str(found[0]).strip()


def picture(base: Path) -> dict[str, Any]:
    """Everything that can be seen of a tree, times included."""
    seen = {}
    for path in sorted([base, *base.rglob("*")]):
        found = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        seen[str(path.relative_to(base))] = (found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, content)
    return seen


# The tree


def test_it_makes_the_tree_with_its_modes(configure: Configure, base: Path) -> None:
    code, out, err = configure("--url", URL, "--code-file", "-", stdin="code-1\n")
    assert (code, err) == (0, "")
    modes = {
        str(path.relative_to(base)): oct(stat.S_IMODE(path.stat().st_mode))[2:] for path in [base, *base.rglob("*")]
    }
    assert modes == {
        ".": "755",
        "bin": "755",
        "cache": "700",
        "etc": "750",
        "etc/agent.conf": "640",
        "etc/logging.yaml": "640",
        "etc/paddock-agent.service": "644",
        "log": "750",
        "state": "700",
        "state/code": "600",
        "work": "755",
    }
    assert f"wrote {conf(base)}" in out
    assert (base / "state/code").read_text() == "code-1\n"
    assert "code-1" not in conf(base).read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")
def test_the_user_owns_state_work_and_logs_and_reads_the_rest(configure: Configure, base: Path) -> None:
    assert configure("--url", URL, "--user", "nobody", "--code-file", "-", stdin="code-1")[0] == 0
    nobody = __import__("pwd").getpwnam("nobody")
    owners = {str(path.relative_to(base)): (path.stat().st_uid, path.stat().st_gid) for path in base.rglob("*")}
    for name in ("state", "work", "log", "state/code"):
        assert owners[name] == (nobody.pw_uid, nobody.pw_gid)
    for name in ("etc", "etc/agent.conf", "etc/logging.yaml"):
        assert owners[name] == (0, nobody.pw_gid)
    assert owners["bin"] == (0, 0)


def test_every_key_stands_there_with_what_it_means(configure: Configure, base: Path) -> None:
    configure("--url", URL)
    text = conf(base).read_text()
    for key in KEYS:
        explained = "".join(f"# {line}\n" for line in key.doc.splitlines())
        assert re.search(rf"{re.escape(explained)}{key.name} =", text), key.name
    assert max(map(len, text.splitlines())) <= 120


# Twice


def test_twice_changes_nothing(configure: Configure, base: Path) -> None:
    words = ("--url", URL, "--cloud", "amazon", "--skills", "script,file", "--code-file", "-")
    assert configure(*words, stdin="code-1")[0] == 0
    before = picture(base)
    code, out, _ = configure(*words, stdin="code-1")
    assert (code, out.splitlines()[0]) == (0, f"{conf(base)}: nothing changed")
    assert picture(base) == before
    code, out, _ = configure("-r", str(conf(base)), "--json")
    assert (code, json.loads(out)["changed"]) == (0, [])
    assert picture(base) == before


def test_a_mode_that_was_changed_is_mended(configure: Configure, base: Path) -> None:
    configure("--url", URL)
    (base / "state").chmod(0o755)
    out = configure("--url", URL)[1]
    assert f"owner or mode of {base}/state" in out
    assert stat.S_IMODE((base / "state").stat().st_mode) == 0o700


def test_an_enrolled_agent_keeps_its_identity_and_the_code_is_not_used(configure: Configure, base: Path) -> None:
    configure("--url", URL)
    identity.save(base / "state", Identity(agent="a-1", token="t"))
    code, out, _ = configure("--url", URL, "--code-file", "-", stdin="code-2")
    assert code == 0
    assert "enrolled already, as a-1; the code was not used" in out
    assert not (base / "state/code").exists()


def test_a_copy_of_an_enrolled_disk_takes_the_code_of_its_own(
    configure: Configure, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("--url", URL)
    identity.save(base / "state", Identity(agent="a-1", token="t"))
    here = Origin(product_uuid="5a7f2f6e-0d1c-4d53-9f3e-0c8a1b2c3d4e", machine_id="1" * 32)
    monkeypatch.setattr(origin, "look", lambda root: here)
    origin.record(base / "state", here)
    assert configure("--url", URL, "--code-file", "-", stdin="code-2")[0] == 0
    assert not (base / "state/code").exists()
    origin.record(base / "state", Origin(product_uuid="7b1e9c52-63f4-4a1d-8f60-91d2e3f4a5b6", machine_id="1" * 32))
    code, out, _ = configure("--url", URL, "--code-file", "-", stdin="code-2")
    assert code == 0
    assert (base / "state/code").read_text() == "code-2\n"
    assert "the code was not used" not in out


# Reload


def test_reload_keeps_comments_hand_edits_and_unknown_keys(configure: Configure, base: Path) -> None:
    configure("--url", URL, "--cloud", "Google", "--log-level", "warning")
    file = conf(base)
    edited = file.read_text().replace("level = warning", "# of 3 March: too loud\nlevel=error")
    edited = (
        edited.replace("[skills]\n", "[skills]\n; mine\nfuture-key = 7\n    and more\n") + "\n[other]\nkey : kept\n"
    )
    file.write_text(edited)
    code, _, err = configure("-r", str(file), "--cloud", "azure")
    assert code == 0
    assert file.read_text() == edited.replace("type = Google", "type = Azure")
    assert "[skills] future-key is not a key of this agent" in err
    assert "[other] key is not a key" in err


def test_reload_takes_the_files_values_as_defaults_and_options_go_before(configure: Configure, base: Path) -> None:
    configure("--url", URL, "--cloud", "Google", "--proxy", "http://proxy.example:3128", "--log-level", "error")
    assert configure("-r", str(conf(base)), "-u", "wss://two.example/agent", "-L", "DEBUG")[0] == 0
    assert value(base, "url") == "wss://two.example/agent"
    assert value(base, "level") == "debug"
    assert value(base, "proxy") == "http://proxy.example:3128"
    assert value(base, "type") == "Google"


def test_a_new_run_without_reload_does_not_throw_hand_edits_away(configure: Configure, base: Path) -> None:
    configure("--url", URL)
    conf(base).write_text(conf(base).read_text().replace("level = info", "level = error\nmine = 1"))
    assert configure("--url", URL, "--cloud", "IBM")[0] == 0
    assert value(base, "level") == "error"
    assert value(base, "mine") == "1"


def test_a_key_that_somebody_deleted_is_put_back_only_if_it_says_something(configure: Configure, base: Path) -> None:
    configure("--url", URL)
    conf(base).write_text(conf(base).read_text().replace("proxy =\n", ""))
    configure("-r", str(conf(base)))
    assert "proxy =" not in conf(base).read_text()
    configure("-r", str(conf(base)), "--proxy", "none")
    assert value(base, "proxy") == "none"
    assert conf(base).read_text().index("proxy = none") < conf(base).read_text().index("[cloud]")


def test_reload_to_another_base_takes_the_values_along(configure: Configure, base: Path, tmp_path: Path) -> None:
    configure("--url", URL, "--cloud", "Joyent")
    assert configure("-r", str(conf(base)), "-p", str(tmp_path / "new"))[0] == 0
    assert value(tmp_path / "new", "type") == "Joyent"
    assert value(tmp_path / "new", "configfile") == f"{tmp_path}/new/etc/logging.yaml"


def test_what_a_person_did_to_the_logging_file_stays(configure: Configure, base: Path) -> None:
    configure("--url", URL)
    (base / "etc/logging.yaml").write_text("version: 1\n# mine\n")
    configure("--url", URL, "--log-level", "debug")
    assert (base / "etc/logging.yaml").read_text() == "version: 1\n# mine\n"


# Values


def test_the_clouds_are_the_seeds() -> None:
    assert set(CLOUDS) == set(SEED.replace("\n", " ").replace(",", " ").split())


def test_a_cloud_is_taken_in_any_case(configure: Configure, base: Path) -> None:
    [key] = [key for key in KEYS if key.id == ("cloud", "type")]
    for cloud in CLOUDS:
        assert {key.checked(typed) for typed in (cloud, cloud.lower(), cloud.upper(), cloud.swapcase())} == {cloud}
    assert configure("--url", URL, "-c", "oPENsTACK")[0] == 0
    assert value(base, "type") == "OpenStack"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ((), "no server"),
        (("-u", "https://ci.example.org"), "hint: wss://ci.example.org/agent"),
        (("-u", "ws://ci.example.org/agent"), "in clear"),
        (("-u", URL, "-c", "mars"), "mars is none of Amazon"),
        (("-u", URL, "-L", "loud"), "loud is none of debug"),
        (("-u", URL, "--proxy", "gopher://x"), "not a proxy's URL"),
        (("-u", URL, "--pin", "abc"), "no SHA-256 fingerprint"),
        (("-u", URL, "--skills", "script,../x"), "../x is no skill's name"),
        (("-u", URL, "--on-boot", "maybe"), "neither yes nor no"),
        (("-u", URL, "--confined", "yes"), "acts on the whole machine"),
        (("-u", URL, "--line", "virtio:/dev/x"), "both a url and a line"),
        (("-u", URL, "--code", "a", "--code-file", "-"), "both --code and --code-file"),
        (("--what",), "hint: paddock agent"),
    ],
)
def test_what_cannot_be_meant_is_wrong_use_and_nothing_is_made(
    configure: Configure, base: Path, words: tuple[str, ...], what: str
) -> None:
    code, out, err = configure(*words)
    assert (code, out) == (2, "")
    assert what in err
    assert not base.exists()


def test_what_this_machine_does_not_have_is_refused_and_nothing_is_made(configure: Configure, base: Path) -> None:
    (base.parent / "no.pem").write_text("no certificate")
    for words in (("-U", "no-such-user"), ("-A", str(base.parent / "no.pem")), ("--code-file", "/no/such")):
        code, _, err = configure("-u", URL, *words)
        assert (code, err.startswith("paddock: agent: ")) == (3, True), err
        assert not base.exists()
    assert configure("-r", str(base / "etc/agent.conf"))[0] == 4


def test_a_code_among_the_words_is_taken_and_warned_about(configure: Configure, base: Path) -> None:
    code, _, err = configure("--url", URL, "--code", "code-9")
    assert code == 0
    assert "everybody on this machine can read it" in err
    assert (base / "state/code").read_text() == "code-9\n"


def test_a_code_may_come_by_the_environment(configure: Configure, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_AGENT_CODE", "code-8")
    assert configure("--url", URL)[0] == 0
    assert (base / "state/code").read_text() == "code-8\n"


def test_a_file_that_is_no_configuration_is_told_with_its_line(configure: Configure, base: Path) -> None:
    configure("--url", URL)
    for broken, what in (
        ("[connection]\nurl = wss://a/agent\nurl = wss://b/agent\n", ":3: [connection] url stands there twice"),
        ("[connection]\nnot a line of it\n", ":2: not understood: 'not a line of it'"),
        ("url = wss://a/agent\n", ":1: no section stands above it"),
        ("[logging]\n\nlevel = loud\n", ":3: [logging] level: loud is none of"),
    ):
        conf(base).write_text(broken)
        code, _, err = configure("-r", str(conf(base)))
        assert code == 3
        assert f"paddock: agent: {conf(base)}{what}" in err
        assert conf(base).read_text() == broken


def test_a_run_that_cannot_write_leaves_the_old_configuration_whole(
    configure: Configure, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("--url", URL)
    before = conf(base).read_bytes()
    (base / "etc/.agent.conf.new").mkdir()  # nothing can be written under that name, not even by root
    (base / "etc/.agent.conf.new/x").mkdir()
    code, _, err = configure("--url", "wss://two.example/agent")
    assert code in (1, 3)
    assert ".agent.conf.new" in err
    assert conf(base).read_bytes() == before
    shutil.rmtree(base / "etc/.agent.conf.new")
    (base / "etc/.agent.conf.new").write_text("half of a")  # what a killed run leaves
    assert configure("--url", "wss://two.example/agent")[0] == 0
    assert value(base, "url") == "wss://two.example/agent"
    assert not (base / "etc/.agent.conf.new").exists()


# Asking


def test_interactive_asks_with_defaults_and_again_with_what_was_wrong(configure: Configure, base: Path) -> None:
    configure("--url", URL, "--cloud", "Google")
    answers = [
        "https://ci.example.org",  # the URL, wrong
        "wss://two.example/agent",
        "12:34",  # the pin, wrong
        "",
        "/no/such/file",  # the authorities, wrong
        "",
        "none",  # the proxy
        "marsupial",  # the cloud, wrong
        "rackSPACE",
        "no-such-user",  # wrong
        "",
        "script, file",
        "WARNING",
        "perhaps",  # at boot, wrong
        "no",
        "two  words",  # the code, wrong
        "cödé",
        "code-7",
    ]
    code, out, err = configure("-i", stdin="\n".join(answers) + "\n")
    assert (code, err) == (0, "")
    assert f"Where the server is [{URL}]: " in out
    assert "not one of ws, wss, tcp, tls, unix" in out
    assert "is no SHA-256 fingerprint" in out
    assert "/no/such/file" in out
    assert "marsupial is none of" in out
    assert "no-such-user: there is no such user" in out
    assert "perhaps is neither yes nor no" in out
    assert out.count("holds no code") == 2
    names = ("url", "pin", "proxy", "type", "enabled", "level", "on-boot")
    assert {name: value(base, name) for name in names} == {
        "url": "wss://two.example/agent",
        "pin": "",
        "proxy": "none",
        "type": "Rackspace",
        "enabled": "script, file",
        "level": "warning",
        "on-boot": "no",
    }
    assert (base / "state/code").read_text() == "code-7\n"


def test_answers_that_end_too_early_change_nothing(configure: Configure, base: Path) -> None:
    code, _, err = configure("-i", stdin="wss://two.example/agent\n")
    assert code == 2
    assert "the answers ended before the questions" in err
    assert not base.exists()


@pytest.mark.slow
def test_at_a_terminal_the_answers_are_typed(base: Path) -> None:
    """With a pty, as a person has it; the empty answers take the defaults."""
    import pty

    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "paddock.agent", "configure", "-i", "--no-service"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, f"{base}\n{URL}\n".encode() + b"\n" * 9)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:
        pass  # how a terminal ends whose programs are gone
    finally:
        os.close(ours)
    assert child.wait(20) == 0, said.decode()
    assert b"The directory that holds all of the agent [/opt/paddock-agent]: " in said
    assert value(base, "url") == URL


# The service


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The file system of a machine that is not this one."""
    root = tmp_path / "image"
    (root / "etc/systemd/system").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nagent:x:4711:4712::/:/bin/false\n")
    return root


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root installs a service")


@needs_root
def test_an_image_gets_the_unit_and_boots_with_it(image: Path) -> None:
    words = ["configure", "--root", str(image), "--url", URL, "--user", "agent"]
    assert run(words) == 0
    unit = image / "etc/systemd/system/paddock-agent.service"
    text = unit.read_text()
    assert "--config /opt/paddock-agent/etc/agent.conf" in text
    assert str(image) not in text
    assert "User=agent" in text
    wanted = image / "etc/systemd/system/multi-user.target.wants/paddock-agent.service"
    assert os.readlink(wanted) == "/etc/systemd/system/paddock-agent.service"
    assert (image / "opt/paddock-agent/state").stat().st_uid == 4711
    before = picture(image)
    assert run(words) == 0
    assert picture(image) == before
    assert run([*words, "--on-boot", "no"]) == 0
    assert not wanted.is_symlink()


@needs_root
def test_no_service_installs_none(image: Path) -> None:
    assert run(["configure", "--root", str(image), "--url", URL, "--no-service"]) == 0
    assert list((image / "etc/systemd/system").iterdir()) == []
    assert (image / "opt/paddock-agent/etc/paddock-agent.service").exists()


@pytest.mark.slow
@needs_root
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("confined", ["no", "yes"])
def test_systemd_finds_nothing_wrong_with_the_unit(image: Path, confined: str, tmp_path: Path) -> None:
    words = ["--skills", "script,file,system", "--confined", confined]
    assert run(["configure", "--root", str(image), "--url", URL, *words]) == 0
    unit = image / "etc/systemd/system/paddock-agent.service"
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "paddock-agent" in line]
    assert ours == []
    text = unit.read_text()
    for line in ("Type=notify", "WatchdogSec=60", "Restart=always", "Delegate=yes", "KillMode=process"):
        assert f"\n{line}\n" in text
    assert ("NoNewPrivileges=yes" in text) == (confined == "yes")


@needs_root
def test_an_agent_on_a_line_waits_for_no_network(image: Path) -> None:
    """Its machine may have none, and systemd waits two minutes for one."""
    for words, waits in ((["--url", URL], True), (["--line", "virtio:/dev/virtio-ports/org.paddock.0"], False)):
        assert run(["configure", "--root", str(image), *words, "--skills", "script,file,system"]) == 0
        text = (image / "etc/systemd/system/paddock-agent.service").read_text()
        assert ("network-online" in text) == waits


# What cannot be meant


@pytest.mark.parametrize("how", ["--code", "--code-file"])
@pytest.mark.parametrize("code", ["two words", "c\u00f6de", "a\x1b[2J", ""])
def test_a_code_that_cannot_be_one_is_refused_before_anything_is_made(
    configure: Configure, base: Path, tmp_path: Path, how: str, code: str
) -> None:
    (tmp_path / "code").write_text(code)
    given = code if how == "--code" else str(tmp_path / "code")
    failed, _, err = configure("--url", URL, how, given)
    assert failed
    assert "holds no code" in err
    assert not base.exists()


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--line", "unix:/x\nfoo = bar"),
        ("--line", "unix:/x\r"),
        ("--proxy", "http://x\n[system]"),
        ("--proxy", "http://x\u2028y"),
        ("--metadata-url", "http://x/\x1b"),
    ],
)
def test_a_value_stays_one_value(configure: Configure, base: Path, option: str, given: str) -> None:
    code, _, err = configure(*(() if option == "--line" else ("--url", URL)), option, given)
    assert code == 2
    assert "characters that do not print" in err
    assert not base.exists()


@pytest.mark.parametrize("words", [("-p", ""), ("-r", ""), ("--root", "")])
def test_an_empty_path_names_nothing(configure: Configure, tmp_path: Path, words: tuple[str, str]) -> None:
    code, _, err = configure("--url", URL, *words)
    assert code == 2
    assert "empty" in err


def test_whatever_the_umask_its_user_can_enter(configure: Configure, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert configure("--url", URL, "-p", str(tmp_path / "um/a/b"))[0] == 0
    finally:
        os.umask(before)
    made = [tmp_path / part for part in ("um", "um/a", "um/a/b", "um/a/b/work")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o755] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["um"]


@pytest.mark.parametrize(
    ("words", "state", "work"),
    [
        ((), "base/state", "base/work"),
        (("--state", "other"), "other", "other/work"),
        (("--state", "other", "--work", "w"), "other", "w"),
    ],
)
def test_a_state_that_is_named_has_its_own_work(
    configure: Configure,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    state: str,
    work: str,
) -> None:
    configure("--url", URL)
    monkeypatch.chdir(tmp_path)
    chosen = _parser().parse_args(["run", "--config", str(conf(base)), *words])
    filling.fill(chosen)
    assert (chosen.state, chosen.work or chosen.state / "work") == (tmp_path / state, tmp_path / work)
