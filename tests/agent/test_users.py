"""user.add, user.remove, user.list with the system's real tools, in a room whose /etc and /home are lost afterwards."""

import base64
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.skills.skill import Call
from paddock.agent.skills.users import accounts, adding, keys, removing, sudoers
from paddock.core.errors import PaddockError, Refused
from paddock.wire import methods
from paddock.wire.fields import BadParams
from tests.agent.room import Room, opened

RULE = "ALL=(ALL:ALL) NOPASSWD: /usr/bin/true"


def key(number: int, comment: str = "somebody@somewhere") -> str:
    kind = b"ssh-ed25519"
    blob = len(kind).to_bytes(4, "big") + kind + bytes([0, 0, 0, 32]) + bytes([number] * 32)
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {comment}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    if shutil.which("visudo") is None:
        pytest.skip("there is no visudo here; on Debian: apt-get install sudo")
    before = _machine()
    room = opened("paddock.agent.skills.users", tmp_path_factory.mktemp("users") / "room")
    yield room
    room.close()
    assert _machine() == before, "the tests reached the machine itself"


def _machine() -> list[str]:
    passwd = Path("/etc/passwd").read_text("utf-8").splitlines()
    return [*passwd, *os.listdir("/etc/sudoers.d"), *os.listdir("/home")]


@pytest.fixture
def room(shared: Room) -> Iterator[Room]:
    shared.run("cp -a /etc/passwd /etc/shadow /etc/group /etc/gshadow /var/")
    yield shared
    shared.run("cp -a /var/passwd /var/shadow /var/group /var/gshadow /etc/")
    shared.run("rm -rf /home/* /etc/sudoers.d/paddock-* /etc/sudoers.d/other")


def _list(room: Room, name: str) -> dict[str, Any] | None:
    users = room.ask("user.list", name=name)["users"]
    return users[0] if users else None


# ---- added -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_user_is_made_as_described_and_again_changes_nothing(room: Room) -> None:
    wanted: dict[str, Any] = {
        "name": "ann",
        "uid": 4711,
        "shell": "/bin/sh",
        "comment": "Ann",
        "groups": ["users", "video"],
        "sudo": [RULE],
        "keys": [key(1)],
    }
    made = room.ask("user.add", **wanted)
    assert made["changed"] == ["account", "keys", "sudo"]
    assert (made["uid"], made["home"], made["shell"], made["comment"]) == (4711, "/home/ann", "/bin/sh", "Ann")
    assert (made["groups"], made["sudo"], made["keys"]) == (["users", "video"], True, 1)
    assert room.run("id -un 4711; stat -c %U /home/ann") == "ann\nann"
    assert room.ask("user.add", **wanted)["changed"] == []
    assert _list(room, "ann") == {name: value for name, value in made.items() if name != "changed"}


@pytest.mark.slow
def test_what_differs_is_changed_and_what_is_not_named_stays(room: Room) -> None:
    room.ask("user.add", name="ann", groups=["users", "video"], shell="/bin/sh", keys=[key(1)], sudo=[RULE])
    changed = room.ask("user.add", name="ann", groups=["video"], shell="/bin/bash")
    assert changed["changed"] == ["shell", "groups"]
    assert (changed["groups"], changed["shell"], changed["keys"], changed["sudo"]) == (["video"], "/bin/bash", 1, True)
    assert room.ask("user.add", name="ann", groups=[])["groups"] == []
    assert room.ask("user.add", name="ann", sudo=[])["changed"] == ["sudo"]
    assert room.attempt("test -e /etc/sudoers.d/paddock-ann")[0] == 1


@pytest.mark.slow
def test_an_add_that_was_killed_is_done_by_the_next(room: Room) -> None:
    room.run("useradd -M ann; touch /etc/sudoers.d/paddock-ann.paddock~")
    done = room.ask("user.add", name="ann", keys=[key(1)], sudo=[RULE])
    assert done["changed"] == ["directory", "keys", "sudo"]
    assert room.run("stat -c '%U %a' /home/ann") == "ann 700"
    assert room.run("ls -A /etc/sudoers.d") == "README\npaddock-ann"


@pytest.mark.slow
def test_sudo_rules_are_installed_as_sudo_wants_them(room: Room) -> None:
    room.ask("user.add", name="ann", sudo=[RULE, "ALL=(ann) /usr/bin/false"])
    assert room.run("stat -c '%a %U %G' /etc/sudoers.d/paddock-ann") == "440 root root"
    assert room.run("cat /etc/sudoers.d/paddock-ann") == f"ann {RULE}\nann ALL=(ann) /usr/bin/false"
    room.run("visudo -c")
    assert "/usr/bin/true" in room.run("sudo -l -U ann")


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", ["ALL=(ALL NOPASSWD", "not a rule", "ALL=(ALL) ALL\nbob ALL=(ALL) ALL", "ALL=(ALL) ALL \\", " "]
)
def test_a_rule_that_visudo_does_not_take_leaves_no_user_and_no_file(room: Room, rule: str) -> None:
    with pytest.raises(Refused, match="sudo"):
        room.ask("user.add", name="ann", sudo=[rule])
    assert _list(room, "ann") is None
    assert room.run("ls -A /etc/sudoers.d") == "README"
    assert room.attempt("test -e /home/ann")[0] == 1


@pytest.mark.slow
def test_a_file_laid_where_the_rules_go_is_never_written_through_or_taken(room: Room) -> None:
    """dcm-agent wrote `<user>-sudoer` where others could lay a file first, and moved that into sudoers.d."""
    room.run("ln -s /var/victim /etc/sudoers.d/paddock-ann.paddock~; ln -s /var/victim /etc/sudoers.d/paddock-bob")
    room.ask("user.add", name="ann", sudo=[RULE])
    assert room.attempt("test -e /var/victim")[0] == 1
    assert room.run("stat -c %F /etc/sudoers.d/paddock-ann") == "regular file"
    with pytest.raises(Refused, match="symbolic link"):
        room.ask("user.add", name="bob", sudo=[RULE])
    room.run("chmod 777 /etc/sudoers.d")
    with pytest.raises(Refused, match="others than root"):
        room.ask("user.add", name="carl", sudo=[RULE])
    room.run("chmod 755 /etc/sudoers.d")


@pytest.mark.slow
def test_keys_are_added_to_or_set_exactly_with_owner_and_mode(room: Room) -> None:
    room.ask("user.add", name="ann", keys=[key(1)])
    assert room.run("stat -c '%U %a' /home/ann/.ssh /home/ann/.ssh/authorized_keys") == "ann 700\nann 600"
    room.run("echo '# mine' >> /home/ann/.ssh/authorized_keys; chmod 666 /home/ann/.ssh/authorized_keys")
    assert room.ask("user.add", name="ann", keys=[key(2)])["keys"] == 2
    assert room.run("stat -c %a /home/ann/.ssh/authorized_keys") == "600"
    assert "# mine" in room.run("cat /home/ann/.ssh/authorized_keys")
    assert room.ask("user.add", name="ann", keys=[key(2)])["changed"] == []
    room.ask("user.add", name="ann", keys=[key(3)], keys_exact=True)
    assert room.run("cat /home/ann/.ssh/authorized_keys") == key(3)
    assert room.ask("user.add", name="ann", keys=[], keys_exact=True)["keys"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "laid",
    [
        "ln -s /var/lib/victim /home/ann/.ssh",
        "mkdir /home/ann/.ssh; ln -s /var/lib/victim/x /home/ann/.ssh/authorized_keys",
        "mkdir /home/ann/.ssh; mkfifo /home/ann/.ssh/authorized_keys",
        "mkdir /home/ann/.ssh; echo x > /home/ann/y; ln /home/ann/y /home/ann/.ssh/authorized_keys",
        "mkdir /home/ann/.ssh; chown daemon /home/ann/.ssh",
        "mv /home/ann /home/old; ln -s /var/lib/victim /home/ann",
    ],
)
def test_keys_are_never_written_through_what_a_user_laid(room: Room, laid: str) -> None:
    room.ask("user.add", name="ann")
    room.run(f"mkdir -p /var/lib/victim; {laid}")
    with pytest.raises(Refused):
        room.ask("user.add", name="ann", keys=[key(1)])
    assert room.run("ls -A /var/lib/victim") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"groups": ["no-such-group"]}, "group no-such-group: does not exist"),
        ({"group": "no-such-group"}, "group no-such-group: does not exist"),
        ({"shell": "/no/such/shell"}, "is no program"),
        ({"shell": "bin/sh"}, "is no program"),
        ({"home": "/etc"}, "no directory for a user"),
        ({"home": "/home/../etc"}, "no directory for a user"),
        ({"home": "/var/lib/dpkg"}, "there already"),
        ({"home": "/home/a:b"}, "cannot"),
        ({"comment": "a:b"}, "cannot"),
        ({"comment": "a\nb"}, "cannot"),
        ({"uid": 0}, "is not within"),
        ({"uid": 77777777777}, "is not within"),
        ({"keys": ["ssh-rsa nonsense"]}, "is cut or not"),
        ({"keys": [key(1).replace("ssh-ed25519 ", "ssh-rsa ")]}, "is cut or not"),
        ({"keys": [key(1) + "\n" + key(2)]}, "not one public key"),
        ({"keys": [f"# {key(1)}"]}, "not one public key"),
        ({"keys": ["-----BEGIN OPENSSH PRIVATE KEY-----"]}, "private key"),
        ({"name": "games"}, "name of the system"),
        ({"name": "sshd"}, "name of the system"),
        ({"name": "systemd-x"}, "name of the system"),
        ({"name": "video"}, "group of the system"),
    ],
)
def test_an_account_that_cannot_be_is_refused_before_anything_is_touched(
    room: Room, params: dict[str, Any], why: str
) -> None:
    before = room.run("cat /etc/passwd /etc/group /etc/shadow; ls -AR /home /etc/sudoers.d")
    with pytest.raises(Refused, match=why):
        room.ask("user.add", **{"name": "ann", **params})
    assert room.run("cat /etc/passwd /etc/group /etc/shadow; ls -AR /home /etc/sudoers.d") == before


@pytest.mark.parametrize(
    "name", ["", "-r", "../x", "a b", "a;reboot", "1234", "Ann", "a" * 33, "ann\n", "a:b", "a.b", "ann~", "ünn", "$x"]
)
@pytest.mark.parametrize("method", ["user.add", "user.remove"])
def test_a_name_that_is_none_reaches_no_tool(method: str, name: str) -> None:
    """dcm-agent passed the name of a user to remove to `pkill -u`, `sed` and `rm` as it came."""
    with pytest.raises(BadParams):
        methods.check(method, {"name": name})
    call = Call(task="t", method=method, params={"name": name}, environment="", fence=0, directory=Path("/nonexistent"))
    with pytest.raises(PaddockError):
        (adding.add if method == "user.add" else removing.remove)(call)


def test_who_is_not_root_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    call = Call(task="t", method="user.add", params={"name": "ann"}, environment="", fence=0, directory=Path("/x"))
    with pytest.raises(Refused, match="needs an agent that is root"):
        adding.add(call)


@pytest.mark.slow
def test_with_force_an_account_of_the_system_is_changed(room: Room) -> None:
    with pytest.raises(Refused, match="name of the system"):
        room.ask("user.add", name="games", groups=["video"])
    assert room.ask("user.add", name="games", groups=["video"], force=True, create_home=False)["groups"] == ["video"]


def test_keys_with_options_are_keys() -> None:
    line = f'restrict,command="echo a b" {key(1)}'
    assert keys.check([line]) == [line]


# ---- removed ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_user_is_removed_and_its_home_stays_unless_asked(room: Room) -> None:
    room.ask("user.add", name="ann", sudo=[RULE])
    removed = room.ask("user.remove", name="ann")
    assert removed["changed"] == ["sudo", "account"]
    assert room.run("ls /home") == "ann"
    assert room.ask("user.remove", name="ann")["changed"] == []
    room.ask("user.add", name="bob")
    room.run("mkdir /home/bob/deep; ln -s /etc /home/bob/deep/etc")
    assert room.ask("user.remove", name="bob", home=True)["changed"][-2:] == ["home", "account"]
    assert room.run("ls /home; ls /etc/passwd") == "ann\n/etc/passwd"


@pytest.mark.slow
def test_a_name_that_is_part_of_another_takes_nothing_of_it(room: Room) -> None:
    """dcm-agent deleted every line of sudoers that held the name, and so the rules of others."""
    for name in ("bob", "bobby", "xbob"):
        room.ask("user.add", name=name, sudo=[RULE], groups=["video"])
    room.run("echo 'bob ALL=(ALL) /usr/bin/id' > /etc/sudoers.d/other; chmod 440 /etc/sudoers.d/other")
    before = room.run("cat /etc/sudoers")
    room.ask("user.remove", name="bob", home=True)
    assert room.run("ls /etc/sudoers.d") == "README\nother\npaddock-bobby\npaddock-xbob"
    assert room.run("cat /etc/sudoers") == before
    assert room.run("ls /home") == "bobby\nxbob"
    assert [user["name"] for user in room.ask("user.list")["users"] if "bob" in user["name"]] == ["bobby", "xbob"]
    assert "bobby,xbob" in room.run("getent group video")


@pytest.mark.slow
def test_exactly_the_users_processes_end_those_that_do_not_listen_too(room: Room) -> None:
    uid = room.ask("user.add", name="ann", uid=4711)["uid"]
    other = room.ask("user.add", name="ann2", uid=47110)["uid"]
    deaf = "setpriv --reuid {} --clear-groups sh -c \"trap '' TERM; while :; do sleep 0.1; done\""
    started = [room.run(f"{deaf.format(number)} > /dev/null 2>&1 < /dev/null & echo $!") for number in (uid, other)]
    try:
        for number in (uid, other):
            room.run(f"until {_living(number)} | grep -q .; do :; done")
        assert room.ask("user.remove", name="ann", grace=0.2)["ended"] >= 1
        assert room.run(f"{_living(uid)} || true") == ""
        assert room.run(_living(other)) != ""
        room.ask("user.remove", name="ann2", grace=0.1)
        assert room.run(f"{_living(other)} || true") == ""
    finally:
        room.attempt(f"kill -9 {' '.join(started)}")


def _living(uid: int) -> str:
    """Zombies have ended; whoever reaps them here may be slow."""
    return f"ps -o pid=,stat= -U {uid} | grep -v Z"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "params", "why"),
    [
        ("true", {"name": "root", "force": True}, "the machine and this agent live by"),
        ("true", {"name": "games"}, "name of the system"),
        ("useradd -o -u 0 toor", {"name": "toor", "force": True}, "live by"),
        ("useradd -u 4711 bob; useradd -o -u 4711 twin", {"name": "bob"}, "shares uid 4711 with twin"),
        ("useradd -d /home bob", {"name": "bob", "home": True}, "no directory of a user's own"),
        ("useradd -m bob; chown 0 /home/bob", {"name": "bob", "home": True}, "belongs to uid 0"),
        ("useradd -m bob; mv /home/bob /home/b; ln -s b /home/bob", {"name": "bob", "home": True}, "is a link"),
        ("useradd -m bob; useradd -d /home/bob/x ann", {"name": "bob", "home": True}, "the home of ann too"),
        (
            "useradd -m bob; mkdir /home/bob/m; mount -t tmpfs t /home/bob/m",
            {"name": "bob", "home": True},
            "/home/bob/m is mounted there",
        ),
    ],
)
def test_what_cannot_be_removed_is_refused_before_anything_is_touched(
    room: Room, prepare: str, params: dict[str, Any], why: str
) -> None:
    room.run(prepare)
    before = room.run("cat /etc/passwd /etc/shadow; ls -A /home")
    try:
        with pytest.raises(Refused, match=why):
            room.ask("user.remove", **params)
        assert room.run("cat /etc/passwd /etc/shadow; ls -A /home") == before
    finally:
        room.attempt("umount /home/bob/m")


@pytest.mark.slow
def test_a_remove_that_was_killed_is_done_by_the_next(room: Room) -> None:
    room.ask("user.add", name="ann", sudo=[RULE])
    room.run("usermod -e 1 ann; rm -rf /home/ann /etc/sudoers.d/paddock-ann")
    assert room.ask("user.remove", name="ann", home=True)["changed"][-1] == "account"
    assert _list(room, "ann") is None


@pytest.mark.slow
def test_what_is_named_as_the_user_goes_with_its_account(room: Room) -> None:
    room.ask("user.add", name="ann")
    room.run(
        "mkdir -p /var/spool/cron/crontabs; echo x | tee /var/spool/cron/crontabs/ann /var/spool/cron/crontabs/anna"
    )
    room.ask("user.remove", name="ann")
    assert room.run("ls /var/spool/cron/crontabs") == "anna"


# ---- listed ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_users_are_listed_a_page_at_a_time_without_the_systems_own(room: Room) -> None:
    for name in ("ann", "bob", "carl"):
        room.ask("user.add", name=name, create_home=False)
    page = room.ask("user.list", most=2)
    first = [user["name"] for user in page["users"]]
    rest = [user["name"] for user in room.ask("user.list", after=first[-1])["users"]]
    assert page["more"] is True
    assert [*first, *rest] == sorted([*first, *rest])
    assert {"ann", "bob", "carl"} <= {*first, *rest}
    assert "root" not in {*first, *rest}
    assert "root" in {user["name"] for user in room.ask("user.list", system=True)["users"]}


def test_accounts_are_those_of_the_files() -> None:
    assert accounts.find("root") is not None
    assert {one.name for one in accounts.all_accounts()} <= {entry.pw_name for entry in pwd.getpwall()}
    assert accounts.find("no-such-user") is None


def test_rules_go_where_sudo_looks_and_drafts_where_it_does_not() -> None:
    assert "." not in sudoers.file_of("ann")
    assert "~" not in sudoers.file_of("ann")


# ---- what a rule may say ---------------------------------------------------------------------------------------------


def _who(directory: Path, data: bytes) -> set[str] | None:
    """Whom sudo gives rights by this file, as sudo itself reads it; None where it does not take it."""
    file = directory / "rules"
    file.write_bytes(data)
    if subprocess.run(["visudo", "-cf", file], capture_output=True, check=False).returncode:
        return None
    read = subprocess.run(["cvtsudoers", "-f", "json", file], capture_output=True, check=True)
    found = json.loads(read.stdout)
    assert set(found) <= {"User_Specs"}, found
    return {json.dumps(user) for spec in found["User_Specs"] for user in spec["User_List"]}


@pytest.mark.parametrize(
    "rule",
    [
        ", bob ALL=(ALL) NOPASSWD: ALL",
        " ,bob ALL=(ALL) ALL",
        ",ALL ALL=(ALL) ALL",
        ", %users ALL=(ALL) ALL",
        "\\, bob ALL=(ALL) ALL",
        "\\ , bob ALL=(ALL) ALL",
        ": bob ALL=(ALL) ALL",
        "# ALL=(ALL) ALL",
        "= ALL",
        "bob",
        "ALL=(ALL) ALL\n@include /tmp/x=",
        "ALL=(ALL) ALL\r, bob ALL=(ALL) ALL",
        "ALL=(ALL) ALL\x0bbob ALL=(ALL) ALL",
        "ALL=(ALL) ALL \\ ",
    ],
)
def test_a_rule_that_could_speak_of_others_is_refused(rule: str) -> None:
    with pytest.raises(Refused, match="sudo"):
        sudoers.text_of("ann", [rule])


@pytest.mark.skipif(shutil.which("cvtsudoers") is None, reason="there is no cvtsudoers here; apt-get install sudo")
@pytest.mark.parametrize(
    ("rule", "is_taken"),
    [
        ("ALL=(ALL) NOPASSWD: ALL", True),
        ("!web, +rack, 10.0.0.0/8 = (root) /bin/true, !/bin/sh", True),
        ('"my host" = ALL', True),
        ("ALL=(ALL) ALL : web=(root) /bin/true", True),
        ("ALL=(ALL) ALL # , bob ALL=ALL", True),
        ("ALL, bob ALL=(ALL) ALL", False),
        ("bob ALL=(ALL) ALL", False),
        ("ALL=(ALL) ALL : bob ALL=(ALL) ALL", False),
        ('"x", bob ALL=(ALL) ALL', False),
        ("+x, bob ALL = ALL", False),
        ("ALL=(ALL) ALL, bob ALL=(ALL) ALL", False),
        ("ALL=(ALL) ALL; bob ALL=(ALL) ALL", False),
        ("Defaults !authenticate=", False),
        ("User_Alias X = bob", False),
        ("includedir /tmp=", False),
    ],
)
def test_whatever_sudo_takes_of_a_rule_is_for_its_user_alone(tmp_path: Path, rule: str, *, is_taken: bool) -> None:
    data = sudoers.text_of("ann", [rule])
    assert _who(tmp_path, data) == ({'{"username": "ann"}'} if is_taken else None)
