"""Machines, networks and images as a host's agent is told of them, and how a fork is woken."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self

from paddock.core.image import BuildScript, Chain, Entry, Image
from paddock.core.machine import Nic, Start
from paddock.wire import fields
from paddock.wire.fields import Fields
from paddock.wire.framing import JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSpec:
    """A network of an environment: made when its first machine is built, gone with its last."""

    name: str
    subnet: str = ""
    latency: timedelta = timedelta()
    loss: float = 0.0
    rate: int = 0
    bridge: str = ""

    def params(self) -> dict[str, JSON]:
        """For the wire."""
        return {
            "name": self.name,
            "subnet": self.subnet,
            "latency": fields.seconds(self.latency),
            "loss": self.loss,
            "rate": self.rate,
            "bridge": self.bridge,
        }

    @classmethod
    def read(cls, value: JSON, path: str) -> Self:
        """From the wire."""
        found = Fields(value, path)
        return cls(
            name=found.need("name", fields.name),
            subnet=found.maybe("subnet", fields.text, ""),
            latency=found.maybe("latency", fields.span, timedelta()),
            loss=found.maybe("loss", _share, 0.0),
            rate=found.maybe("rate", fields.integer, 0),
            bridge=found.maybe("bridge", fields.text, ""),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Another machine of the environment, as this one finds it: a line of /etc/hosts."""

    machine: str
    addresses: tuple[str, ...] = ()

    def params(self) -> dict[str, JSON]:
        """For the wire."""
        return {"machine": self.machine, "addresses": list(self.addresses)}

    @classmethod
    def read(cls, value: JSON, path: str) -> Self:
        """From the wire."""
        found = Fields(value, path)
        return cls(machine=found.need("machine", fields.name), addresses=found.each("addresses", fields.text))


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineSpec:
    """A machine to be built on a host; sizes in bytes.

    `networks` are all of its environment, `egress` is what its guests may reach outside: `HOST:PORT`, `*.HOST:PORT`.
    `template` says whether a template may be made, should it be forked and have none: whether room is booked for that.
    `layer` is the digest of the image's layer that its disk is cloned from, `image` says what that boots with.
    `saved` names disks that were kept from an earlier machine; it is booted from them, cold.
    """

    image: Chain = ()
    layer: str = ""
    saved: str = ""
    memory: int
    vcpus: int = 1
    disks: tuple[int, ...] = ()
    nics: tuple[Nic, ...] = ()
    networks: tuple[NetworkSpec, ...] = ()
    egress: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()
    start: Start = Start.FORK
    template: bool = True
    display: bool = False
    boot: tuple[str, ...] = ("disk",)

    def params(self) -> dict[str, JSON]:
        """For the wire."""
        return {
            "image": [_image_params(image) for image in self.image],
            "layer": self.layer,
            "saved": self.saved,
            "memory": self.memory,
            "vcpus": self.vcpus,
            "disks": list(self.disks),
            "nics": [{"network": nic.network, "mac": nic.mac, "address": nic.address} for nic in self.nics],
            "networks": [network.params() for network in self.networks],
            "egress": list(self.egress),
            "peers": [peer.params() for peer in self.peers],
            "start": self.start.value,
            "template": self.template,
            "display": self.display,
            "boot": list(self.boot),
        }

    @classmethod
    def read(cls, value: JSON, path: str) -> Self:
        """From the wire."""
        found = Fields(value, path)
        return cls(
            image=found.each("image", read_image),
            layer=found.maybe("layer", fields.text, ""),
            saved=found.maybe("saved", fields.text, ""),
            memory=found.need("memory", fields.integer),
            vcpus=found.maybe("vcpus", fields.integer, 1),
            disks=found.each("disks", fields.integer),
            nics=found.each("nics", _nic),
            networks=found.each("networks", NetworkSpec.read),
            egress=found.each("egress", fields.text),
            peers=found.each("peers", Peer.read),
            start=Start(found.maybe("start", fields.text, Start.FORK.value)),
            template=found.maybe("template", fields.boolean, otherwise=True),
            display=found.maybe("display", fields.boolean, otherwise=False),
            boot=found.each("boot", fields.text) or ("disk",),
        )


def chain_params(images: Chain) -> list[JSON]:
    """An image with all that it is made of, for the wire."""
    return [_image_params(image) for image in images]


def _image_params(image: Image) -> dict[str, JSON]:
    return {
        "name": image.name,
        "url": image.url,
        "path": image.path,
        "parent": image.parent,
        "sha256": image.sha256,
        "size": image.size,
        "scripts": [
            {
                "name": script.name,
                "run": script.run,
                "interpreter": script.interpreter,
                "env": dict(script.env),
                "files": dict(script.files),
            }
            for script in image.scripts
        ],
        "memory": image.memory,
        "vcpus": image.vcpus,
        "limit": fields.seconds(image.limit),
        "egress": list(image.egress),
        "entry": image.entry.value,
        "kernel": image.kernel,
        "initrd": image.initrd,
        "cmdline": image.cmdline,
        "warm_up": image.warm_up,
        "restart": list(image.restart),
    }


def read_image(value: JSON, path: str) -> Image:
    """One image of a chain, from the wire."""
    found = Fields(value, path)
    return Image(
        name=found.need("name", fields.name),
        url=found.maybe("url", fields.text, ""),
        path=found.maybe("path", fields.text, ""),
        parent=found.maybe("parent", fields.text, ""),
        sha256=found.maybe("sha256", fields.text, ""),
        size=found.maybe("size", fields.integer, 0),
        scripts=found.each("scripts", _script),
        memory=found.need("memory", fields.integer),
        vcpus=found.maybe("vcpus", fields.integer, 1),
        limit=found.need("limit", fields.span),
        egress=found.each("egress", fields.text),
        entry=Entry(found.maybe("entry", fields.text, Entry.NOCLOUD.value)),
        kernel=found.maybe("kernel", fields.text, ""),
        initrd=found.maybe("initrd", fields.text, ""),
        cmdline=found.maybe("cmdline", fields.text, ""),
        warm_up=found.maybe("warm_up", fields.text, ""),
        restart=found.each("restart", fields.name),
    )


def _script(value: JSON, path: str) -> BuildScript:
    found = Fields(value, path)
    return BuildScript(
        name=found.need("name", fields.name),
        run=found.need("run", fields.text),
        interpreter=found.need("interpreter", fields.text),
        env=found.table("env", fields.text),
        files=found.table("files", fields.text),
    )


def _nic(value: JSON, path: str) -> Nic:
    found = Fields(value, path)
    return Nic(
        network=found.maybe("network", fields.text, ""),
        mac=found.need("mac", fields.name),
        address=found.maybe("address", fields.text, ""),
    )


def _share(value: JSON, path: str) -> float:
    return fields.bounded_number(value, path, 0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wake:
    """What a parked agent is told: who its machine is from now on. Taken on a line only, and only while parked.

    `host_keys` are files below /etc/ssh; `addresses` are those of the cards with the MACs of the same place, empty for
    none; `entropy` is fed to the kernel and to every generator of the agent before anything else is done.
    """

    agent: str
    environment: str
    machine: str
    fence: int
    hostname: str
    machine_id: str
    wake_id: str
    time: datetime
    entropy: bytes = field(repr=False)
    host_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    authorized_keys: tuple[str, ...] = ()
    """Who may log in as root."""
    login_key: str = field(default="", repr=False)
    """The private key with which the machines of an environment reach each other; empty: none."""
    macs: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """For /etc/environment: the proxy to the outside, if there is one."""
    restart: tuple[str, ...] = ()

    def params(self) -> dict[str, JSON]:
        """For the wire."""
        return {
            "agent": self.agent,
            "environment": self.environment,
            "machine": self.machine,
            "fence": self.fence,
            "hostname": self.hostname,
            "machine_id": self.machine_id,
            "wake_id": self.wake_id,
            "time": fields.iso(self.time),
            "entropy": base64.b64encode(self.entropy).decode("ascii"),
            "host_keys": dict(self.host_keys),
            "authorized_keys": list(self.authorized_keys),
            "login_key": self.login_key,
            "macs": list(self.macs),
            "addresses": list(self.addresses),
            "peers": [peer.params() for peer in self.peers],
            "env": dict(self.env),
            "restart": list(self.restart),
        }

    @classmethod
    def read(cls, value: JSON, path: str = "params") -> Self:
        """From the wire."""
        found = Fields(value, path)
        return cls(
            agent=found.need("agent", fields.name),
            environment=found.need("environment", fields.name),
            machine=found.need("machine", fields.name),
            fence=found.need("fence", fields.integer),
            hostname=found.need("hostname", fields.name),
            machine_id=found.need("machine_id", fields.name),
            wake_id=found.need("wake_id", fields.name),
            time=found.need("time", fields.moment),
            entropy=found.need("entropy", fields.octets),
            host_keys=found.table("host_keys", fields.text),
            authorized_keys=found.each("authorized_keys", fields.text),
            login_key=found.maybe("login_key", fields.text, ""),
            macs=found.each("macs", fields.name),
            addresses=found.each("addresses", fields.text),
            peers=found.each("peers", Peer.read),
            env=found.table("env", fields.text),
            restart=found.each("restart", fields.name),
        )
