"""package.* with the real apt, dnf and zypper: each in a system of its own, from a repository that the test makes."""

import asyncio
import fcntl
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.entry import Outcome
from paddock.agent.skills import package, programs
from paddock.agent.skills.package import apk, home, listing, script
from paddock.agent.skills.package.names import ALPINE, DEBIAN, RPM, Grammar, read
from paddock.agent.skills.package.tool import Tool, Verb, Wish
from paddock.core.errors import Refused
from paddock.hands.launcher import Launcher
from paddock.wire.fields import BadParams
from paddock.wire.messages import Code
from tests.agent.conftest import Host
from tests.agent.desk import Desk
from tests.agent.doing import Doer

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="packages are root's")


def needs(*names: str) -> None:
    missing = [name for name in names if not programs.find(name)]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)} (./dev host-setup)")


class System:
    """Another system in a directory, with its own packages, and the repository that it installs from."""

    def __init__(self, directory: Path, doer: Doer) -> None:
        self.root = directory / "root"
        self.repository = directory / "repository"
        self.repository.mkdir()
        self.doer = doer
        self.deeds = package.methods(doer.place)
        self.last = doer.call("package.list")

    async def ask(self, verb: str, **params: Any) -> Outcome:
        self.last = self.doer.call(f"package.{verb}", root=str(self.root), **params)
        return await self.doer.do(self.deeds[f"package.{verb}"], self.last)

    async def changed(self, verb: str, **params: Any) -> dict[str, tuple[str | None, str | None]]:
        outcome = await self.ask(verb, **params)
        assert outcome.code is None, (outcome.msg, self.output)
        rows: Any = outcome.result["changed"]
        return {row["name"]: (row["from"], row["to"]) for row in rows}

    @property
    def output(self) -> str:
        return self.doer.output(self.last)


@pytest.fixture
async def doer(tmp_path: Path) -> AsyncIterator[Doer]:
    async with Launcher() as launcher:
        yield Doer(tmp_path / "agent", launcher)


# ---- apt -------------------------------------------------------------------------------------------------------------


class Debian(System):
    """A Debian without a single package."""

    def make(self) -> "Debian":
        for place in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/dpkg/info", "var/lib/dpkg/updates"):
            (self.root / place).mkdir(parents=True)
        for place in ("var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/log/apt"):
            (self.root / place).mkdir(parents=True)
        (self.root / "var/lib/dpkg/status").touch()
        (self.root / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
        (self.root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file:{self.repository} ./\n")
        return self

    def offer(self, name: str, version: str, **fields: str) -> None:
        tree = self.repository.parent / "tree"
        for place in ("DEBIAN", "etc", f"usr/share/{name}"):
            (tree / place).mkdir(parents=True)
        control = {
            "Package": name,
            "Version": version,
            "Architecture": "all",
            "Maintainer": "A <a@example.org>",
            "Description": "a package",
            **fields,
        }
        (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in control.items()))
        (tree / "DEBIAN/conffiles").write_text(f"/etc/{name}.conf\n")
        (tree / f"etc/{name}.conf").write_text(f"of {version}\n")
        (tree / f"usr/share/{name}/version").write_text(version)
        subprocess.run(["dpkg-deb", "-b", tree, self.repository / f"{name}_{version}.deb"], check=True, stdout=-3)
        shutil.rmtree(tree)

    def publish(self) -> None:
        for page in ("packages", "release"):
            done = subprocess.run(["apt-ftparchive", page, "."], cwd=self.repository, check=True, capture_output=True)
            (self.repository / page.capitalize()).write_bytes(done.stdout)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """As if another manager were at it: the lock is held by this process."""
        (self.root / name).touch()
        with (self.root / name).open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield


@pytest.fixture
def debian(tmp_path: Path, doer: Doer) -> Debian:
    needs("apt-get", "dpkg-deb", "apt-ftparchive")
    made = Debian(tmp_path, doer).make()
    made.offer("one", "1.0")
    made.offer("two", "1.0", Depends="one")
    made.publish()
    return made


@as_root
@pytest.mark.slow
async def test_apt_installs_what_is_not_there_and_then_changes_nothing(debian: Debian) -> None:
    assert await debian.changed("install", names=["two"], refresh=True) == {"one": (None, "1.0"), "two": (None, "1.0")}
    assert (debian.root / "usr/share/one/version").read_text() == "1.0"
    assert "Setting up two (1.0)" in debian.output
    debian.offer("one", "2.0")
    debian.publish()
    assert await debian.changed("install", names=["one", "two"], refresh=True) == {}


@as_root
@pytest.mark.slow
async def test_apt_installs_the_version_that_is_asked_for_even_an_older_one(debian: Debian) -> None:
    debian.offer("one", "2.0")
    debian.publish()
    assert await debian.changed("install", names=["one"], refresh=True) == {"one": (None, "2.0")}
    assert await debian.changed("install", names=["one=1.0", "two"]) == {"one": ("2.0", "1.0"), "two": (None, "1.0")}


@as_root
@pytest.mark.slow
async def test_apt_upgrades_and_keeps_a_configuration_that_somebody_changed(debian: Debian) -> None:
    await debian.changed("install", names=["two"], refresh=True)
    (debian.root / "etc/one.conf").write_text("of somebody\n")
    debian.offer("one", "2.0")
    debian.offer("two", "2.0")
    debian.publish()
    assert await debian.changed("upgrade", names=["one", "nothing"], refresh=True) == {"one": ("1.0", "2.0")}
    assert await debian.changed("upgrade") == {"two": ("1.0", "2.0")}
    assert await debian.changed("upgrade") == {}
    assert (debian.root / "etc/one.conf").read_text() == "of somebody\n"


@as_root
@pytest.mark.slow
async def test_apt_removes_what_is_there_and_its_configuration_when_asked(debian: Debian) -> None:
    await debian.changed("install", names=["two"], refresh=True)
    assert await debian.changed("remove", names=["one", "nothing"]) == {"one": ("1.0", None), "two": ("1.0", None)}
    assert await debian.changed("remove", names=["one"]) == {}
    assert (debian.root / "etc/one.conf").exists()
    assert await debian.changed("remove", names=["one"], purge=True) == {}
    assert not (debian.root / "etc/one.conf").exists()


@as_root
@pytest.mark.slow
async def test_what_apt_does_not_find_is_a_failure_and_its_output_says_what(debian: Debian) -> None:
    outcome = await debian.ask("install", names=["nothing"], refresh=True)
    assert (outcome.code, outcome.msg) == (Code.FAILED, "apt: ended with exit 100, see its output")
    assert "Unable to locate package nothing" in debian.output


@as_root
@pytest.mark.slow
async def test_lists_that_cannot_be_fetched_stop_what_was_to_follow(debian: Debian) -> None:
    await debian.changed("upgrade", refresh=True)
    (debian.repository / "Packages").unlink()
    (debian.repository / "Release").unlink()
    assert (await debian.ask("install", names=["one"], refresh=True)).code is Code.FAILED
    assert not (debian.root / "usr/share/one").exists()


@as_root
@pytest.mark.slow
@pytest.mark.parametrize("lock", ["var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock", "var/lib/apt/lists/lock"])
async def test_a_lock_of_apt_is_waited_for(debian: Debian, lock: str) -> None:
    call = debian.doer.call("package.install", root=str(debian.root), names=["one"], refresh=True)
    deed = debian.deeds["package.install"]
    with debian.locked(lock):
        doing = asyncio.create_task(debian.doer.do(deed, call))
        while not (call.directory / script.WAITING).exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
    outcome = await doing
    assert (outcome.code, outcome.result["changed"]) == (
        None,
        [{"name": "one", "arch": "all", "from": None, "to": "1.0"}],
    )
    assert f"apt-get: others hold its lock (process {os.getpid()}), waiting: 0 of at most 600 s" in (
        debian.doer.output(call)
    )


@as_root
@pytest.mark.slow
@pytest.mark.parametrize("bound", ["wait", "limit"])
async def test_a_lock_that_is_held_for_too_long_is_busy(debian: Debian, bound: str) -> None:
    with debian.locked("var/lib/dpkg/lock-frontend"):
        outcome = await debian.ask("install", names=["one"], **{bound: 1})
    assert (outcome.code, outcome.msg) == (
        Code.BUSY,
        "apt: others held its lock all the time, nothing was changed",
    )
    assert not (debian.root / "usr/share/one").exists()


@as_root
@pytest.mark.slow
async def test_what_a_killed_dpkg_left_half_done_is_mended_first(debian: Debian) -> None:
    await debian.changed("install", names=["one"], refresh=True)
    # As dpkg leaves it when it is killed between unpacking and configuring, its journal not yet merged.
    status = debian.root / "var/lib/dpkg/status"
    status.write_text(status.read_text().replace("Status: install ok installed", "Status: install ok unpacked"))
    (debian.root / "var/lib/dpkg/updates/0001").write_text(status.read_text())
    changed = await debian.changed("install", names=["two"])
    assert changed["two"] == (None, "1.0")
    assert "Setting up one (1.0)" in debian.output


@as_root
@pytest.mark.slow
async def test_the_list_is_cut_into_pages_that_come_to_an_end(debian: Debian) -> None:
    await debian.changed("install", names=["two"], refresh=True)
    found: list[str] = []
    cursor = ""
    for _ in range(2):
        outcome = await debian.ask("list", most=1, cursor=cursor)
        rows: Any = outcome.result["packages"]
        found += [f"{row['name']} {row['version']}" for row in rows]
        cursor = str(outcome.result.get("cursor", ""))
    assert (found, cursor) == (["one 1.0", "two 1.0"], "")
    assert (await debian.ask("list", glob="t*")).result == {
        "manager": "apt",
        "packages": [{"name": "two", "arch": "all", "version": "1.0"}],
    }


@as_root
@pytest.mark.slow
async def test_an_agent_installs_packages_and_sends_what_apt_prints(desk: Desk, host: Host, debian: Debian) -> None:
    host.start()
    params = {"root": str(debian.root), "names": ["one"]}
    await desk.ask(desk.command("c1", "package.install", **params, refresh=True))
    status = await desk.final("c1")
    changed = [{"name": "one", "arch": "all", "from": None, "to": "1.0"}]
    assert (status.state, status.result) == ("complete", {"manager": "apt", "changed": changed})
    assert b"Setting up one (1.0)" in await desk.whole("c1")
    await desk.ask(desk.command("c2", "package.install", **{**params, "names": ["one", "-oDir=/"]}))
    status = await desk.final("c2")
    assert (status.code, status.msg) == (
        Code.BAD_PARAMS,
        "params.names[1]: '-oDir=/' is no package's name for apt",
    )


@as_root
@pytest.mark.slow
async def test_an_agent_that_is_killed_while_apt_is_at_it_tells_what_changed_when_it_is_back(
    desk: Desk, host: Host, debian: Debian
) -> None:
    host.start()
    with debian.locked("var/lib/dpkg/lock-frontend"):
        await desk.ask(desk.command("c1", "package.install", root=str(debian.root), names=["two"], refresh=True))
        await desk.until(lambda: b"others hold its lock" in desk.streams["c1", "out"])
        host.kill()
    host.start()
    status = await desk.final("c1")
    changed: Any = (status.result or {})["changed"]
    assert [row["name"] for row in changed] == ["one", "two"]
    assert (await desk.whole("c1")).count(b"Setting up two (1.0)") == 1


# ---- dnf and zypper --------------------------------------------------------------------------------------------------


class Rpm(System):
    """A system of rpm packages without a single one."""

    def make(self, family: str, repositories: str) -> "Rpm":
        (self.root / repositories).mkdir(parents=True)
        (self.root / "etc/os-release").write_text(f'ID="{family}"\n')
        lines = (
            "[local]",
            "name=local",
            "enabled=1",
            "gpgcheck=0",
            "autorefresh=0",
            f"baseurl=file://{self.repository}",
        )
        (self.root / repositories / "local.repo").write_text("\n".join([*lines, ""]))
        return self

    def offer(self, *packages: tuple[str, str]) -> None:
        for name, version in packages:
            lines = (f"Name: {name}", f"Version: {version}", "Release: 1", "Summary: a package", "License: none")
            body = ("BuildArch: noarch", "%description", "a package", "%files")
            spec = self.repository.parent / f"{name}.spec"
            spec.write_text("\n".join([*lines, *body, ""]))
            defines = [f"_rpmdir {self.repository}", f"_topdir {spec.parent / 'top'}"]
            words = [word for define in defines for word in ("-D", define)]
            subprocess.run(["rpmbuild", "-bb", "--quiet", *words, spec], check=True, capture_output=True)
        subprocess.run(["createrepo_c", "-q", self.repository], check=True, capture_output=True)

    def hold(self, lock: str) -> None:
        """As if another manager were at it: the lock names this process."""
        (self.root / lock).parent.mkdir(parents=True, exist_ok=True)
        (self.root / lock).write_text(str(os.getpid()))


@pytest.fixture(params=["dnf", "zypper"])
def rpm(request: pytest.FixtureRequest, tmp_path: Path, doer: Doer) -> Rpm:
    needs(request.param, "rpm", "rpmbuild", "createrepo_c")
    made = Rpm(tmp_path, doer)
    if request.param == "dnf":
        made.make("fedora", "etc/yum.repos.d")
    else:
        made.make("opensuse-leap", "etc/zypp/repos.d")
    made.offer(("one", "1.0"), ("two", "1.0"))
    return made


@as_root
@pytest.mark.slow
async def test_dnf_and_zypper_install_upgrade_and_remove(rpm: Rpm) -> None:
    assert await rpm.changed("install", names=["one", "two"], refresh=True) == {
        "one": (None, "1.0-1"),
        "two": (None, "1.0-1"),
    }
    rpm.offer(("one", "2.0"), ("two", "2.0"))
    assert await rpm.changed("install", names=["one"], refresh=True) == {}
    assert await rpm.changed("upgrade", names=["one", "nothing"]) == {"one": ("1.0-1", "2.0-1")}
    assert await rpm.changed("upgrade") == {"two": ("1.0-1", "2.0-1")}
    assert await rpm.changed("install", names=["one=1.0"]) == {"one": ("2.0-1", "1.0-1")}
    assert await rpm.changed("remove", names=["one", "nothing"]) == {"one": ("1.0-1", None)}
    assert await rpm.changed("remove", names=["one"]) == {}
    assert (await rpm.ask("install", names=["nothing"])).code is Code.FAILED
    assert (await rpm.ask("list")).result["packages"] == [{"name": "two", "arch": "noarch", "version": "2.0-1"}]


@as_root
@pytest.mark.slow
async def test_a_lock_of_dnf_and_zypper_is_waited_for_and_busy_in_the_end(rpm: Rpm) -> None:
    locks = ("var/lib/dnf/rpmdb_lock.pid", "var/cache/dnf/metadata_lock.pid", "run/zypp.pid")
    for lock in locks:
        rpm.hold(lock)
    outcome = await rpm.ask("install", names=["one"], wait=1)
    assert outcome.code is Code.BUSY, rpm.output
    assert "others hold its lock" in rpm.output


# ---- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grammar", "name"),
    [
        *((DEBIAN, name) for name in ("g++", "libc6:i386", "memtest86+", "python3.11", "one=1:1.0~rc1-2+b1")),
        *((RPM, name) for name in ("one", "gtk+", "python3-devel", "one.noarch", "kernel=6.1.0-1.el9")),
        *((ALPINE, name) for name in ("one", "so-lib", "py3-yaml=6.0-r1")),
    ],
)
def test_what_a_manager_calls_a_package_is_taken(grammar: Grammar, name: str) -> None:
    (found,) = read([name], grammar, versions=True)
    assert f"{found.name}={found.version}".rstrip("=") == name


@pytest.mark.parametrize("grammar", [DEBIAN, RPM, ALPINE], ids=lambda grammar: grammar.manager)
@pytest.mark.parametrize(
    "name",
    [
        *("-y", "--root=/", "-", "one two", "one;reboot", "$(reboot)", "`reboot`", "one\ntwo", "../one", "/etc/passwd"),
        *("*", "one*", "^one", "one^", "one$", "@group", "!one", "~one", "one>1", "one<1", "one~1", "one@edge", ""),
        *("one=", "one=-1", "one=1 2", "one=1;2", "one==1", "=1", "ünicode", "one\u200b", "(one if two)", "'", '"'),
    ],
)
def test_what_is_no_package_is_refused_by_its_place(grammar: Grammar, name: str) -> None:
    with pytest.raises(BadParams) as refused:
        read(["fine", name], grammar, versions=True)
    assert refused.value.path == "params.names[1]"


def test_a_name_that_apt_would_take_for_a_removal_is_refused() -> None:
    with pytest.raises(BadParams):
        read(["one-"], DEBIAN, versions=True)


def test_a_version_is_refused_where_none_is_asked_and_two_of_one_package() -> None:
    with pytest.raises(BadParams, match="names a version"):
        read(["one=1.0"], DEBIAN, versions=False)
    with pytest.raises(BadParams, match="another version"):
        read(["one=1.0", "one"], DEBIAN, versions=True)


def wish(verb: Verb, *names: str, **more: Any) -> Wish:
    return Wish(verb=verb, wanted=read(names, ALPINE, versions=True), root="/r", directory=Path("/t"), **more)


def chosen(command: str) -> list[str]:
    """The lines that give a command those of its names that are installed."""
    choice = 'for name in one; do ! has "$name" || set -- "$@" "$name"; done'
    return ["set --", choice, f'[ $# -eq 0 ] || run apk --root /r {command} "$@"']


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        (wish(Verb.INSTALL, "one", "two=1.0-r0"), ["run apk --root /r add two=1.0-r0 one"]),
        (wish(Verb.INSTALL, "one", refresh=True), ["run apk --root /r update", "run apk --root /r add one"]),
        (wish(Verb.UPGRADE), ["run apk --root /r upgrade"]),
        (wish(Verb.UPGRADE, "one"), chosen("upgrade")),
        (wish(Verb.REMOVE, "one"), chosen("del")),
        (wish(Verb.REMOVE, "one", purge=True), chosen("del --purge")),
    ],
)
def test_apk_is_asked_in_its_own_words(asked: Wish, lines: list[str]) -> None:
    text = script.write(apk.APK, asked, most=60)
    assert text.rstrip().splitlines()[-len(lines) - 2 :] == ["note_before", *lines, "finish 0"]


def test_what_apk_has_installed_is_read_from_its_database(tmp_path: Path) -> None:
    needs("awk")
    (tmp_path / "lib/apk/db").mkdir(parents=True)
    records = (
        "C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\nF:lib\nR:libc.so",
        "C:Q1\nP:busybox\nV:1.36.1-r5\nA:x86_64\nF:bin",
    )
    (tmp_path / "lib/apk/db/installed").write_text("\n\n".join(records) + "\n")
    done = subprocess.run(["sh", "-c", apk.APK.listing(str(tmp_path))], capture_output=True, text=True, check=True)
    assert listing.parse(done.stdout) == [
        listing.Installed(name="busybox", arch="x86_64", version="1.36.1-r5"),
        listing.Installed(name="musl", arch="x86_64", version="1.2.4-r2"),
    ]


@pytest.mark.parametrize(
    ("told", "families"),
    [
        ('ID=ubuntu\nID_LIKE="debian"\n', ("ubuntu", "debian")),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', ("rocky", "rhel", "centos", "fedora")),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', ("opensuse-leap", "opensuse", "suse")),
        ("# nothing\nNAME='x'\n", ()),
    ],
)
def test_a_system_says_what_it_is(tmp_path: Path, told: str, families: tuple[str, ...]) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(told)
    assert home.families(str(tmp_path)) == families


def test_a_system_without_a_known_manager_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no package manager that is known"):
        home.tool_of(str(tmp_path))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text("ID=alpine\n")
    if not programs.find("apk"):
        with pytest.raises(Refused, match="is alpine, and apk is not installed here"):
            home.tool_of(str(tmp_path))


def installed(*rows: str) -> list[listing.Installed]:
    return listing.parse("".join(f"{row}\n".replace(" ", "\t") for row in rows))


def test_what_changed_is_what_differs_between_two_lists() -> None:
    before = installed("a all 1.0", "b all 0:1.0", "kernel x86 5", "kernel x86 6", "same all 1", "gpg-pubkey (none) 1")
    after = installed("b all 2.0", "c all 1.0", "kernel x86 6", "kernel x86 7", "kernel x86 8", "same all 1")
    assert [tuple(row.values()) for row in listing.changes(before, after)] == [
        ("a", "all", "1.0", None),
        ("b", "all", "1.0", "2.0"),
        ("c", "all", None, "1.0"),
        ("kernel", "x86", "5", None),
        ("kernel", "x86", None, "7"),
        ("kernel", "x86", None, "8"),
    ]


def test_more_packages_than_a_message_holds_come_page_by_page() -> None:
    every = [listing.Installed(name=f"{'n' * 180}{number:05}", arch="all", version="1" * 100) for number in range(5000)]
    found, cursor, pages = 0, "", 0
    while pages == 0 or cursor:
        told: Any = listing.page(every, glob="", cursor=cursor, most=5000)
        assert len(repr(told)) < 1 << 20
        found += len(told["packages"])
        cursor = told.get("cursor", "")
        pages += 1
    assert found == 5000
    assert pages > 2


def test_a_row_larger_than_a_page_is_a_page_of_its_own() -> None:
    every = [listing.Installed(name=name, arch="all", version="1" * (700 << 10)) for name in ("a", "b")]
    told: Any = listing.page(every, glob="", cursor="", most=10)
    assert [row["name"] for row in told["packages"]] == ["a"]
    told = listing.page(every, glob="", cursor=told["cursor"], most=10)
    assert [row["name"] for row in told["packages"]] == ["b"]
    assert "cursor" not in told


def test_more_changes_than_a_message_holds_are_counted() -> None:
    rows = listing.changes([], installed(*(f"{'n' * 190}{number:04} all 1" for number in range(4000))))
    told: Any = listing.told(rows)
    assert len(told["changed"]) + told["more"] == 4000
    assert len(repr(told)) < 1 << 20


TOOLS: list[Tool] = list(home.TOOLS)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
@pytest.mark.parametrize("verb", list(Verb))
def test_each_script_is_one_that_a_shell_can_read(tool: Tool, verb: Verb) -> None:
    wanted = read(["one"], tool.grammar, versions=False)
    for root in ("", "/a dir/it's"):
        text = script.write(tool, Wish(verb=verb, wanted=wanted, root=root), most=1)
        subprocess.run(["sh", "-n"], input=text, text=True, check=True, capture_output=True)
