"""What a machine's cloud-init is told: the texts, and the directory that holds them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from paddock.agent.cables.shapes import Card, Facts
from paddock.agent.skills.hypervisor import nocloud
from paddock.agent.skills.hypervisor.planting import plant

ONE = Card(mac="52:54:00:00:00:01", address="192.168.80.10/24")
TWO = Card(mac="52:54:00:00:00:02")
THREE = Card(mac="52:54:00:00:00:03")
UPLINK = Card(mac="52:54:00:00:00:04", address="10.0.2.15/24")


def facts(**changes: Any) -> Facts:
    told = {"name": "paddock-0a1b2c3d-lab-1-web", "hostname": "web", "keys": ("ssh-ed25519 AAAA lab-1",)}
    return Facts(**{**told, **changes})


def read(file: str, *, fence: int = 3, leased: tuple[str, ...] = (), **changes: Any) -> Any:
    text = nocloud.files(facts(**changes), fence=fence, leased=leased)[file].decode()
    return yaml.safe_load(text)


def test_a_seed_is_the_four_files_that_cloud_init_looks_for() -> None:
    assert set(nocloud.files(facts(), fence=1)) == {"meta-data", "user-data", "vendor-data", "network-config"}


def test_a_machine_has_its_name_and_lets_in_whom_its_lease_and_its_host_do() -> None:
    keys = ("ssh-ed25519 AAAA lab-1", 'command="a: {b}" ssh-ed25519 BBBB operator')
    assert read("meta-data", keys=keys) == {
        "instance-id": "paddock-0a1b2c3d-lab-1-web.3",
        "local-hostname": "web",
        "public-keys": list(keys),
    }


def test_it_is_another_instance_under_another_fence_or_name_and_else_the_same() -> None:
    one = read("meta-data")["instance-id"]
    assert read("meta-data", keys=(), cards=(ONE,))["instance-id"] == one
    assert read("meta-data", fence=4)["instance-id"] != one
    assert read("meta-data", name="paddock-0a1b2c3d-lab-2-web")["instance-id"] != one


@pytest.mark.parametrize("said", ["#cloud-config\nruncmd: [date]\n", "#!/bin/sh\necho 'ä: {'\n", "{}"])
def test_the_hosts_user_data_are_told_as_they_are(said: str) -> None:
    assert nocloud.files(facts(user_data=said), fence=1)["user-data"].decode() == said


@pytest.mark.parametrize("name", ["user-data", "vendor-data"])
def test_what_we_say_ourselves_is_a_configuration_by_its_first_line(name: str) -> None:
    head, _, rest = nocloud.files(facts(), fence=1)[name].decode().partition("\n")
    assert head == "#cloud-config"
    assert isinstance(yaml.safe_load(rest), dict)


def test_without_user_data_nothing_is_asked_for() -> None:
    assert read("user-data") == {}


def test_what_the_agent_sees_to_is_left_to_it() -> None:
    assert read("vendor-data") == {
        "ssh_deletekeys": False,
        "ssh_keys": {},
        "disable_root": False,
        "preserve_hostname": True,
        "manage_etc_hosts": False,
    }


def test_each_card_is_known_by_its_mac_and_has_its_address_or_asks_for_one() -> None:
    told = read("network-config", cards=(ONE, TWO, THREE), leased=(TWO.mac.upper(),))
    assert told["version"] == 2
    assert told["ethernets"] == {
        "card0": {"match": {"macaddress": ONE.mac}, "optional": False, "addresses": [ONE.address]},
        "card1": {"match": {"macaddress": TWO.mac}, "optional": True, "dhcp4": True},
    }


@pytest.mark.parametrize(
    ("cards", "leased", "required"),
    [
        ((ONE, UPLINK), (), "card1"),
        ((ONE, TWO, UPLINK), (TWO.mac,), "card2"),
        ((ONE, TWO), (TWO.mac,), "card0"),
        ((TWO, THREE), (TWO.mac, THREE.mac), "card1"),
        ((TWO, THREE), (TWO.mac,), "card0"),
    ],
)
def test_a_boot_waits_for_one_card_and_rather_for_none_whose_address_is_asked_for(
    cards: tuple[Card, ...], leased: tuple[str, ...], required: str
) -> None:
    told = read("network-config", cards=cards, leased=leased)["ethernets"]
    assert [name for name, card in told.items() if not card["optional"]] == [required]


@pytest.mark.parametrize("cards", [(), (TWO, THREE)])
def test_without_a_card_that_is_given_an_address_there_is_no_network_to_make(cards: tuple[Card, ...]) -> None:
    assert read("network-config", cards=cards) == {"config": "disabled"}


def test_a_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    plant(tmp_path / "seed", {"meta-data": b"one"})
    assert (tmp_path / "seed").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "seed" / "meta-data").stat().st_mode & 0o777 == 0o600


def test_what_is_there_stays_as_it_is_for_whoever_reads_it_now(tmp_path: Path) -> None:
    plant(tmp_path / "seed", {"meta-data": b"one"})
    plant(tmp_path / "seed", {"meta-data": b"two", "user-data": b"two"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "seed").iterdir()} == {"meta-data": b"one"}


@pytest.mark.slow
@pytest.mark.parametrize("point", ["hypervisor.planting", "hypervisor.planted"])
def test_a_kill_leaves_all_of_it_or_nothing_and_the_next_one_completes_it(tmp_path: Path, point: str) -> None:
    told = {"meta-data": b"one", "user-data": b"two"}
    script = (
        "import json, sys; from pathlib import Path; from paddock.agent.skills.hypervisor.planting import plant\n"
        "plant(Path(sys.argv[1]), {name: text.encode() for name, text in json.loads(sys.argv[2]).items()})"
    )
    words = json.dumps({name: text.decode() for name, text in told.items()})
    died = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "seed"), words],
        env={"PADDOCK_FAULT": point, "PYTHONPATH": ":".join(sys.path)},
        check=False,
    )
    assert died.returncode == -9
    assert (tmp_path / "seed").exists() == (point == "hypervisor.planted")

    plant(tmp_path / "seed", told)

    assert [path.name for path in tmp_path.iterdir()] == ["seed"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "seed").iterdir()} == told
