"""What the cloud says: each dialect, files, whoever hangs, and an agent that waits for none of it."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.agent.cloud import dialects, fetching, hints, probing, seeds
from paddock.agent.cloud.facts import CloudFacts, code_in
from paddock.core.errors import Broken, Refused
from paddock.wire.messages import Success
from tests.agent.conftest import Host
from tests.agent.desk import Desk
from tests.agent.metadata import AZURE, CODE, EC2, GOOGLE, OPENSTACK, USER_DATA, Metadata

AMAZON = CloudFacts(name="Amazon", instance="i-0123456789abcdef0", addresses=("10.0.0.5", "198.51.100.5"), code=CODE)
NOVA = CloudFacts(name="OpenStack", instance="d8e02d56-2648-49a3-bf97-6be8f1204f38", code=CODE)
MICROSOFT = CloudFacts(
    name="Azure",
    instance="02aab8a4-74ef-476e-8182-f6d2ba4166a6",
    addresses=("10.1.0.4", "198.51.100.7"),
    code=CODE,
)
ALPHABET = CloudFacts(name="Google", instance="8087716956832600000", addresses=("10.2.0.3", "198.51.100.9"), code=CODE)
SPOKEN = [(EC2, AMAZON), (OPENSTACK, NOVA), (AZURE, MICROSOFT), (GOOGLE, ALPHABET)]
IDS = [known.name for _, known in SPOKEN]
CODED = "paddock-enrolment-code"
ASKED_AT_ONCE = 5
"""OpenStack two pages, Azure and Google one, Amazon its session."""


# What is read


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"{CODED}: abc-123", "abc-123"),
        (f"#cloud-config\n# {CODED}: 'abc'\n", "abc"),
        (f'#!/bin/sh\r\nexport {CODED}="abc"\r\n', "abc"),
        (f"{CODED} = abc   ", "abc"),
        (f"the {CODED}: abc", ""),
        (f"{CODED}: two words", ""),
        (f"{CODED}:", ""),
        (f"{CODED}: " + "x" * 600, ""),
        ("", ""),
    ],
)
def test_a_code_stands_on_a_line_of_user_data(text: str, code: str) -> None:
    assert code_in(text) == code


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b'{"uuid": {}}', b'{"id": [], "compute": 3}', b"\xff" * 9, b"[" * 100_000],
)
def test_answers_of_no_form_are_no_facts(body: bytes) -> None:
    for dialect in dialects.DIALECTS.values():
        found = dialect.read(dict.fromkeys(dialect.paths, body))
        assert found is None or dialect.name == "Amazon"
    assert dialects.nocloud(body, body) is None
    assert dialects.config_drive(body, body) is None


def test_an_error_page_is_no_instance() -> None:
    assert dialects.ec2({"/latest/meta-data/instance-id": b"<html>\n<body>404"}) is None


def test_tags_go_before_user_data() -> None:
    told = json.loads(next(iter(AZURE.values())))
    told["compute"]["tagsList"].append({"name": CODED, "value": "from-a-tag"})
    found = dialects.azure({next(iter(AZURE)): json.dumps(told).encode()})
    assert found == replace(MICROSOFT, code="from-a-tag")
    pages = {path: text.encode() for path, text in EC2.items()}
    pages[f"/latest/meta-data/tags/instance/{CODED}"] = b"from-a-tag"
    assert dialects.ec2(pages) == replace(AMAZON, code="from-a-tag")


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


SEEDS: list[tuple[Mapping[str, str], CloudFacts]] = [
    (
        {
            "var/lib/cloud/seed/nocloud/meta-data": "instance-id: i-1\n",
            "var/lib/cloud/seed/nocloud/user-data": USER_DATA,
        },
        CloudFacts(name="NoCloud", instance="i-1", code=CODE),
    ),
    (
        {"var/lib/cloud/seed/nocloud-net/meta-data": f"instance-id: i-2\n{CODED}: in-meta-data\n"},
        CloudFacts(name="NoCloud", instance="i-2", code="in-meta-data"),
    ),
    (
        {
            "var/lib/cloud/seed/config_drive/openstack/latest/meta_data.json": next(iter(OPENSTACK.values())),
        },
        NOVA,
    ),
    (
        {
            "run/cloud-init/instance-data.json": '{"v1": {"cloud_name": "aws", "instance_id": "i-3"}}',
            "var/lib/cloud/instance/user-data.txt": USER_DATA,
        },
        CloudFacts(name="Amazon", instance="i-3", code=CODE),
    ),
    ({"var/lib/cloud/seed/nocloud/meta-data": "!!python/object:os.system [x]"}, CloudFacts()),
    ({"run/cloud-init/instance-data.json": "[]"}, CloudFacts()),
    ({}, CloudFacts()),
]


@pytest.mark.parametrize(("files", "known"), SEEDS)
def test_seeds_are_read_where_they_lie(files: Mapping[str, str], known: CloudFacts, tmp_path: Path) -> None:
    assert (seeds.found(write(tmp_path, files)) or CloudFacts()) == known


@pytest.mark.parametrize(
    ("label", "files", "known"),
    [
        ("CIDATA", {"meta-data": "instance-id: i-4"}, CloudFacts(name="NoCloud", instance="i-4")),
        ("config-2", {"openstack/latest/meta_data.json": next(iter(OPENSTACK.values()))}, NOVA),
    ],
)
def test_a_labelled_disk_is_read_where_it_is_mounted_and_not_before(
    label: str, files: Mapping[str, str], known: CloudFacts, tmp_path: Path
) -> None:
    write(tmp_path / "mnt/seed disk", files)
    write(tmp_path, {"dev/vdb": "", "proc/mounts": "/dev/vda / ext4 rw 0 0\n"})
    (tmp_path / "dev/disk/by-label").mkdir(parents=True)
    (tmp_path / "dev/disk/by-label" / label).symlink_to("../../vdb")
    assert seeds.found(tmp_path) is None
    write(tmp_path, {"proc/mounts": "/dev/vda / ext4 rw 0 0\n/dev/vdb /mnt/seed\\040disk iso9660 ro 0 0\n"})
    assert seeds.found(tmp_path) == known


# Who is asked


@pytest.mark.parametrize(
    ("files", "told", "asked"),
    [
        ({"sys/class/dmi/id/sys_vendor": "Amazon EC2\n"}, "", ("Amazon",)),
        ({"sys/class/dmi/id/product_name": "Google Compute Engine"}, "", ("Google",)),
        ({"sys/class/dmi/id/product_name": "OpenStack Nova"}, "", ("OpenStack",)),
        ({"sys/class/dmi/id/chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"}, "", ("Azure",)),
        ({"proc/cpuinfo": "flags : fpu hypervisor lahf_lm"}, "", ("OpenStack", "Azure", "Google", "Amazon")),
        ({"sys/class/dmi/id/sys_vendor": "Dell Inc.", "proc/cpuinfo": "flags : fpu"}, "", ()),
        ({"proc/cpuinfo": "flags : hypervisor", ".dockerenv": ""}, "", ()),
        ({"sys/class/dmi/id/sys_vendor": "Dell Inc."}, "amazon", ("Amazon",)),
        ({}, "Rackspace", ("OpenStack",)),
        ({"sys/class/dmi/id/sys_vendor": "Amazon EC2\n"}, "VMware", ()),
    ],
)
def test_nobody_is_asked_in_vain_or_where_anybody_could_answer(
    files: Mapping[str, str], told: str, asked: tuple[str, ...], tmp_path: Path
) -> None:
    assert hints.worth_asking(write(tmp_path, files), told) == asked


@pytest.mark.parametrize(("pages", "known"), SPOKEN, ids=IDS)
async def test_each_cloud_is_known_by_what_it_says(pages: Mapping[str, str], known: CloudFacts, tmp_path: Path) -> None:
    async with Metadata(pages).open() as service:
        assert await probing.probe(tmp_path, url=service.url) == known


async def test_amazons_second_version_is_asked_for_a_session_first(tmp_path: Path) -> None:
    async with Metadata(EC2, session=True).open() as service:
        assert await probing.probe(tmp_path, url=service.url) == AMAZON
        assert service.asked.index("PUT /latest/api/token") < service.asked.index("GET /latest/user-data")


async def test_one_that_speaks_two_dialects_is_known_by_its_own(tmp_path: Path) -> None:
    async with Metadata({**EC2, **OPENSTACK}).open() as service:
        assert await probing.probe(tmp_path, url=service.url) == NOVA


async def test_a_cloud_that_was_named_is_the_only_one_asked_and_keeps_its_name(tmp_path: Path) -> None:
    async with Metadata({**EC2, **OPENSTACK}).open() as service:
        found = await probing.probe(tmp_path, told="Eucalyptus", url=service.url)
        assert found == replace(AMAZON, name="Eucalyptus")
        assert not any("openstack" in asked for asked in service.asked)
        for name in ("none", "Other"):
            service.asked.clear()
            assert await probing.probe(tmp_path, told=name, url=service.url) == CloudFacts(
                name="" if name == "none" else name
            )
            assert service.asked == []


@pytest.mark.slow
async def test_whatever_hangs_costs_the_budget_and_no_more(tmp_path: Path) -> None:
    write(tmp_path, SEEDS[0][0])
    async with Metadata({}, hangs=True).open() as service:
        began = time.monotonic()
        found = await probing.probe(tmp_path, url=service.url, budget=timedelta(seconds=0.4))
        assert 0.35 < time.monotonic() - began < 1.5
        assert found == SEEDS[0][1], "what the files say is known all the same"
        assert len(service.asked) == ASKED_AT_ONCE


async def test_a_service_of_no_http_is_no_cloud(tmp_path: Path) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n" + b"x" * 1000)
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await probing.probe(tmp_path, url=f"http://127.0.0.1:{port}") == CloudFacts()
        with pytest.raises(Broken):
            await fetching.fetch("127.0.0.1", port, "/")


async def test_a_body_in_chunks_is_put_together() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        found = await fetching.fetch("127.0.0.1", server.sockets[0].getsockname()[1], "/")
    assert (found.status, found.body) == (200, b"abcde")


@pytest.mark.parametrize("url", ["https://x", "ftp://x", "http://", "http://x/path", "http://x:y", "x"])
def test_a_service_is_named_by_host_and_port(url: str) -> None:
    with pytest.raises(Refused, match="--metadata-url"):
        fetching.place(url)


# Real agents


@pytest.mark.slow
async def test_an_agent_enrols_with_the_code_that_its_instance_was_given(desk: Desk, host: Host) -> None:
    desk.codes[CODE] = "token-of-the-instance"
    desk.tokens.add("token-of-the-instance")
    async with Metadata(EC2, session=True).open() as service:
        host.start("--metadata-url", service.url, "--code", "")
        await desk.here()
        assert desk.hellos[-1].facts.instance == AMAZON.instance
        host.kill()
        await desk.until(lambda: not desk.seats)
        asked = len(service.asked)
        host.start("--metadata-url", service.url, "--code", "")
        await desk.here()
        assert len(service.asked) == asked, "once a boot"
    hello = desk.hellos[-1]
    assert (hello.facts.cloud, hello.facts.instance, hello.token) == (
        "Amazon",
        AMAZON.instance,
        "token-of-the-instance",
    )
    assert set(AMAZON.addresses) <= set(hello.facts.addresses)
    assert CODE not in (host.state / "cloud").read_text()


@pytest.mark.slow
async def test_without_any_code_it_says_so_after_the_budget(host: Host) -> None:
    async with Metadata({}, hangs=True).open() as service:
        began = time.monotonic()
        host.start("--metadata-url", service.url, "--code", "")
        assert host.process is not None
        assert await asyncio.to_thread(host.process.wait, 30) == 2
        assert time.monotonic() - began < 15
        assert len(service.asked) == ASKED_AT_ONCE
    assert "no identity yet, and no --code" in host.log.read_text()
    assert not host.state.exists()


@pytest.mark.slow
async def test_hello_does_not_wait_for_a_cloud_that_hangs(desk: Desk, host: Host) -> None:
    async with Metadata({}, hangs=True).open() as service:
        host.start("--metadata-url", service.url)
        await desk.until(lambda: service.asked and desk.hellos)
        answer = await desk.ask(desk.command("c", "system.facts"))
        assert isinstance(answer, Success)
        assert (answer.result["cloud"], answer.result["instance"]) == ("", "")
        assert len(desk.hellos) == 1


@pytest.mark.slow
async def test_what_the_cloud_says_after_hello_is_told_by_another_one(desk: Desk, host: Host) -> None:
    async with Metadata(GOOGLE).open() as service:
        host.start("--metadata-url", service.url)
        await desk.until(lambda: desk.hellos and desk.hellos[-1].facts.instance == ALPHABET.instance)
        assert desk.hellos[-1].facts.cloud == "Google"
        assert len(desk.hellos) <= 2
        await desk.here()


@pytest.mark.slow
async def test_a_copy_with_a_code_of_its_own_from_the_cloud_begins_anew_by_itself(
    desk: Desk, host: Host, tmp_path: Path
) -> None:
    root = write(tmp_path / "root", {"etc/machine-id": "1" * 31 + "2"})
    host.start("--rootfs", str(root))
    await desk.here()
    host.kill()
    await desk.until(lambda: not desk.seats)
    write(root, {"etc/machine-id": "3" * 31 + "4"})
    desk.codes[CODE] = "token-of-the-instance"
    async with Metadata(OPENSTACK).open() as service:
        host.start("--rootfs", str(root), "--metadata-url", service.url)
        await desk.here()
    assert desk.hellos[-1].token == "token-of-the-instance"
    assert desk.hellos[-1].ledger != desk.hellos[0].ledger
