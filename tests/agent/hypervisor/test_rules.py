"""What nftables, dnsmasq and tc are told of an environment's networks."""

from datetime import timedelta
from pathlib import Path

from paddock.agent.skills.hypervisor.networks import record as records
from paddock.agent.skills.hypervisor.networks import rules
from paddock.agent.skills.hypervisor.networks.record import Record, Wired
from paddock.core.machine import Nic
from paddock.wire.specs import NetworkSpec

A = Nic(network="left", mac="52:54:00:00:00:0a", address="192.168.80.10/24")
B = Nic(network="left", mac="52:54:00:00:00:0b", address="192.168.80.11/24")
LAN = Nic(network="lan", mac="52:54:00:00:00:0c")
LEFT = NetworkSpec(name="left")
RECORD = Record(
    environment="pool-1",
    networks=(LEFT, NetworkSpec(name="lan", bridge="virbr0")),
    machines={
        "a": Wired(directory="/a", nics=(Nic(network="", mac="52:54:00:00:00:01"), A, LAN)),
        "b": Wired(directory="/b", nics=(B,)),
    },
)


def test_each_card_on_a_network_has_one_tap_whose_name_fits_and_is_nobody_elses() -> None:
    found = rules.taps(RECORD, "0a1b2c3d")

    assert [(tap.machine, tap.nic.mac, tap.is_of_host) for tap in found] == [
        ("a", A.mac, False),
        ("a", LAN.mac, True),
        ("b", B.mac, False),
    ]
    names = {tap.name for tap in found} | {tap.name for tap in rules.taps(RECORD, "ffffffff")}
    assert len(names) == 6
    assert all(len(name.encode()) <= 15 for name in names | {rules.bridge_name("x" * 63)})
    assert all(tap.name.startswith(rules.host_prefix("0a1b2c3d")) for tap in found)


def test_filters_drop_what_is_sent_in_anothers_name() -> None:
    text = rules.filters(RECORD, "0a1b2c3d")
    a, lan, _ = rules.taps(RECORD, "0a1b2c3d")

    assert f'iifname "{a.name}" ether saddr != {A.mac} drop' in text
    assert f'iifname "{a.name}" arp saddr ether != {A.mac} drop' in text
    assert lan.name not in text
    assert text.count("policy drop") == 2
    assert "virbr0" not in text


def test_on_a_bridge_of_the_host_our_cards_speak_in_their_own_names_and_nothing_is_said_of_others() -> None:
    text = rules.host_filters(RECORD, "0a1b2c3d")
    lan = rules.taps(RECORD, "0a1b2c3d")[1]

    assert [line.strip() for line in text.splitlines() if "drop" in line] == [
        f'iifname "{lan.name}" ether saddr != {LAN.mac} drop',
        f'iifname "{lan.name}" arp saddr ether != {LAN.mac} drop',
    ]
    table = rules.host_table("0a1b2c3d", "pool-1")
    assert text.startswith(f"add table bridge {table}\ndelete table bridge {table}\ntable bridge {table} {{\n")
    assert "policy accept" in text
    assert table.startswith(rules.host_prefix("0a1b2c3d"))
    assert len({table, rules.host_table("0a1b2c3d", "pool-2"), rules.host_table("ffffffff", "pool-1")}) == 3


def test_leases_are_fixed_and_lead_nowhere() -> None:
    text = rules.leases(RECORD, "0a1b2c3d", metadata=True)

    assert f"dhcp-host={A.mac},192.168.80.10,a,1h\n" in text
    assert f"dhcp-host={B.mac},192.168.80.11,b,1h\n" in text
    assert "dhcp-range=set:left,192.168.80.0,static,255.255.255.0,1h\n" in text
    assert "dhcp-option=tag:left,option:router\n" in text
    assert "classless-static-route,169.254.169.254/32,192.168.80.1" in text
    assert LAN.mac not in text
    assert "no-resolv\n" in text
    assert "classless" not in rules.leases(RECORD, "0a1b2c3d", metadata=False)


def test_a_network_is_shaped_as_it_was_asked_for() -> None:
    network = NetworkSpec(name="left", latency=timedelta(milliseconds=20), loss=0.01, rate=1_000_000)
    (tap,) = rules.taps(Record(environment="e", networks=(network,), machines={"b": RECORD.machines["b"]}), "0a1b2c3d")

    netem, ingress, _, police = (" ".join(words) for words in rules.shaping(tap))

    assert netem.endswith("root netem limit 10000 delay 20000us loss 1%")
    assert ingress.endswith("ingress")
    assert "police rate 1000000bps burst 262144" in police
    assert rules.shaping(rules.taps(RECORD, "0a1b2c3d")[0]) == []


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    known = RECORD.having("b", Wired(directory="/b", nics=(B,), keys=("ssh-ed25519 A",)))
    records.save(tmp_path, known)

    assert records.load(tmp_path) == known
    records.forget(tmp_path)
    records.forget(tmp_path)
    assert records.load(tmp_path) is None
