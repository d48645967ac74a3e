"""`paddock image`: chains drawn as a tree, builds watched to their end, collection that asks first."""

from dataclasses import replace
from typing import Any

import pytest

from paddock.cli import chains
from paddock.cli.sizes import SIZE, spell
from paddock.wire import shapes
from tests.cli.conftest import Paddock
from tests.cli.test_call import COMMAND
from tests.client.desk import NOW, Desk, Refusal, Text

MIB = 1 << 20


def layer(image: str, script: str, digit: str, size: int) -> shapes.Layer:
    return shapes.Layer(digest=digit * 64, image=image, script=script, bytes=size, seconds=12.0, built=NOW)


BASE = (layer("debian", "", "a", 300 * MIB), layer("debian", "", "b", 4 * MIB))
OWN = (*BASE, layer("web", "packages", "c", 40 * MIB), layer("web", "motd", "d", 4096))


def there(image: str, **rest: Any) -> shapes.HostImage:
    host = rest.pop("host", "vm-1")
    given: dict[str, Any] = {
        "id": f"{image}@{host}",
        "image": image,
        "host": host,
        "state": "ready",
        "since": NOW,
        "serves": True,
        "current": True,
        "digest": "b" * 64,
        "bytes": 304 * MIB,
        "apparent": 20 << 30,
        "built": NOW,
        "layers": BASE,
        "attempts": 0,
        "reason": "",
        "again": None,
    }
    return shapes.HostImage(**{**given, **rest})


def image(name: str, *hosts: shapes.HostImage, **rest: Any) -> shapes.Image:
    given: dict[str, Any] = {
        "name": name,
        "parent": "",
        "source": "https://images.example.org/debian.qcow2",
        "size": 20 << 30,
        "scripts": (),
        "recipe": "f" * 64,
        "pools": (),
        "hosts": hosts,
        "where": "paddock.yaml:3",
    }
    return shapes.Image(**{**given, **rest})


DEBIAN = image("debian", there("debian"))
WEB = image(
    "web",
    there("web", digest="d" * 64, layers=OWN, bytes=344 * MIB),
    there(
        "web",
        host="vm-2",
        state="failed",
        serves=False,
        layers=(),
        bytes=0,
        apparent=0,
        built=None,
        reason="motd: exit 1",
        again=NOW,
    ),
    parent="debian",
    source="",
    scripts=("packages", "motd"),
    pools=("two-node",),
)
BARE = image("bare", parent="debian", source="", size=0)
LISTED = replace(
    COMMAND,
    method="image.list",
    result={"layers": [{"digest": "d" * 64, "used": "2026-01-01T00:00:00.000Z"}], "templates": []},
)


@pytest.fixture(autouse=True)
def answers(desk: Desk) -> dict[tuple[str, str], object]:
    desk.extra |= {
        ("GET", "/images"): shapes.Images(items=(DEBIAN, WEB, BARE)),
        ("GET", "/hosts"): shapes.Hosts(items=()),
        ("POST", "/agents/vm-1/commands"): LISTED,
    }
    return desk.extra


def test_the_chain_is_a_tree_with_each_layer_below_its_image(paddock: Paddock) -> None:
    said = paddock("image", "list")
    assert said.code == 0
    head, *lines = said.out.splitlines()
    assert head.split()[:3] == ["IMAGE", "STATE", "HOST"]
    assert max(len(line) for line in lines) <= 120
    *lines, problem = lines
    names = [line[: head.index("STATE")].rstrip() for line in lines]
    assert names == [
        "debian",
        "├ (base)",
        "├ (agent)",
        "├─ web",
        "│",
        "│  ├ packages",
        "│  └ motd",
        "└─ bare",
    ]
    assert problem == "! web@vm-2: motd: exit 1; tried again over: paddock image log web@vm-2"
    (web,) = [line for line in lines if "web" in line and "vm-1" in line]
    assert web.split()[2:9] == ["ready", "vm-1", "344", "MiB", "20.0", "GiB", web.split()[8]]
    assert "not built" in next(line for line in lines if "bare" in line)


def test_the_last_use_is_told_where_the_host_answers(paddock: Paddock, answers: dict[tuple[str, str], object]) -> None:
    used = {row["name"]: [one["used"] for one in row["hosts"]] for row in paddock("image", "list", "--json").objects}
    assert used == {"debian": [None], "web": ["2026-01-01T00:00:00.000Z", None], "bare": []}
    del answers["POST", "/agents/vm-1/commands"]
    said = paddock("image", "list", "--json")
    assert (said.code, said.objects[1]["hosts"][0]["used"]) == (0, None)


def test_one_image_is_shown_with_what_it_is_made_of(paddock: Paddock) -> None:
    said = paddock("image", "show", "we")
    assert said.code == 0
    assert "made of  image debian" in said.out
    assert "used by  two-node" in said.out
    assert "└─ web" in said.out
    assert "bare" not in said.out
    assert paddock("image", "show", "nope").code == 4
    assert paddock("image", "show", "web", "--json").objects[0]["scripts"] == ["packages", "motd"]


def test_a_build_that_runs_tells_how_far_it_is(paddock: Paddock, answers: dict[tuple[str, str], object]) -> None:
    running = there("debian", state="building", percent=40.0, eta=125.0)
    answers["POST", "/images/debian/build"] = replace(DEBIAN, hosts=(running,))
    said = paddock("image", "build", "debian")
    assert said.out.splitlines() == [
        "image debian@vm-1: building 40%, 2m 05s left",
        "  follow it:  paddock image log -f debian@vm-1",
    ]
    answers["GET", "/images"] = shapes.Images(items=(replace(DEBIAN, hosts=(running,)),))
    assert "40%, 2m 05s" in paddock("image", "list").out


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [("ready", 0), ("failed", 1)])
def test_a_build_is_followed_to_its_end(
    paddock: Paddock, desk: Desk, answers: dict[tuple[str, str], object], end: str, code: int
) -> None:
    text = desk.texts["/images/debian%40vm-1/log"] = Text()
    states = iter(["wanted", "building", "building"])

    def on(method: str, path: str) -> None:
        if path != "/api/v1/images/debian":
            return
        state = next(states, end)
        if state == "building":
            text.say(b"one\ntw")
            text.say(b"o\n", is_over=True)
        row = there("debian", state=state, since=f"2026-01-01T00:00:0{len(state)}.000Z", reason="motd: exit 1")
        answers["GET", "/images/debian"] = replace(DEBIAN, hosts=(row,))

    desk.on = on
    answers["POST", "/images/debian/build"] = replace(DEBIAN, hosts=(there("debian", state="wanted"),))
    said = paddock("image", "build", "--follow", "debian")
    assert said.code == code
    assert [line for line in said.out.splitlines() if "@" not in line] == ["one", "two"]
    assert said.out.splitlines()[0] == "image debian@vm-1: wanted"
    if end == "failed":
        assert "paddock: image debian@vm-1: motd: exit 1" in said.err
    else:
        assert said.out.splitlines()[-1].startswith("image debian@vm-1: ready, ")
    assert paddock("image", "build", "--follow", "--json", "debian").code == 2


def test_the_log_of_a_build_is_followed_or_told_as_far_as_it_is(paddock: Paddock, desk: Desk) -> None:
    text = desk.texts["/images/web%40vm-1/log"] = Text(data="é\nno end".encode())
    said = paddock("image", "log", "web@vm-1")
    assert (said.code, said.out) == (0, "é\nno end\n")
    text.is_over = True
    assert paddock("image", "log", "-f", "web", "--host", "vm-1", "--json").objects == [
        {"text": "é"},
        {"text": "no end"},
    ]
    assert paddock("image", "log", "web@nowhere").code == 4


@pytest.mark.slow
def test_collection_says_first_what_would_go(
    paddock: Paddock, desk: Desk, answers: dict[tuple[str, str], object]
) -> None:
    removed = [{"digest": "c" * 64, "bytes": 40 * MIB, "why": "not used for 31d"}]
    over = replace(COMMAND, method="image.collect", result={"removed": removed, "freed": 40 * MIB})
    answers["POST", "/images/collect"] = shapes.AgentCommands(items=(over,))
    said = paddock("image", "gc", "--unused", "30d", "--room", "20GiB")
    assert said.code == 0
    assert "web packages" in said.out
    assert said.out.splitlines()[-1] == "1 would go, and 40.0 MiB more be free; to remove them say --yes"
    assert paddock("image", "gc", "--yes").out.splitlines()[-1] == "removed 1, 40.0 MiB more are free"
    assert paddock("image", "gc", "--json").objects[0]["dry_run"] is True
    answers["POST", "/images/collect"] = shapes.AgentCommands(items=(replace(over, result={}),))
    assert paddock("image", "gc").out == "nothing to remove: everything is used, is young, or serves\n"
    answers["POST", "/images/collect"] = shapes.AgentCommands(
        items=(replace(over, state="failed", code="busy", message="later"),)
    )
    said = paddock("image", "gc")
    assert (said.code, said.err) == (1, "paddock: host a1: later\n")


def test_what_the_server_refuses_is_said(paddock: Paddock, desk: Desk) -> None:
    def on(method: str, path: str) -> None:
        if path.endswith("/build"):
            raise Refusal(409, "refused", "host nowhere: it builds no images", hint="skills: [hypervisor]")

    desk.on = on
    said = paddock("image", "build", "--host", "nowhere", "web")
    assert (said.code, said.err.splitlines()) == (
        3,
        ["paddock: host nowhere: it builds no images", "hint: skills: [hypervisor]"],
    )


@pytest.mark.parametrize(
    ("typed", "count"), [("20GiB", 20 << 30), ("512m", 512 << 20), ("1.5 TiB", 3 << 39), ("7", 7), ("4kb", 4096)]
)
def test_sizes_are_read_as_people_type_them(typed: str, count: int) -> None:
    assert SIZE.convert(typed, None, None) == count


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (4096, "4.0 KiB"), (200 << 20, "200 MiB"), (3 << 39, "1.5 TiB")]
)
def test_sizes_are_spelled_with_two_figures(count: int, text: str) -> None:
    assert spell(count) == text


def test_an_image_whose_parents_form_a_circle_is_drawn_once() -> None:
    one, two = image("one", parent="two"), image("two", parent="one")
    assert [each.name for each in chains.lineage((one, two), one)] == ["two", "one"]
