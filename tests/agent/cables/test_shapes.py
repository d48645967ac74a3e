"""What a machine is told about itself over HTTP, in the shapes of EC2 and OpenStack."""

import ipaddress
import json
import uuid

import pytest

from paddock.agent.cables import shapes
from paddock.agent.cables.shapes import Card, Facts, Said

FACTS = Facts(
    name="paddock-00000000-pool-1-web",
    hostname="web",
    cards=(
        Card(mac="52:54:00:aa:bb:01", address="192.168.80.10/24"),
        Card(mac="52:54:00:aa:bb:02", address="192.168.81.10/24"),
        Card(mac="52:54:00:aa:bb:03"),
    ),
    keys=("ssh-ed25519 AAAAlease paddock", "ssh-rsa AAAAhost operator"),
    user_data="#cloud-config\nmanage_etc_hosts: true\n",
)
BARE = Facts(name="paddock-00000000-pool-1-bare", hostname="bare")


def get(path: str, facts: Facts = FACTS) -> str:
    said = shapes.answer(facts, "GET", path)
    assert said.status == 200, path
    return said.body


@pytest.mark.parametrize("version", ["latest", "2009-04-04", "1.0"])
def test_ec2_tells_who_a_machine_is(version: str) -> None:
    assert get(f"/{version}/meta-data/hostname") == "web"
    assert get(f"/{version}/meta-data/local-hostname") == "web"
    assert get(f"/{version}/meta-data/local-ipv4") == "192.168.80.10"
    assert get(f"/{version}/meta-data/mac") == "52:54:00:aa:bb:01"
    assert get(f"/{version}/meta-data/public-keys/0/openssh-key") == "ssh-ed25519 AAAAlease paddock"
    assert get(f"/{version}/meta-data/public-keys/1/openssh-key") == "ssh-rsa AAAAhost operator"
    assert get(f"/{version}/user-data").startswith("#cloud-config")
    assert get(f"/{version}/meta-data/instance-id").startswith("i-")


def test_an_instance_is_the_same_whoever_asks_and_another_for_another_machine() -> None:
    assert get("/latest/meta-data/instance-id") == get("/2009-04-04/meta-data/instance-id")
    assert get("/latest/meta-data/instance-id") != get("/latest/meta-data/instance-id", BARE)
    assert json.loads(get("/openstack/latest/meta_data.json"))["uuid"] == str(FACTS.instance)


def crawled(base: str, listing: str) -> dict[str, object]:
    """What cloud-init's MetadataMaterializer makes of a listing: a directory ends with a slash, `N=name` is a key."""
    found: dict[str, object] = {}
    for line in listing.splitlines():
        name, is_directory = line.rstrip("/"), line.endswith("/")
        if base.endswith("public-keys/"):
            number, _, name = line.partition("=")
            found[name] = get(f"{base}{number}/openssh-key")
        elif is_directory:
            found[name] = crawled(f"{base}{line}", get(f"{base}{line}"))
        else:
            found[name] = get(f"{base}{line}")
    return found


def test_every_name_that_ec2_lists_is_there_as_cloud_init_walks_it() -> None:
    base = "/2009-04-04/meta-data/"

    found = crawled(base, get(base))

    assert found["public-keys"] == {"key-0": FACTS.keys[0], "key-1": FACTS.keys[1]}
    assert found["placement"] == {"availability-zone": "nova"}
    network = found["network"]
    assert isinstance(network, dict)
    cards = network["interfaces"]["macs"]
    assert set(cards) == {card.mac for card in FACTS.cards}
    assert cards["52:54:00:aa:bb:02"]["local-ipv4s"] == "192.168.81.10"
    assert cards["52:54:00:aa:bb:02"]["subnet-ipv4-cidr-block"] == "192.168.81.0/24"
    assert crawled(base, get(base, BARE))


def test_the_second_version_of_ec2_gets_its_token() -> None:
    token = shapes.answer(FACTS, "PUT", "/latest/api/token")

    assert token.status == 200
    assert len(token.body) > 20
    assert shapes.answer(FACTS, "PUT", "/latest/meta-data/hostname").status == 404
    assert shapes.answer(FACTS, "POST", "/latest/api/token").status == 405


@pytest.mark.parametrize("version", ["latest", "2012-08-10", "2018-08-27"])
def test_openstack_tells_who_a_machine_is(version: str) -> None:
    found = json.loads(get(f"/openstack/{version}/meta_data.json"))

    assert uuid.UUID(found["uuid"]).version == 4
    assert found["hostname"] == found["name"] == "web"
    assert found["availability_zone"] == "nova"
    assert found["launch_index"] == 0
    assert found["public_keys"] == {"key-0": FACTS.keys[0], "key-1": FACTS.keys[1]}
    assert [key["data"] for key in found["keys"]] == list(FACTS.keys)
    assert get(f"/openstack/{version}/user_data") == FACTS.user_data
    assert json.loads(get(f"/openstack/{version}/vendor_data.json")) == {}


def test_openstack_lists_versions_that_cloud_init_knows() -> None:
    # cloudinit.sources.helpers.openstack looks for the newest of these among the lines.
    known = {"2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2018-08-27"}

    assert known <= set(get("/openstack").splitlines())
    assert set(get("/openstack/latest").splitlines()) >= {"meta_data.json", "network_data.json", "user_data"}


def test_networks_of_openstack_have_what_cloud_init_converts() -> None:
    # cloudinit.sources.helpers.openstack.convert_net_json: links by id with type and hardware address, networks by
    # link with type; a `phy` link needs no more, a static network its address and netmask.
    found = json.loads(get("/openstack/latest/network_data.json"))

    links = {link["id"]: link for link in found["links"]}
    assert [link["ethernet_mac_address"] for link in links.values()] == [card.mac for card in FACTS.cards]
    assert {link["type"] for link in links.values()} == {"phy"}
    for network in found["networks"]:
        assert network["link"] in links
        assert network["type"] == "ipv4"
        ipaddress.ip_interface(f"{network['ip_address']}/{network['netmask']}")
        assert network["routes"] == []
    assert len(found["networks"]) == 2
    assert found["services"] == []


def test_a_machine_without_keys_user_data_and_cards_is_told_so() -> None:
    for path in ("/latest/user-data", "/openstack/latest/user_data", "/latest/meta-data/public-keys/"):
        assert shapes.answer(BARE, "GET", path) == shapes.MISSING
    assert "user_data" not in get("/openstack/latest", BARE)
    assert "local-ipv4" not in get("/latest/meta-data/", BARE)


@pytest.mark.parametrize(
    "path",
    [
        *("/latest/meta-data/iam", "/latest/dynamic/instance-identity/document", "/openstack/latest/password"),
        *(
            "/openstack/2999-01-01/meta_data.json",
            "/admin",
            "/latest/meta-data/../../etc/passwd",
            "/3000-01-01/meta-data/",
        ),
        *("/latest/meta-data/public-keys/7/openssh-key", "/latest/meta-data/hostname/x", "//", "/openstack/latest/x"),
    ],
)
def test_whatever_else_is_asked_for_is_not_there(path: str) -> None:
    if path == "//":
        assert "openstack" in get(path)
    else:
        assert shapes.answer(FACTS, "GET", path) == Said(status=404, body="404 Not Found\n")


def test_facts_go_through_a_file_unchanged() -> None:
    assert Facts.read(json.loads(json.dumps(FACTS.params()))) == FACTS
