"""A machine's name: by RFC 1123, exact fields of /etc/hosts, and nothing done twice."""

from pathlib import Path

import pytest

from paddock.agent.skills.system.renaming import hosts, rename
from paddock.wire.fields import BadParams
from paddock.wire.methods import check

HOSTS = "127.0.0.1\tlocalhost\n127.0.1.1\tweb-1.example.org web-1\n\n# the web-1 of old\n::1 localhost ip6-localhost\n"


class Kernel:
    """The running name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def tell(self, name: str) -> None:
        self.name = name


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("web-1.example.org\n")
    (tmp_path / "etc/hosts").write_text(HOSTS)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-web",
        "web-",
        "web_1",
        "web..org",
        ".web",
        "web.",
        "w" * 64,
        "we b",
        "web\n",
        "192.0.2.1",
        "web.7",
        "ä",
        "a/b",
    ],
)
def test_what_is_no_host_name_is_refused_before_anything_is_touched(name: str) -> None:
    with pytest.raises(BadParams, match=r"params\.hostname"):
        check("system.rename", {"hostname": name})


@pytest.mark.parametrize("name", ["w", "3com", "web-1", "WEB", "a.b-c.d2e", "w" * 63])
def test_what_is_one_is_taken(name: str) -> None:
    assert check("system.rename", {"hostname": name})["hostname"] == name


def test_all_places_have_the_new_name_and_a_second_time_changes_nothing(machine: Path) -> None:
    kernel = Kernel("web-1")
    (machine / "etc/hosts").chmod(0o640)
    found = rename(machine, "db-2.example.net", running=kernel.name, tell_kernel=kernel.tell)
    assert found == {"hostname": "db-2.example.net", "before": "web-1.example.org", "changed": True}
    assert (machine / "etc/hostname").read_text() == "db-2.example.net\n"
    assert kernel.name == "db-2.example.net"
    text = (machine / "etc/hosts").read_text()
    assert "127.0.1.1\tdb-2.example.net db-2\n" in text
    assert "# the web-1 of old" in text
    assert (machine / "etc/hosts").stat().st_mode & 0o777 == 0o640

    before = {path: path.stat().st_mtime_ns for path in (machine / "etc").iterdir()}
    found = rename(machine, "db-2.example.net", running=kernel.name, tell_kernel=kernel.tell)
    assert found["changed"] is False
    assert {path: path.stat().st_mtime_ns for path in (machine / "etc").iterdir()} == before


@pytest.mark.parametrize("done", ["hosts", "hostname", "kernel"])
def test_what_a_kill_left_half_done_is_finished(machine: Path, done: str) -> None:
    kernel = Kernel("web-1.example.org")
    complete = machine / "complete"
    (complete / "etc").mkdir(parents=True)
    for name in ("hosts", "hostname"):
        (complete / "etc" / name).write_text((machine / "etc" / name).read_text())
    rename(complete, "db-2", running="web-1.example.org", tell_kernel=Kernel("web-1.example.org").tell)
    for name in ("hosts", "hostname"):
        if name == done:
            (machine / "etc" / name).write_text((complete / "etc" / name).read_text())
    if done == "kernel":
        kernel.name = "db-2"
    rename(machine, "db-2", running=kernel.name, tell_kernel=kernel.tell)
    assert kernel.name == "db-2"
    assert (machine / "etc/hostname").read_text() == "db-2\n"
    assert "web-1 " not in (machine / "etc/hosts").read_text().replace("# the web-1 of old", "")


@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("10.0.0.5 web-1 web-10 my-web-1 web-1.example.com", "10.0.0.5 db web-10 my-web-1 web-1.example.com"),
        ("10.0.0.5\tmail  web-1\t# not web-1", "10.0.0.5\tmail  db\t# not web-1"),
        ("10.0.0.5 db web-1", "10.0.0.5 db"),
        ("127.0.0.1 localhost web-1", "127.0.0.1 localhost db"),
        ("# 10.0.0.5 web-1", "# 10.0.0.5 web-1"),
    ],
)
def test_only_whole_fields_are_renamed(line: str, after: str) -> None:
    assert hosts(f"{line}\n", old={"web-1"}, new="db").splitlines()[0] == after


def test_a_machine_without_a_line_of_its_own_gets_one() -> None:
    assert hosts("127.0.0.1 localhost\n", old={"localhost"}, new="db.example.org") == (
        "127.0.0.1 localhost\n127.0.1.1\tdb.example.org db\n"
    )


def test_missing_files_are_made_and_cloud_init_is_told_to_leave_the_name(tmp_path: Path) -> None:
    (tmp_path / "etc/cloud/cloud.cfg.d").mkdir(parents=True)
    rename(tmp_path, "db", running="x", tell_kernel=Kernel("x").tell)
    assert (tmp_path / "etc/hostname").read_text() == "db\n"
    assert (tmp_path / "etc/hosts").read_text() == "127.0.1.1\tdb\n"
    assert "preserve_hostname: true" in (tmp_path / "etc/cloud/cloud.cfg.d/99-paddock-hostname.cfg").read_text()


def test_bytes_that_are_no_text_stay_as_they_are(machine: Path) -> None:
    (machine / "etc/hosts").write_bytes(b"# caf\xe9\n127.0.1.1 web-1\n")
    rename(machine, "db", running="web-1", tell_kernel=Kernel("web-1").tell)
    assert (machine / "etc/hosts").read_bytes() == b"# caf\xe9\n127.0.1.1 db\n"
