"""The first words of a session: enrolment, hello, and what becomes of a token that got old.

Effects: journaled by the identity's file; enrolment is once, its answer made durable before anything else is said. A
new token is durable before it is told, and both are kept until the new one has said hello.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from paddock.agent import identity
from paddock.agent.cloud.surroundings import Surroundings
from paddock.agent.conversation import Conversation
from paddock.agent.dialing import Again, Hopeless, Unwelcome
from paddock.agent.identity import Identity
from paddock.agent.ledger import Ledger
from paddock.agent.settings import Settings
from paddock.agent.skills.skill import Place
from paddock.agent.skills.system import SOFTWARE, facts
from paddock.agent.worker import Worker
from paddock.core.errors import Broken
from paddock.hands import faults
from paddock.wire.hello import Enrol, Facts, Hello
from paddock.wire.messages import Code, Failure

_log = logging.getLogger(__name__)

ADD = "paddock host add NAME makes a code, and prints the command that uses it"
_LOOKS_MOST = timedelta(hours=1)
_LOOKS_LEAST = timedelta(seconds=1)


class Greeting:
    """What is said first, each time; and what the server took last."""

    def __init__(
        self,
        chosen: Settings,
        *,
        boot_id: Callable[[], str],
        ledger: Ledger,
        code: Callable[[], str],
        enrolled: Callable[[], None],
        began: Callable[[str], None],
        surroundings: Surroundings,
    ) -> None:
        self._settings = chosen
        self._boot_id = boot_id
        self._ledger = ledger
        self._code = code
        self._enrolled = enrolled
        self._began = began
        self._tries_old_token = False
        self._surroundings = surroundings
        self.accepted: Identity | None = None
        """Who we are, with the token that the server took last."""

    async def say(self, conversation: Conversation, worker: Worker, place: Place) -> None:
        """Enrol if need be, say hello, and see to the token for as long as the session lasts.

        Raises Unwelcome if the server does not take it, Hopeless if it never will, Again to be called on a new link.
        """
        known = identity.load(self._settings.state)
        if known is None and (self._code() or not self._settings.line):
            known = await self._enrol(conversation, place)
        if known is None:
            # Whoever carries this machine vouches for it: it has no name of its own.
            await conversation.hello(self._hello(None, worker, place))
            _log.info("session began", extra={"agent": place.machine})
            self._began(place.machine)
            return
        shown = known
        if known.new_token and not self._tries_old_token:
            shown = replace(known, token=known.new_token, new_token="")
        hello = self._hello(shown, worker, place)
        try:
            await conversation.hello(hello)
        except Unwelcome as exc:
            if exc.code is Code.REFUSED:
                # It comes back by itself when its server's store is restored, so it goes on asking; a person is told.
                exc.hint = (
                    "where it is shut out: paddock host resume NAME; where it is not known: paddock host add NAME, "
                    f"remove {self._settings.state / identity.FILE}, start it with the new --code"
                )
            # Which of two tokens the server knows is sure only once it has taken one: the other one is tried next.
            self._tries_old_token = not self._tries_old_token
            raise
        _log.info("session began", extra={"agent": known.agent})
        self._began(known.agent)
        self._tries_old_token = False
        self.accepted = replace(shown, new_token="")
        if known.new_token:
            faults.at("token.accepted")
            # The token that has said hello is the only one from now on.
            await asyncio.to_thread(identity.save, self._settings.state, self.accepted)
        await self._tell_more(hello.facts, place)
        await self._keep_young(conversation, self.accepted)

    async def _tell_more(self, told: Facts, place: Place) -> None:
        """Facts are said in hello alone: what the cloud says a moment later is worth another one."""
        await self._surroundings.asked.wait()
        now = facts(place)
        if not self._settings.line and (now.cloud, now.instance) != (told.cloud, told.instance):
            raise Again("the cloud is known now")

    def hello(self, worker: Worker, place: Place) -> Hello | None:
        """What would begin a session now; None before the server took the first one."""
        return self._hello(self.accepted, worker, place) if self.accepted is not None else None

    def say_nothing(self, worker: Worker, place: Place) -> Hello:
        """What a machine without an identity of its own would say."""
        return self._hello(None, worker, place)

    def _hello(self, shown: Identity | None, worker: Worker, place: Place) -> Hello:
        return Hello(
            agent=shown.agent if shown else None,
            token=shown.token if shown else None,
            software=SOFTWARE,
            boot_id=self._boot_id(),
            ledger=self._ledger.id,
            skills=worker.skills,
            methods=worker.methods(),
            facts=facts(place),
            fences=self._ledger.fences,
            epoch=self._ledger.epoch,
            seq=self._ledger.seq,
            tasks=worker.tasks(),
        )

    async def _enrol(self, conversation: Conversation, place: Place) -> Identity:
        code = self._code()
        if not code:
            raise Hopeless(f"{self._settings.state}: its identity is gone", hint=ADD)
        enrol = Enrol(code=code, facts=facts(place))
        faults.at("agent.enrolling")
        try:
            answer = await conversation.open("enrol", enrol.params())
        except Unwelcome as exc:
            if exc.code not in (Code.REFUSED, Code.BAD_PARAMS):
                raise
            # A code that was not taken once is never taken: asking again would only look like guessing.
            raise Hopeless(exc.message, hint=ADD) from exc
        name, token = answer.get("agent"), answer.get("token")
        if not isinstance(name, str) or not isinstance(token, str):
            raise Broken("enrol: the answer names no agent and token")
        faults.at("agent.enrolled")
        known = Identity(agent=name, token=token)
        await asyncio.to_thread(identity.save, self._settings.state, known)
        self._enrolled()
        return known

    async def _keep_young(self, conversation: Conversation, accepted: Identity) -> None:
        """Wait until the token is old, however long the session lasts; then tell a new one, and have it say hello."""
        state = self._settings.state
        while True:
            left = self._settings.rotation - identity.age(state, datetime.now(UTC))
            if left <= timedelta():
                break
            # The clock that dates a file may be set: it is looked at again and again.
            await asyncio.sleep(min(max(left, _LOOKS_LEAST), _LOOKS_MOST).total_seconds())
        changing = replace(accepted, new_token=secrets.token_urlsafe(32))
        # Ours first: whatever happens to the answer, both are tried.
        await asyncio.to_thread(identity.save, state, changing)
        faults.at("token.saved")
        answer = await conversation.ask("token", {"new": changing.new_token})
        if isinstance(answer, Failure):
            _log.warning("a new token was not taken", extra={"agent": accepted.agent, "why": answer.msg})
            await asyncio.to_thread(identity.save, state, accepted)
            return
        faults.at("token.told")
        raise Again("a new token says hello")
