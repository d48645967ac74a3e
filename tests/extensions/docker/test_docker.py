"""docker.* against a real Engine: containers are made once, started, ended, removed; images imported and pulled."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from paddock.core.errors import Broken, Missing, Refused
from paddock.wire.fields import BadParams
from paddock_docker.containers import LABEL
from tests.agent.conftest import Host
from tests.agent.desk import Desk
from tests.extensions.docker.conftest import Docker, output_of
from tests.extensions.docker.registry import Registry

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


async def inspect(docker: Docker, name: str) -> Any:
    return await docker.engine.ask("GET", f"/containers/{name}/json")


async def test_the_engine_says_what_it_is(docker: Docker) -> None:
    told = await docker.told("info")
    assert told["version"] == docker.engine.version["Version"]
    assert told["api"] == f"{docker.engine.api[0]}.{docker.engine.api[1]}"
    assert told["root"] == f"{docker.daemon.directory}/data"
    assert told["cpus"] == os.cpu_count()


async def test_an_image_is_imported_once(docker: Docker) -> None:
    first = await docker.ask("import", path=str(docker.busybox), image="made:1", changes=["ENV WHO=you"])
    assert first.result["changed"] is True
    second = await docker.ask("import", path=str(docker.busybox), image="made:1", changes=["ENV WHO=you"])
    assert second.result == {"id": first.result["id"], "changed": False}
    third = await docker.ask("import", path=str(docker.busybox), image="made:1", changes=["ENV WHO=me"])
    assert third.result["changed"] is True
    assert third.result["id"] != first.result["id"]
    with pytest.raises(Missing, match=r"nothing\.tar: no file"):
        await docker.ask("import", path="nothing.tar", image="made:1")


async def test_what_is_no_tar_is_the_engines_own_complaint(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "no.tar").write_bytes(b"x" * 4_000_000)
    with pytest.raises((Broken, Refused), match=r"Docker Engine: .*(tar|archive|invalid|EOF)"):
        await docker.ask("import", path=str(tmp_path / "no.tar"), image="broken")


async def test_a_container_is_created_once_by_its_name(docker: Docker) -> None:
    params: dict[str, Any] = {"name": "one", "image": "busybox", "network": "none", "command": ["sleep", "100"]}
    first = await docker.told("create", **params)
    assert first["changed"] is True
    assert await docker.told("create", **params) == {"id": first["id"], "changed": False, "warnings": []}
    with pytest.raises(Refused, match="one: is there already, and was created otherwise"):
        await docker.ask("create", **{**params, "command": ["sleep", "200"]})
    assert (await inspect(docker, "one"))["Args"] == ["100"]


async def test_two_that_create_the_same_container_at_once_get_one(docker: Docker) -> None:
    params: dict[str, Any] = {"name": "one", "image": "busybox", "network": "none"}
    told = await asyncio.gather(*(docker.told("create", **params) for _ in range(5)))
    assert len({one["id"] for one in told}) == 1
    assert sum(one["changed"] for one in told) == 1


async def test_a_container_is_as_it_was_asked_for(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "word").write_text("shared word")
    script = 'echo "$WHO $(id -u) $(hostname) $PWD"; cat /shared/word; echo x > /shared/new || echo read-only'
    await docker.run(
        "one",
        script,
        env={"WHO": 'it\'s "me" $HOME'},
        hostname="box-1",
        user="1000:1000",
        directory="/tmp",
        memory=64 << 20,
        cpus=0.5,
        pids=50,
        ports={"80": "8080", "53/udp": "127.0.0.1:5353", "81": ""},
        volumes={"/shared": f"{tmp_path}/shared:ro", "/data": "a-volume"},
        restart="on-failure:3",
        cap_add=["NET_ADMIN"],
        cap_drop=["ALL"],
        labels={"org.example.who": "me"},
    )
    await docker.ended("one")
    data, _ = await docker.printed("one", streams="out")
    assert data == b'it\'s "me" $HOME 1000 box-1 /tmp\nshared wordread-only\n'
    found = await inspect(docker, "one")
    host, made = found["HostConfig"], found["Config"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 500_000_000, 50)
    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}],
        "81/tcp": [{"HostIp": "", "HostPort": ""}],
    }
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert (host["CapAdd"], host["CapDrop"], host["Privileged"]) == (["NET_ADMIN"], ["ALL"], False)
    assert made["Labels"].items() >= {"org.example.who": "me"}.items()
    assert LABEL in made["Labels"]


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"name": "-x"}, "params.name"),
        ({"name": "a/b"}, "params.name"),
        ({"name": "a?force=1"}, "params.name"),
        ({"image": "Upper"}, "params.image"),
        ({"image": "a b"}, "params.image"),
        ({"image": "../a"}, "params.image"),
        ({"ports": {"80": "127.0.0.1:99999"}}, "params.ports['80']"),
        ({"ports": {"80/icmp": ""}}, "params.ports['80/icmp']"),
        ({"volumes": {"/a": ":ro"}}, "params.volumes['/a']"),
        ({"volumes": {"a": "b"}}, "params.volumes['a']"),
        ({"restart": "sometimes"}, "params.restart"),
        ({"memory": 1}, "params.memory"),
    ],
)
async def test_params_that_cannot_be_meant_are_refused_before_the_engine_is_asked(
    docker: Docker, params: dict[str, Any], path: str
) -> None:
    with pytest.raises(BadParams) as refused:
        await docker.ask("create", **{"name": "one", "image": "busybox", "network": "none", **params})
    assert refused.value.path == path
    assert (await docker.told("list", all=True))["containers"] == []


async def test_an_image_that_is_not_here_is_the_engines_own_complaint(docker: Docker) -> None:
    with pytest.raises(Missing, match="No such image: nothing:latest"):
        await docker.ask("create", name="one", image="nothing", network="none")


async def test_start_and_stop_say_whether_they_changed_anything(docker: Docker) -> None:
    await docker.run("one", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    assert await docker.told("start", container="one") == {"changed": False}
    while b"ready" not in (await docker.printed("one"))[0]:
        pass
    assert await docker.told("stop", container="one") == {"changed": True, "exit": 3}
    assert await docker.told("stop", container="one") == {"changed": False, "exit": 3}
    for verb in ("start", "stop", "kill", "logs"):
        with pytest.raises(Missing, match=r"(?i)no such container"):
            await docker.ask(verb, container="nothing")


async def test_what_does_not_hear_its_signal_is_killed_after_the_grace(docker: Docker) -> None:
    await docker.run("one", "trap '' TERM; while :; do sleep 0.05; done")
    assert await docker.told("stop", container="one", grace=1) == {"changed": True, "exit": 137}


async def test_a_signal_is_sent_to_what_runs_only(docker: Docker) -> None:
    await docker.run("one", "trap 'echo heard; exit 4' HUP; echo ready; while :; do sleep 0.05; done")
    while b"ready" not in (await docker.printed("one"))[0]:
        pass
    await docker.told("kill", container="one", signal="HUP")
    assert await docker.ended("one") == 4
    assert (await docker.printed("one"))[0] == b"ready\nheard\n"
    with pytest.raises(Refused, match="is not running"):
        await docker.ask("kill", container="one")
    with pytest.raises((Refused, Broken), match=r"(?i)invalid signal"):
        await docker.ask("kill", container="one", signal="NONSENSE")


async def test_what_runs_is_removed_by_force_only_and_then_it_is_gone(docker: Docker) -> None:
    await docker.run("one", "sleep 100")
    with pytest.raises(Refused, match="You cannot remove a running container"):
        await docker.ask("remove", container="one")
    assert await docker.told("remove", container="one", force=True) == {"changed": True}
    assert await docker.told("remove", container="one", force=True) == {"changed": False}


async def test_an_image_is_removed_once(docker: Docker) -> None:
    await docker.told("import", path=str(docker.busybox), image="localhost:5000/gone/image:2", changes=["ENV A=gone"])
    told = await docker.told("remove_image", image="localhost:5000/gone/image:2")
    assert told["changed"] is True
    assert told["removed"][0] == "untagged localhost:5000/gone/image:2"
    assert await docker.told("remove_image", image="localhost:5000/gone/image:2") == {"changed": False, "removed": []}


async def test_lists_come_in_pages_that_come_to_an_end(docker: Docker) -> None:
    for name in ("one", "two", "three"):
        await docker.told("create", name=name, image="busybox", network="none")
    await docker.run("four", "sleep 100")
    found, cursor, pages = [], "", 0
    while pages == 0 or cursor:
        told = await docker.told("list", all=True, most=2, cursor=cursor)
        found += [name for row in told["containers"] for name in row["names"]]
        cursor, pages = told.get("cursor", ""), pages + 1
    assert (sorted(found), pages) == (["four", "one", "three", "two"], 2)
    (running,) = (await docker.told("list"))["containers"]
    assert (running["names"], running["state"], running["image"]) == (["four"], "running", "busybox:latest")
    images = (await docker.told("list", of="images"))["images"]
    assert ["busybox:latest"] in [row["names"] for row in images]


async def test_a_large_row_is_cut_and_told_and_no_page_is_empty_for_ever(docker: Docker) -> None:
    await docker.told("create", name="large", image="busybox", network="none", command=["x" * 500_000])
    await docker.told("create", name="small", image="busybox", network="none")
    told = await docker.told("list", all=True)
    assert sorted(name for row in told["containers"] for name in row["names"]) == ["large", "small"]
    assert len(json.dumps(told)) < 10_000
    assert "cursor" not in told


async def test_an_image_is_pulled_from_a_registry_once(docker: Docker) -> None:
    with Registry(docker.busybox).serve() as registry:
        image = f"{registry.address}/tools/busybox"
        outcome = await docker.ask("pull", image=image)
        assert outcome.result["changed"] is True
        printed = output_of(outcome).decode()
        assert "Pulling from tools/busybox" in printed
        assert "Status: Downloaded newer image" in printed
        assert (await docker.ask("pull", image=image)).result == {"id": outcome.result["id"], "changed": False}
        by_digest = await docker.told("pull", image=f"{image}@{registry.digest}")
        assert by_digest["id"] == outcome.result["id"]
        await docker.run("pulled", "echo pulled", image=image)
        await docker.ended("pulled")
        assert (await docker.printed("pulled"))[0] == b"pulled\n"
        with pytest.raises((Missing, Broken), match=r"(?i)docker engine: .*(not found|unknown)"):
            await docker.ask("pull", image=f"{registry.address}/tools/nothing")
        await docker.told("remove", container="pulled")
        await docker.told("remove_image", image=image, force=True)
    with pytest.raises(Broken, match="connection refused"):
        await docker.ask("pull", image=image)


async def test_many_commands_leave_no_descriptor_and_no_task_behind(docker: Docker) -> None:
    await docker.run("one", "seq 100")
    await docker.ended("one")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        await docker.told("list")
        await docker.printed("one")
        with pytest.raises(Missing):
            await docker.ask("start", container="nothing")
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(asyncio.all_tasks()) == 1


async def test_without_an_engine_it_says_where_it_looked(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(Broken, match=r"/nowhere/docker\.sock: no Docker Engine answers: No such file"):
        await docker.ask("info")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    with pytest.raises(Refused, match="not a socket of this machine"):
        await docker.ask("info")


# ---- a whole agent ---------------------------------------------------------------------------------------------------


async def test_an_agent_finds_the_skill_by_its_entry_point_and_runs_a_container(
    desk: Desk, host: Host, docker: Docker
) -> None:
    host.start(DOCKER_HOST=docker.daemon.host)
    seat = await desk.here()
    assert "docker" in seat.hello.skills
    created = {"name": "one", "image": "busybox", "network": "none", "command": ["seq", "3"]}
    for number, (method, params) in enumerate(
        [("create", created), ("start", {"container": "one"}), ("logs", {"container": "one", "follow": 60})]
    ):
        answer: Any = await desk.ask(desk.command(f"c{number}", f"docker.{method}", **params))
        assert hasattr(answer, "result"), answer
    assert await desk.whole("c2") == b"1\n2\n3\n"
    refused: Any = await desk.ask(desk.command("c9", "docker.create", **{**created, "image": "a b"}))
    assert str(refused.code) == "bad_params"
    assert refused.msg.startswith("params.image")


async def test_an_agent_says_how_far_an_image_is(desk: Desk, host: Host, docker: Docker, tmp_path: Path) -> None:
    host.start(DOCKER_HOST=docker.daemon.host)
    params = {"path": str(docker.busybox), "image": "busybox:2", "changes": ["ENV A=2"]}
    await desk.ask(desk.command("c1", "docker.import", **params))
    assert (await desk.final("c1")).state == "complete"
    with Registry(docker.busybox).serve() as registry:
        await desk.ask(desk.command("c2", "docker.pull", image=f"{registry.address}/tools/busybox"))
        assert (await desk.final("c2")).state == "complete"
        assert b"Pulling from tools/busybox" in await desk.whole("c2")
        await docker.told("remove_image", image=f"{registry.address}/tools/busybox", force=True)
    for task in ("c1", "c2"):
        percents = [status.percent for status in desk.statuses if status.task_id == task and status.percent is not None]
        assert (percents, percents[-1]) == (sorted(percents), 100)


async def test_logs_go_on_after_the_agent_was_killed_and_nothing_is_sent_twice(
    desk: Desk, host: Host, docker: Docker
) -> None:
    await docker.run("one", "for i in $(seq 2000); do echo line $i; [ $((i % 20)) != 0 ] || usleep 20000; done")
    host.start(DOCKER_HOST=docker.daemon.host)
    await desk.ask(desk.command("c1", "docker.logs", container="one", follow=60))
    for seen in (2000, 8000, 14000):
        await desk.until(lambda seen=seen: len(desk.streams["c1", "out"]) > seen)
        host.kill()
        host.start(DOCKER_HOST=docker.daemon.host)
    status = await desk.final("c1", limit=60)
    assert (status.state, (status.result or {})["more"]) == ("complete", False)
    assert (await desk.whole("c1")).decode().splitlines() == [f"line {number}" for number in range(1, 2001)]
