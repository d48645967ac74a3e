"""The other side of one agent, for a bench: gives orders as fast as they are taken, and counts what comes back."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

CODE = "code-of-the-bench"
PATIENCE = 120.0
"""Seconds that one measured thing may take."""


class _Count:
    """How many there were so far."""

    count = 0


class Clerk:
    """Takes one agent's link at `url`. It checks nothing and writes nothing: the agent is what is measured."""

    def __init__(self) -> None:
        self.url = ""
        self.welcomed = asyncio.Event()
        self.trouble = ""
        """What the agent refused, if it refused anything."""
        self._answered = _Count()
        self._ended = _Count()
        self._news = asyncio.Event()
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Mapping[str, Any]]] = {}
        self._link: ServerConnection | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["Clerk"]:
        """Serve on a free port of loopback while the block runs."""
        clerk = cls()
        async with serve(
            clerk._serve, "127.0.0.1", 0, ping_interval=None, compression=None, max_size=2 << 20
        ) as server:
            clerk.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/agent"
            yield clerk

    async def order(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give a command, and wait for its direct answer."""
        number = next(self._numbers)
        answer = self._waiting[f"c-{number}"] = asyncio.get_running_loop().create_future()
        await self._say(number, method, params)
        found = await answer
        if "error" in found:
            raise RuntimeError(f"{method}: {found['error']}")
        result: Mapping[str, Any] = found["result"]
        return result

    async def answers(self, count: int, outstanding: int, method: str, params: Mapping[str, Any]) -> float:
        """Give so many commands, at most `outstanding` of them unanswered; seconds until the last answer."""
        base = self._answered.count
        return await self._flood(count, outstanding, method, params, over=lambda: self._answered.count - base)

    async def tasks(self, count: int, outstanding: int, method: str, params: Mapping[str, Any]) -> float:
        """The same for tasks, which are over with their final status."""
        base = self._ended.count
        return await self._flood(count, outstanding, method, params, over=lambda: self._ended.count - base)

    async def _flood(
        self, count: int, outstanding: int, method: str, params: Mapping[str, Any], *, over: Callable[[], int]
    ) -> float:
        began, given = time.perf_counter(), 0
        async with asyncio.timeout(PATIENCE):
            while over() < count:
                self._news.clear()
                while given < count and given - over() < outstanding:
                    await self._say(next(self._numbers), method, params)
                    given += 1
                if over() < count:
                    await self._news.wait()
        if self.trouble:
            raise RuntimeError(self.trouble)
        return time.perf_counter() - began

    async def _say(self, number: int, method: str, params: Mapping[str, Any]) -> None:
        assert self._link is not None
        message = {"version": "1", "id": f"c-{number}", "method": method, "params": params, "seq": number, "epoch": 1}
        await self._link.send(json.dumps(message))

    async def _serve(self, link: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in link:
                await self._hear(link, json.loads(text))

    async def _hear(self, link: ServerConnection, message: Mapping[str, Any]) -> None:
        method = message.get("method")
        if method is None:
            self._take(message)
            return
        params = message["params"]
        await link.send(json.dumps({"version": "1", "id": message["id"], "result": self._result(method, params)}))
        if method == "hello":
            self._link = link
            self.welcomed.set()
        elif method == "task_status" and params["state"] != "running":
            self._ended.count += 1
            self._news.set()
            if params["state"] != "complete":
                self.trouble = f"{params['task_id']}: {params['state']}: {params.get('msg')}"

    def _take(self, message: Mapping[str, Any]) -> None:
        waiting = self._waiting.pop(message["id"], None)
        if waiting is not None:
            waiting.set_result(message)
            return
        self._answered.count += 1
        self._news.set()
        if "error" in message:
            self.trouble = f"{message['id']}: {message['error']}"

    def _result(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        match method:
            case "enrol":
                return {"agent": "bench", "token": "token-of-the-bench-agent"}
            case "hello":
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                session = {"session": "s-1", "heartbeat": 30, "epoch": 1, "server_time": now}
                return {**session, "fences": {}, "forget": [], "deliver": []}
            case "output":
                return {"offset": params["offset"] + len(params["data"]) * 3 // 4 - params["data"][-2:].count("=")}
            case "ping":
                return params
        return {}
