"""Containers: made, started, ended, removed.

Effects: idempotent, but for start and kill: those happen each time they are asked for.
"""

import asyncio
import hashlib
import json
from datetime import timedelta

from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Place
from paddock.core.errors import Missing, Refused
from paddock.wire.fields import BadParams
from paddock.wire.framing import JSON
from paddock_docker.engine import Engine, Taken, connect, obj, texts
from paddock_docker.images import whole

LABEL = "org.paddock.created"
"""Says of a container what it was made from: whether it is the one that is asked for."""
_SLOW = timedelta(minutes=10)
"""Creating copies an image where the Engine's storage has no snapshots."""
_AGAIN, _TRIES = 0.2, 1500  # seconds
_MARGIN = timedelta(minutes=1)


async def create(place: Place, call: Call) -> dict[str, JSON]:
    """docker.create"""
    body = describe(place, call)
    engine = await connect()
    name = call.text("name")
    for _ in range(_TRIES):
        if (found := await _known(engine, name, body)) is not None:
            return found
        try:
            made = obj(await engine.ask("POST", "/containers/create", {"name": name}, body=body, limit=_SLOW))
            return {"id": made.get("Id"), "changed": True, "warnings": texts(made.get("Warnings"))}
        except Taken as exc:
            # Somebody is at it, perhaps a command of ours that a crash had cut short and that goes on in the Engine:
            # the name is taken at once, and the container can be seen when it is whole.
            why = exc
            await asyncio.sleep(_AGAIN)
    raise why


async def _known(engine: Engine, name: str, body: dict[str, JSON]) -> dict[str, JSON] | None:
    found = await engine.inspect(f"/containers/{name}/json")
    if found is None:
        return None
    if obj(obj(found.get("Config")).get("Labels")).get(LABEL) != obj(body["Labels"])[LABEL]:
        raise Refused(f"{name}: is there already, and was created otherwise; remove it, or choose another name")
    return {"id": found.get("Id"), "changed": False, "warnings": []}


def describe(place: Place, call: Call) -> dict[str, JSON]:
    """A container as the Engine is told it. Raises BadParams for what the table of methods cannot know."""
    ports = {_port(port): _binding(port, where) for port, where in call.table("ports").items()}
    policy, _, count = call.text("restart", "no").partition(":")
    cpus = call.params.get("cpus")
    host: dict[str, JSON] = {
        "Memory": call.number("memory"),
        "NanoCpus": round(cpus * 1_000_000_000) if isinstance(cpus, int | float) else 0,
        "PidsLimit": call.number("pids") or None,
        "PortBindings": dict(ports),
        "Mounts": [_mount(place, target, source) for target, source in call.table("volumes").items()],
        "NetworkMode": call.text("network", "default"),
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(count or 0)},
        "Privileged": call.params.get("privileged") is True,
        "ReadonlyRootfs": call.params.get("read_only") is True,
        "CapAdd": list(call.texts("cap_add")),
        "CapDrop": list(call.texts("cap_drop")),
    }
    body: dict[str, JSON] = {
        "Image": whole(call.text("image")),
        "Cmd": list(call.texts("command")) or None,
        "Entrypoint": list(call.texts("entrypoint")) or None,
        "Env": [f"{name}={value}" for name, value in call.table("env").items()],
        "Hostname": call.text("hostname"),
        "User": call.text("user"),
        "WorkingDir": call.text("directory"),
        "Tty": call.params.get("tty") is True,
        "ExposedPorts": {port: {} for port in ports},
        "HostConfig": host,
    }
    digest = hashlib.sha256(json.dumps([body, call.table("labels")], sort_keys=True).encode()).hexdigest()
    return {**body, "Labels": {**call.table("labels"), LABEL: digest}}


def _port(port: str) -> str:
    return port if "/" in port else f"{port}/tcp"


def _binding(port: str, where: str) -> JSON:
    """`8080`, `127.0.0.1:8080`, `[::1]:8080`, or nothing for any port of this machine."""
    host, _, number = where.rpartition(":")
    if number and not (number.isdecimal() and 0 < int(number) < 1 << 16):
        raise BadParams(f"params.ports[{port!r}]", f"{where!r} is no port of this machine")
    return [{"HostIp": host.strip("[]"), "HostPort": number}]


def _mount(place: Place, target: str, source: str) -> JSON:
    plain = source.removesuffix(":ro")
    if not plain:
        raise BadParams(f"params.volumes[{target!r}]", "names nothing")
    kind = "bind" if plain.startswith("/") else "volume"
    where = str(place.resolve(plain)) if kind == "bind" else plain
    return {"Type": kind, "Source": where, "Target": target, "ReadOnly": plain != source}


async def start(call: Call) -> dict[str, JSON]:
    """docker.start"""
    engine = await connect()
    answer = await engine.ask("POST", f"/containers/{call.text('container')}/start", limit=_SLOW)
    return {"changed": answer is not False}


async def stop(call: Call) -> Outcome:
    """docker.stop"""
    engine = await connect()
    path, grace = f"/containers/{call.text('container')}", call.seconds("grace", 10)
    query = {"t": int(grace.total_seconds())}
    answer = await engine.ask("POST", f"{path}/stop", query, limit=grace + _MARGIN)
    found = await engine.inspect(f"{path}/json") or {}
    return Outcome(result={"changed": answer is not False, "exit": obj(found.get("State")).get("ExitCode")})


async def kill(call: Call) -> dict[str, JSON]:
    """docker.kill"""
    engine = await connect()
    await engine.ask("POST", f"/containers/{call.text('container')}/kill", {"signal": call.text("signal", "KILL")})
    return {}


async def remove(call: Call) -> dict[str, JSON]:
    """docker.remove"""
    engine = await connect()
    query = {"force": call.params.get("force") is True, "v": call.params.get("volumes") is True}
    try:
        await engine.ask("DELETE", f"/containers/{call.text('container')}", query, limit=_SLOW)
    except Missing:
        return {"changed": False}
    return {"changed": True}
