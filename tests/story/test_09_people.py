"""What people do to a run and to what it ran on: cancel, retry, hold; and what a hostile job cannot do to them."""

import sys
from pathlib import Path

import pytest

from tests.story.house import RECHECK, House, assert_whole, waiting

pytestmark = pytest.mark.slow

CONFIG = """
- environment: {{name: single, machines: [{{name: one}}], host: local, max: 2}}
- job:
    name: long
    environment: single
    trusted: true
    steps: [{{run: '{script}'}}]
    after: [{{run: 'echo "$PADDOCK_VERDICT" > "$PADDOCK_RESULTS/verdict.txt"'}}]
    artifacts: ["*.txt"]
- job: {{name: short, environment: single, trusted: true, steps: [{{run: "test -e {second}"}}]}}
- project: {{name: openstack-dev/ci-sandbox, jobs: [long{more}]}}
"""


def begin(paddock: House, *, more: str = "") -> None:
    config = CONFIG.format(
        script=waiting("main", paddock.directory / "gate"), second=paddock.directory / "second", more=more
    )
    paddock.configure(config, vote="full")
    paddock.tell(RECHECK)
    paddock.start_server()
    paddock.start_agent()


def test_a_cancelled_run_still_tidies_up_and_a_retry_is_a_round_of_its_own(paddock: House) -> None:
    begin(paddock)
    cancelled = paddock.in_phase("main")

    paddock.post(f"runs/{cancelled['id']}/cancel", reason="seen enough")
    first = paddock.run("done", id=cancelled["id"])
    (report,) = paddock.until_reported()

    assert (first["verdict"], first["reason"]) == ("cancelled", "cancelled by operator: seen enough")
    assert paddock.text(f"/runs/{first['id']}/artifacts/one/verdict.txt") == "cancelled\n"
    assert report["labels"] == {}
    paddock.until_environments("ready")
    assert not paddock.tasks()
    with pytest.raises(AssertionError, match="done"):
        paddock.post(f"runs/{cancelled['id']}/cancel", reason="again")

    (paddock.directory / "gate").touch()
    again = paddock.post(f"runs/{first['id']}/retry")
    second = paddock.run("done", id=again["id"])

    assert second["verdict"] == "success"
    assert second["round"] != first["round"]
    assert_whole(paddock.step_log(second["id"], "main-1-one"), "main")
    assert [report["labels"] for report in paddock.until_reported(2)] == [{}, {"Verified": 1}]
    assert paddock.get("events", limit=1)["items"][0]["kind"] == "manual"


def test_a_retry_before_the_report_is_an_attempt_of_the_same_round(paddock: House) -> None:
    begin(paddock, more=", short")
    paddock.in_phase("main")
    short = next(run for run in paddock.runs() if run["job"] == "short")
    assert paddock.run("done", id=short["id"])["verdict"] == "failure"

    (paddock.directory / "second").touch()
    again = paddock.post(f"runs/{short['id']}/retry")
    assert paddock.run("done", id=again["id"])["verdict"] == "success"
    (paddock.directory / "gate").touch()
    (report,) = paddock.until_reported()

    assert (again["round"], again["attempt"]) == (short["round"], 2)
    assert report["labels"] == {"Verified": 1}
    assert f"/runs/{again['id']}/ : SUCCESS" in report["message"]
    assert f"/runs/{short['id']}/" not in report["message"]


def test_what_a_person_holds_stays_as_the_run_left_it_and_comes_back_clean(paddock: House) -> None:
    begin(paddock)
    run = paddock.in_phase("main")
    name = run["environment"]

    paddock.post(f"environments/{name}/hold", ttl=600)
    (paddock.directory / "gate").touch()
    paddock.run("done")
    (held,) = paddock.until_environments("held")

    kept = paddock.agent_state / "machines" / name / "one" / "work" / "results" / "verdict.txt"
    assert kept.read_text() == "success\n"
    assert held["held_by"] == "operator"
    assert held["fence"] > paddock.get(f"leases/{run['lease']}")["fence"]
    assert paddock.until_reported()[0]["labels"] == {"Verified": 1}

    paddock.post(f"environments/{name}/release")
    (ready,) = paddock.until_environments("ready")

    assert ready["fence"] > held["fence"]
    assert not kept.exists()


DAEMON = """
import os, sys
if os.fork():
    sys.exit()
os.setsid()
if os.fork():
    os._exit(0)
os.chdir("/")
os.closerange(0, 100)
os.execve("/bin/sleep", ["sleep", sys.argv[1]], {})
"""

HOSTILE = """
- environment: {{name: single, machines: [{{name: one}}], host: local}}
- job:
    name: hostile
    environment: single
    trusted: true
    steps:
      - {{run: '{python} {daemon} 60061', background: true}}
      - {{run: '{python} {daemon} 60062'}}
- project: {{name: openstack-dev/ci-sandbox, jobs: [hostile]}}
"""


def test_a_daemon_without_parent_session_and_environment_is_gone_once_it_is_clean(paddock: House) -> None:
    daemon = paddock.directory / "daemon.py"
    daemon.write_text(DAEMON)
    paddock.configure(HOSTILE.format(python=sys.executable, daemon=daemon))
    paddock.tell(RECHECK)
    paddock.start_server()
    paddock.start_agent()

    paddock.until_reported()
    paddock.until_environments("ready")

    assert paddock.runs()[0]["verdict"] == "success"
    assert not [line for line in commands(paddock) if "6006" in line]


def commands(paddock: House) -> list[str]:
    """The command lines of all living processes of the house."""
    found = [Path(f"/proc/{one.pid}/cmdline") for one in paddock.living()]
    return [file.read_bytes().replace(b"\0", b" ").decode() for file in found if file.exists()]


LITTER = """
import os
from pathlib import Path
results = Path(os.environ["PADDOCK_RESULTS"])
(results / "good.txt").write_text("good")
(results / "passwd.txt").symlink_to("/etc/passwd")
(results / "up.txt").symlink_to("../../../../etc/passwd")
(results / "etc").symlink_to("/etc")
(results / "two\\nlines.txt").write_text("evil")
(results / "\\x1b[31mred.txt").write_text("evil")
(results / "back\\\\slash.txt").write_text("evil")
os.write(os.open(bytes(results) + b"/not-\\xff-text.txt", os.O_CREAT | os.O_WRONLY), b"evil")
os.mkfifo(results / "pipe.txt")
if os.geteuid() == 0:
    os.mknod(results / "device.txt", 0o20600, os.makedev(1, 5))
with (results / "huge.txt").open("wb") as huge:
    huge.truncate(50 << 30)
(results / "many").mkdir()
for number in range(10_000):
    (results / "many" / f"{number:05}.txt").write_bytes(b"")
"""

LITTERED = """
- environment: {{name: single, machines: [{{name: one}}], host: local}}
- job:
    name: litter
    environment: single
    trusted: true
    steps: [{{run: '{python} {litter}; head -c 100000 /dev/zero | tr "\\\\0" x'}}]
    artifacts: ["**/*.txt"]
    sizes: {{log: 64KiB, file: 1MiB, run: 4MiB, files: 300}}
- project: {{name: openstack-dev/ci-sandbox, jobs: [litter]}}
"""


def test_what_a_job_leaves_is_refused_by_name_and_cut_where_all_can_see_it(paddock: House) -> None:
    litter = paddock.directory / "litter.py"
    litter.write_text(LITTER)
    paddock.configure(LITTERED.format(python=sys.executable, litter=litter))
    paddock.tell(RECHECK)
    paddock.start_server()
    paddock.start_agent()

    run = paddock.run("done", limit=90)

    assert (run["verdict"], run["reason"]) == ("success", "")
    sizes = {artifact["path"]: artifact["size"] for artifact in run["artifacts"]}
    assert len(sizes) == 300
    assert sizes["one/good.txt"] == 4
    assert sizes["one/huge.txt"] == 1 << 20
    for word, why in {
        "one/passwd.txt": "symbolic link",
        "one/up.txt": "symbolic link",
        "one/two\\nlines.txt": "do not print",
        "one/\\x1b[31mred.txt": "do not print",
        "one/back\\slash.txt": "do not print",
        "one/not-": "do not print",
        "one/pipe.txt": "no plain file",
        "one/huge.txt": f"cut at {1 << 20} of {50 << 30} bytes",
        "one/many/00400.txt": "more files than are taken",
        "one/...": "and 9",
    }.items():
        assert any(one.startswith(word) and why in one for one in run["problems"]), (word, run["problems"][:30])
    log = paddock.step_log(run["id"], "main-1-one")
    assert len(log) < 70_000
    assert "dropped" in log or "cut" in log
    assert not [path for path in (paddock.state / "archive").rglob("*") if path.is_symlink()]
    paddock.until_environments("ready")
    assert len(paddock.until_reported()) == 1
