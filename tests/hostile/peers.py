"""Strangers, liars and hosts that keep to no rule: what they say on `/agent` is written by hand, byte for byte."""

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.story.house import House

FACTS = {"hostname": "box", "arch": "x86_64", "os": "linux", "addresses": ["127.0.0.1"]}
PATIENCE = 15.0
JSON = dict[str, Any]


class Peer:
    """One WebSocket to a server. What is said is not checked; what comes back is sorted."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._answers: dict[str, asyncio.Future[JSON]] = {}
        self._count = 0
        self.commands: asyncio.Queue[JSON] = asyncio.Queue()
        self.fatal = ""
        self.over = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for text in self._connection:
                self._sort(json.loads(text))
                if "method" in (message := json.loads(text)) and message["method"] == "ping":
                    await self.answer(message, **message["params"])
        except ConnectionClosed:
            pass
        finally:
            self.over.set()
            for waiting in self._answers.values():
                if not waiting.done():
                    waiting.set_result({"closed": True})

    def _sort(self, message: JSON) -> None:
        if "fatal_error" in message:
            self.fatal = message["fatal_error"]
        elif "method" in message:
            if message["method"] != "ping":
                self.commands.put_nowait(message)
        elif message["id"] in self._answers and not self._answers[message["id"]].done():
            self._answers[message["id"]].set_result(message)

    async def say(self, text: str | bytes) -> None:
        """Send a frame as it is; a connection that is over takes it silently."""
        with contextlib.suppress(ConnectionClosed):
            await self._connection.send(text)

    async def ask(self, method: str, params: Any) -> JSON:
        """A command and its answer: `{"result"}`, `{"error"}`, or `{"closed"}`."""
        self._count += 1
        id = f"{method}-{self._count}"
        answer: asyncio.Future[JSON] = asyncio.get_running_loop().create_future()
        self._answers[id] = answer
        await self.say(json.dumps({"version": "1", "id": id, "method": method, "params": params}))
        if self.over.is_set() and not answer.done():
            return {"closed": True}
        async with asyncio.timeout(PATIENCE):
            return await answer

    async def answer(self, command: JSON, **result: Any) -> None:
        await self.say(json.dumps({"version": "1", "id": command["id"], "result": result}))

    async def accept(self, command: JSON) -> None:
        await self.answer(command, task_id=command["id"], state="accepted")

    async def complete(self, command: JSON, outputs: Mapping[str, int] | None = None, **result: Any) -> JSON:
        status: JSON = {"task_id": command["id"], "state": "complete", "result": result}
        return await self.ask("task_status", {**status, "outputs": outputs} if outputs else status)

    async def write(self, task: str, data: bytes, *, stream: str = "out", offset: int = 0, **more: Any) -> JSON:
        """A piece of output."""
        text = base64.b64encode(data).decode()
        return await self.ask("output", {"task_id": task, "stream": stream, "offset": offset, "data": text, **more})

    async def next(self, method: str) -> JSON:
        """The next command of that method; others are thrown away."""
        async with asyncio.timeout(PATIENCE):
            while (command := await self.commands.get())["method"] != method:
                pass
            return command

    async def ended(self, within: float = PATIENCE) -> None:
        async with asyncio.timeout(within):
            await self.over.wait()

    async def close(self) -> None:
        self._reading.cancel()
        self._connection.transport.abort()
        await asyncio.gather(self._reading, return_exceptions=True)


@contextlib.asynccontextmanager
async def peer(paddock: House) -> AsyncIterator[Peer]:
    """A connection of one's own."""
    url = paddock.url.replace("http", "ws", 1) + "/agent"
    connection = await connect(url, max_size=4 << 20, compression=None, ping_interval=None, proxy=None)
    made = Peer(connection)
    try:
        yield made
    finally:
        await made.close()


def hello(**changed: Any) -> JSON:
    """The params of a hello that is well spelt; None leaves a field out."""
    params: JSON = {
        "agent": "a-nobody",
        "token": "pdk_nothing-that-was-ever-given-out",
        "software": "peer 1",
        "boot_id": "boot",
        "ledger": "ledger",
        "skills": ["local"],
        "facts": FACTS,
        **changed,
    }
    return {name: value for name, value in params.items() if value is not None}


class Carrier:
    """A host's agent that carries what it is asked for, and the agents of its machines, all in the test's hands."""

    def __init__(self, paddock: House, host: Peer, agent: str, token: str) -> None:
        self._paddock = paddock
        self.host = host
        self.agent = agent
        self.token = token
        self.machines: dict[str, Peer] = {}
        self.built: list[JSON] = []
        self._group = contextlib.AsyncExitStack()

    async def build(self, machines: int) -> None:
        """Carry out `machine.build` for so many machines, and let each of them say hello through a relay."""
        for _ in range(machines):
            command = await self.host.next("machine.build")
            self.built.append(command)
            await self.host.accept(command)
            await self.host.complete(command, address="127.0.0.1")
            await self.join(command["params"])

    async def join(self, params: JSON) -> Peer:
        """A machine's agent on a connection of its own, vouched for by this host."""
        made = await self._group.enter_async_context(peer(self._paddock))
        environment, machine = params["environment"], params["machine"]
        told = await made.ask("relay", self.vouch(environment=environment, machine=machine, fence=params["fence"]))
        assert "result" in told, told
        told = await made.ask("hello", hello(agent=None, token=None, ledger=f"ledger-{machine}"))
        assert "result" in told, told
        self.machines[f"{environment}.{machine}"] = made
        return made

    def vouch(self, **fields: Any) -> JSON:
        return {"agent": self.agent, "token": self.token, **fields}

    async def clean(self, machines: int) -> None:
        """Carry out `machine.clean`."""
        for _ in range(machines):
            command = await self.host.next("machine.clean")
            await self.host.accept(command)
            await self.host.complete(command, machine=command["params"]["machine"], ended=0)

    async def close(self) -> None:
        await self._group.aclose()


@contextlib.asynccontextmanager
async def carrier(paddock: House, host: str = "local") -> AsyncIterator[Carrier]:
    """A host that was enrolled and said hello."""
    code = await off(paddock.post, "enrolments", host=host)
    async with peer(paddock) as made:
        told = await made.ask("enrol", {"code": code["code"], "facts": FACTS})
        agent, token = told["result"]["agent"], told["result"]["token"]
        told = await made.ask("hello", hello(agent=agent, token=token, ledger=f"ledger-{host}"))
        assert "result" in told, told
        carrying = Carrier(paddock, made, agent, token)
        try:
            yield carrying
        finally:
            await carrying.close()


async def off(call: Callable[..., Any], *words: Any, **fields: Any) -> Any:
    """A call that blocks, beside the loop."""
    return await asyncio.to_thread(call, *words, **fields)


def is_well(paddock: House) -> bool:
    """Whether the server says that nothing ails it."""
    return httpx.get(f"{paddock.url}/healthz", timeout=10).status_code == 200


class Memory:
    """The resident memory of a process, in MiB: what it is and how high it was since `begin`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = 0.0

    def begin(self) -> None:
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        self._before = self._read("VmRSS")

    @property
    def grew(self) -> float:
        """How much higher the highest is than it was at `begin`."""
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> float:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def open_files(pid: int) -> int:
    """How many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))
