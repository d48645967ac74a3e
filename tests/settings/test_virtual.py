"""Images, hosts and environments of virtual machines: what the file says, and everything that is not right about it."""

from datetime import timedelta
from pathlib import Path

import pytest

from paddock.core.image import Entry
from paddock.core.job import StepKind
from paddock.core.machine import NicSettings, Overcommit, Start
from paddock.settings import Invalid, read

GIB = 1 << 30
SUM = "a" * 64
WHOLE = f"""\
- host:
    name: vm-1
    skills: [hypervisor]
    labels: [big, kvm]
    memory: 24GiB
    vcpus: 16
    disk: 200GiB
    overcommit: {{memory: 1.5, vcpus: 4, disk: 1}}
- script: {{name: stack, run: "./stack.sh", interpreter: /bin/bash}}
- image:
    name: debian
    url: "https://images.example.org/debian-12.qcow2.xz"
    sha256: {SUM}
    size: 8GiB
- image:
    name: devstack
    parent: debian
    size: 20GiB
    scripts:
      - stack
      - {{run: "echo hello", name: greet, env: {{A: 1}}, files: {{/etc/motd: motd}}}}
    memory: 2GiB
    vcpus: 2
    limit: 2h
    egress: ["opendev.org:443", "*.cache.example.org:443", "10.20.0.0/16:8080"]
    warm-up: "systemctl start stack"
    restart: [ssh, stack]
- image: {{name: tiny, path: /srv/tiny.raw, entry: none, kernel: /srv/vmlinuz, initrd: /srv/initrd, cmdline: quiet}}
- environment:
    name: cloud
    machines:
      - {{name: controller, image: devstack, memory: 4GiB, vcpus: 2, disks: [10GiB], nets: [private, {{}}],
         display: true}}
      - {{name: node, image: tiny, count: 3, nets: [{{network: private}}, outside], boot: [network, disk]}}
    networks:
      - {{name: private, subnet: 10.1.0.0/24, latency: 20ms, loss: 5%, rate: 1MiB}}
      - {{name: outside, bridge: virbr0}}
    labels: [kvm]
    egress: ["*.example.org:443"]
    start: boot
    ttl: 4h
    hold: {{longest: 7d, space: 50GiB}}
    min-ready: 1
    max: 4
- job:
    name: reboots
    environment: cloud
    steps:
      - {{reboot: true, on: controller, within: 2m}}
      - {{kexec: {{kernel: /boot/vmlinuz-new, cmdline: "root=/dev/vda1"}}}}
      - {{power: reset, on: [node-1, node-3], boot: [disk]}}
- replay: {{name: old, file: events.jsonl}}
- project: {{name: nova, jobs: [reboots]}}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "motd").write_text("welcome\n")
    return tmp_path


def problems(text: str, directory: Path = Path("/nonexistent")) -> str:
    with pytest.raises(Invalid) as caught:
        read(text, directory=directory)
    return "\n".join(str(problem) for problem in caught.value.problems)


def test_a_host_says_what_may_be_booked_on_it(here: Path) -> None:
    host = read(WHOLE, directory=here).configuration.hosts["vm-1"]
    assert (host.labels, host.memory, host.vcpus, host.disk) == (("big", "kvm"), 24 * GIB, 16, 200 * GIB)
    assert host.overcommit == Overcommit(memory=1.5, vcpus=4, disk=1)
    assert host.isolation


def test_one_number_is_the_overcommit_of_all_three() -> None:
    text = "- host: {name: vm-1, skills: [hypervisor], overcommit: 2}"
    assert read(text, directory=Path()).configuration.hosts["vm-1"].overcommit == Overcommit(memory=2, vcpus=2, disk=2)


def test_images_carry_the_texts_of_their_scripts_and_files(here: Path) -> None:
    images = read(WHOLE, directory=here).configuration.images
    assert list(images) == ["debian", "devstack", "tiny"]
    stack, greet = images["devstack"].scripts
    assert (stack.name, stack.run, stack.interpreter) == ("stack", "./stack.sh", "/bin/bash")
    assert (greet.name, greet.env, greet.files) == ("greet", {"A": "1"}, {"/etc/motd": "welcome\n"})
    assert (images["devstack"].limit, images["devstack"].restart) == (timedelta(hours=2), ("ssh", "stack"))
    assert images["devstack"].egress == ("opendev.org:443", "*.cache.example.org:443", "10.20.0.0/16:8080")
    assert images["debian"].egress == (), "each image of a chain has its own list"
    assert (images["tiny"].entry, images["tiny"].kernel) == (Entry.NONE, "/srv/vmlinuz")
    assert (images["debian"].sha256, images["debian"].size) == (SUM, 8 * GIB)


def test_a_pool_carries_its_machines_and_networks(here: Path) -> None:
    pool = read(WHOLE, directory=here).configuration.pools["cloud"]
    assert pool.machines == ("controller", "node-1", "node-2", "node-3")
    assert [one.name for one in pool.settings] == list(pool.machines)
    controller, node = pool.settings[0], pool.settings[1]
    assert (controller.memory, controller.vcpus, controller.disks) == (4 * GIB, 2, (10 * GIB,))
    assert controller.nets == (NicSettings(network="private"), NicSettings())
    assert (node.memory, node.vcpus, node.boot) == (GIB, 1, ("network", "disk"))
    private, outside = pool.networks
    assert (private.subnet, private.latency, private.rate) == ("10.1.0.0/24", timedelta(milliseconds=20), 1 << 20)
    assert (private.loss, outside.bridge) == (0.05, "virbr0")
    assert (pool.host, pool.labels, pool.start, pool.egress) == ("", ("kvm",), Start.BOOT, ("*.example.org:443",))
    assert (pool.ttl, pool.hold.longest, pool.hold.space) == (timedelta(hours=4), timedelta(days=7), 50 * GIB)


def test_machines_of_images_are_isolated_so_that_a_forge_needs_no_trust(here: Path) -> None:
    assert read(WHOLE, directory=here).configuration.pools["cloud"].isolated
    text = WHOLE.replace("skills: [hypervisor]", "skills: [hypervisor], isolation: none".replace(", ", "\n    "))
    assert "has no isolation (host vm-1)" in problems(text, here)


def test_steps_that_boot_machines_are_steps(here: Path) -> None:
    reboot, kexec, power = read(WHOLE, directory=here).configuration.jobs["reboots"].steps
    assert (reboot.kind, reboot.on, reboot.within) == (StepKind.REBOOT, ("controller",), timedelta(minutes=2))
    assert (kexec.kind, kexec.kexec and kexec.kexec.kernel) == (StepKind.KEXEC, "/boot/vmlinuz-new")
    assert (power.kind, power.power, power.on, power.boot) == (StepKind.POWER, "reset", ("node-1", "node-3"), ("disk",))
    assert [step.ends_boot for step in (reboot, kexec, power)] == [True, True, True]


IMAGE = "- image: {name: i, path: /srv/i.raw}\n"
HOST = "- host: {name: h, skills: [hypervisor]}\n"
LOCAL = "- host: {name: l, skills: [local]}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- image: {name: i}", "1:10  image i: wants one of `url`, `path` and `parent`"),
        ("- image: {name: i, url: 'http://a/b', path: /c}", "image i: path: it comes from its url already"),
        ("- image: {name: i, url: 'ftp://a/b'}", 'image i: url "ftp://a/b" is not an http or https address'),
        ("- image: {name: i, path: b.raw}", 'image i: path "b.raw" is not an absolute path'),
        ("- image: {name: i, path: /b, sha256: abc}", 'image i: sha256 "abc" is not a SHA-256'),
        (IMAGE + "- image: {name: k, parent: ii}", 'image k: parent: no image "ii" (did you mean "i"?)'),
        (
            "- image: {name: a, parent: b}\n- image: {name: b, parent: c}\n- image: {name: c, parent: a}",
            "image a: parent: a <- b <- c <- a is a circle",
        ),
        ("- image: {name: a, parent: a}", "image a: parent: a <- a is a circle"),
        (
            IMAGE + "- image: {name: k, parent: i, entry: none}",
            "image k: entry is for an image with a `url` or a `path`",
        ),
        (IMAGE + f"- image: {{name: k, parent: i, sha256: {SUM}}}", "image k: sha256 is for an image with"),
        (
            "- image: {name: i, path: /i, size: 8GiB}\n- image: {name: j, parent: i}\n"
            "- image: {name: k, parent: j, size: 4GiB}",
            "image k: size 4GiB is less than i has, 8GiB",
        ),
        ("- image: {name: i, path: /b, initrd: /c}", "image i: initrd goes with a `kernel`"),
        ("- image: {name: i, path: /b, scripts: [greet]}", 'image i: scripts[0].script: no script "greet"'),
        ("- image: {name: i, path: /b, scripts: [{name: x}]}", "image i: scripts[0] wants either `script` or `run`"),
        (
            "- image: {name: i, path: /b, scripts: [{run: x, files: {/a: nothing}}]}",
            'image i: scripts[0].files: "nothing": no such file or directory',
        ),
        ("- image: {name: i, path: /b, scripts: [{run: x, files: {a: b}}]}", '"a" is not an absolute path of a file'),
        ("- image: {name: i, path: /b, memory: 1MiB}", "image i: memory 1MiB is less than 16MiB"),
        ("- image: {name: i, path: /b, entry: cloud}", 'image i: entry "cloud" is not one of nocloud, helper, none'),
        (
            "- image: {name: i, path: /b, scripts: [{run: x}], egress: [a.org]}",
            "image i: egress[0] egress: a.org has no port (HOST:PORT, ",
        ),
        (
            IMAGE + "- image: {name: k, parent: i, egress: ['a.org:443']}",
            "image k: egress is for scripts of its own, and it has none: each image of a chain has its own list",
        ),
        ("- host: {name: h, skills: [hypervisor, local]}", "host h: skills: a host has one of local and hypervisor"),
        ("- host: {name: h, skills: [local], memory: 1GiB}", "host h: memory is for a host with the skill hypervisor"),
        (
            "- host: {name: h, skills: [hypervisor], overcommit: 0}",
            "overcommit.memory 0 is not a number from 0.1 to 100",
        ),
        (
            LOCAL + IMAGE + "- environment: {name: e, host: l, machines: [{name: a, image: i}]}",
            "environment e: host l makes no machines of images: it lacks the skill hypervisor",
        ),
        (
            HOST + "- environment: {name: e, host: h, machines: [{name: a}]}",
            "environment e: machines[0]: no image, and host h makes machines of images only",
        ),
        (LOCAL + "- environment: {name: e, machines: [{name: a}]}", "environment e: wants a `host`, or images"),
        (
            LOCAL + "- environment: {name: e, host: l, machines: [{name: a, memory: 1GiB}]}",
            "environment e: machines[0].memory is for a machine with an image",
        ),
        (
            LOCAL + "- environment: {name: e, host: l, machines: [{name: a}], egress: ['a.org:80']}",
            "environment e: egress is for machines with an image",
        ),
        (
            IMAGE + "- environment: {name: e, machines: [{name: a, image: i}]}",
            "no host is configured that makes machines",
        ),
        (
            LOCAL + IMAGE + "- environment: {name: e, machines: [{name: a, image: i}]}",
            "environment e: no host has the skill hypervisor",
        ),
        (
            "- host: {name: h, skills: [hypervisor], labels: [kvm]}\n"
            + IMAGE
            + "- environment: {name: e, labels: [kmv], machines: [{name: a, image: i}]}",
            'environment e: labels[0]: no host has "kmv" (did you mean "kvm"?)',
        ),
    ],
)
def test_what_is_not_right_is_told(text: str, expected: str) -> None:
    assert expected in problems(text)


@pytest.mark.parametrize("name", ["2", "node-2", "node2-x", "node-2x"])
def test_a_machine_may_be_numbered(name: str) -> None:
    assert read(with_machines(f"machines: [{{name: '{name}', image: i}}]"), directory=Path())


def with_machines(rest: str) -> str:
    return f"{HOST}{IMAGE}- environment: {{name: e, host: h, {rest}}}\n"


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("machines: [{name: a, image: x}]", 'environment e: machines[0].image: no image "x"'),
        ("machines: [{name: a, image: i}, {name: b}]", "environment e: machines[1]: no image, and others of its"),
        ("machines: [{name: a, image: i, memory: 8MiB}]", "machines[0].memory 8MiB is less than 16MiB"),
        ("machines: [{name: a, image: i, memory: 8GB}]", 'machines[0].memory "8GB" is not a size'),
        ("machines: [{name: a-1, image: i}, {name: a, image: i, count: 2}]", 'machine "a-1" is listed twice'),
        (
            "machines: [{name: 2-x, image: i}]",
            "environment e: machines[0].name: 2-x reads as a machine of another environment, which ends in a number: "
            "a letter goes before a number that has a `-` behind it, n2-x",
        ),
        ("machines: [{name: a, image: i}, {name: node-2-x, image: i}]", "behind it, node-n2-x"),
        ("machines: [{name: '2', image: i, count: 3}]", "machines[0].name: 2-1 reads as a machine of another"),
        ("machines: [{name: a, image: i, count: 40}, {name: b, image: i, count: 40}]", "they are 80, at most 64"),
        ("machines: [{name: a, image: i, nets: [priv]}]", 'machines[0].nets[0]: no network "priv"'),
        (
            "machines: [{name: a, image: i, nets: [{mac: '52:54:00:00:00:01'}, {mac: '52:54:00:00:00:01'}]}]",
            "machines[0].nets[1].mac: 52:54:00:00:00:01 is a's already",
        ),
        (
            "machines: [{name: a, image: i, count: 2, nets: [{mac: '52:54:00:00:00:01'}]}]",
            "machines[0].nets[0].mac: 52:54:00:00:00:01 is a-1's already",
        ),
        ("machines: [{name: a, image: i, nets: [{mac: '53:54:00:00:00:01'}]}]", "is a group address"),
        ("machines: [{name: a, image: i, nets: [{mac: 52-54}]}]", '"52-54" is not a MAC address'),
        ("machines: [{name: a, image: i}], networks: [{name: n, subnet: 10.0.0.1/24}]", "is not an IPv4 network"),
        ("machines: [{name: a, image: i}], networks: [{name: n, subnet: 10.0.0.0/30}]", "is not between /8 and /28"),
        ("machines: [{name: a, image: i}], networks: [{name: n, subnet: 127.0.0.0/24}]", "not a network for machines"),
        (
            "networks: [{name: n, subnet: 10.0.0.0/16}, {name: m, subnet: 10.0.1.0/24}], "
            "machines: [{name: a, image: i}]",
            "networks[1].subnet: 10.0.1.0/24 overlaps 10.0.0.0/16 of network n",
        ),
        (
            "machines: [{name: a, image: i}], networks: [{name: n, subnet: 192.168.81.0/24}, {name: m}]",
            "networks[1]: 192.168.81.0/24 overlaps 192.168.81.0/24 of network n",
        ),
        (
            "machines: [{name: a, image: i, count: 8}], networks: [{name: n, subnet: 10.0.0.0/28}]",
            "networks[0].subnet: 10.0.0.0/28 has no room for 8 machines",
        ),
        (
            "machines: [{name: a, image: i}], networks: [{name: n, subnet: 10.0.0.0/24, bridge: virbr0}]",
            "networks[0].subnet: a bridge of the host has addresses of its own",
        ),
        (
            "max: 2, networks: [{name: n, bridge: virbr0}], "
            "machines: [{name: a, image: i, nets: [{network: n, mac: '52:54:00:00:00:01'}]}]",
            "on a bridge of the host, each of 2 environments would have it",
        ),
        ("machines: [{name: a, image: i}], networks: [{name: n, latency: 20}]", "20 is not a latency like 20ms"),
        ("machines: [{name: a, image: i}], networks: [{name: n, loss: 200%}]", '"200%" is not a share like 5%'),
        ("machines: [{name: a, image: i}], egress: ['example.org']", "environment e: egress[0] "),
        ("machines: [{name: a, image: i}], reset: none", "reset none: machines that are made of images"),
        ("machines: [{name: a, image: i}], labels: [x]", "labels: host h is named already"),
        ("machines: [{name: a, image: i}], ttl: 8d", "8d is not between 1s and 7d"),
    ],
)
def test_an_environment_that_is_not_right_is_told(rest: str, expected: str) -> None:
    assert expected in problems(with_machines(rest))


def test_machines_that_no_host_could_ever_carry_are_told_at_once() -> None:
    text = (
        "- host: {name: h, skills: [hypervisor], memory: 4GiB}\n"
        f"{IMAGE}- environment: {{name: e, host: h, machines: [{{name: a, image: i, count: 2, memory: 3GiB}}]}}\n"
    )
    assert "environment e: machines fit no host: host h has 4GiB memory, 6GiB are wanted" in problems(text)
    assert read(text.replace("memory: 4GiB", "memory: 4GiB, overcommit: 1.5"), directory=Path()).configuration.pools


def test_scripts_that_are_too_large_for_a_message_are_told(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text("x" * 200_000)
    text = "- image: {name: i, path: /b, scripts: [{run: x, files: {/a: a, /b: b, /c: c}}]}"
    assert "scripts: with their files and its parents' they have 585.9KiB, at most 512KiB" in problems(text, tmp_path)


@pytest.mark.parametrize(("content", "expected"), [(b"\xff\xfe", "is not text in UTF-8"), (b"x" * 300_000, "256KiB")])
def test_a_file_that_cannot_be_told_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a").write_bytes(content)
    assert expected in problems("- image: {name: i, path: /b, scripts: [{run: x, files: {/a: a}}]}", tmp_path)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("{reboot: true, run: x}", "steps[0] wants one of `run`, `reboot`"),
        ("{reboot: false}", "steps[0] wants either `script` or `run`"),
        ("{reboot: true, env: {A: b}}", "steps[0].env: reboot runs no script that it would be for"),
        ("{run: x, within: 1m}", "steps[0].within goes with `reboot`, `kexec` or `power`"),
        ("{reboot: true, boot: [disk]}", "steps[0].boot goes with `power`"),
        ("{power: maybe}", 'steps[0].power "maybe" is not one of off, shutdown, on, reset'),
        ("{kexec: {kernel: vmlinuz}}", 'steps[0].kexec.kernel "vmlinuz" is not an absolute path'),
    ],
)
def test_a_step_that_is_not_right_is_told(step: str, expected: str) -> None:
    text = with_machines("machines: [{name: a, image: i}]") + f"- job: {{name: j, environment: e, steps: [{step}]}}\n"
    assert expected in problems(text)


def test_a_process_has_no_power_button() -> None:
    text = (
        LOCAL
        + "- environment: {name: e, host: l, machines: [{name: a}]}\n"
        + "- job: {name: j, environment: e, trusted: true, steps: [{reboot: true}]}\n"
    )
    assert "steps[0].reboot: machines without an image share their host's kernel and power" in problems(text)
