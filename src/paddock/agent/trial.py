"""A new program proves beside the old one that it starts, says hello and is welcome.

Effects: none. It holds no lock and no ledger, and carries out nothing: what the server sends to it is sent again to the
next session, which is the old program's, or the new one's in its place.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from paddock.agent.dialing import Server, Unwelcome
from paddock.agent.ledger import peek
from paddock.agent.settings import Settings
from paddock.agent.skills.system import SOFTWARE
from paddock.core.errors import Broken, PaddockError
from paddock.hands import links
from paddock.hands.links import Link
from paddock.wire.messages import Command, Failure, Success
from paddock.wire.session import Answered, Close, Send, Session, Side

_PAUSE = 1.0  # seconds between two attempts
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


async def run(chosen: Settings, server: Server | None) -> None:
    """Prove it, and say so on standard output. Raises what is in the way."""
    wanted: Mapping[str, Any] = json.loads(await asyncio.to_thread(sys.stdin.read))
    if chosen.ledger.exists():
        await asyncio.to_thread(peek, chosen.ledger, limit=1)
    hello = wanted.get("hello")
    is_welcome = hello is not None and server is not None
    if hello is not None and server is not None:
        async with asyncio.timeout(float(wanted["within"])):
            await _be_welcome(server, {**hello, "software": SOFTWARE})
    sys.stdout.write(json.dumps({"software": SOFTWARE, "is_welcome": is_welcome}) + "\n")


async def _be_welcome(server: Server, hello: Mapping[str, Any]) -> None:
    parent, why = os.getppid(), ""
    while os.getppid() == parent:  # the old program is gone: nobody waits for the answer
        for url in server.urls:
            try:
                link = await links.connect(
                    url, deadline=server.limit, ssl=server.ssl, proxy=server.proxy, proxy_authorities=server.authorities
                )
                try:
                    await _say(link, hello)
                    return
                finally:
                    await link.close("the trial is over")
            except Unwelcome:
                raise
            except PaddockError as exc:
                why = exc.message
        await asyncio.sleep(_PAUSE)
    raise Broken(f"trial: the old program is gone; {why}")


async def _say(link: Link, hello: Mapping[str, Any]) -> None:
    session = Session(side=Side.AGENT, heartbeat=timedelta(seconds=30), now=_now())
    await link.send(session.send_command(Command(id="hello-1", method="hello", params=dict(hello)), _now()))
    while True:
        for act in session.receive(await link.receive(), _now()):
            match act:
                case Answered(response=Success()):
                    return
                case Answered(response=Failure(msg=why, code=code)):
                    raise Unwelcome(f"hello: {why}", code=code)
                case Send(text=text):
                    await link.send(text)
                case Close(reason=reason):
                    raise Broken(f"trial: {reason}")


def _now() -> datetime:
    return _EPOCH + timedelta(seconds=asyncio.get_running_loop().time())
