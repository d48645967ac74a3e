"""What has ended, and is told until the server has all of it: status and output.

Effects: journaled; an end is durable before it is told, and its entry is closed once it is known to be heard.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from paddock.agent.entry import Entry, Outcome, State, final_status
from paddock.agent.ledger import RETRY, Ledger, Unwritable
from paddock.agent.paths import name_for
from paddock.agent.settings import Settings
from paddock.agent.skills.skill import NOT_OURS, Deed, Work
from paddock.agent.spool import Spool
from paddock.hands import faults
from paddock.wire.hello import Status, TaskReport

_log = logging.getLogger(__name__)


class Outcomes:
    """The ended commands of one agent. `tell` hands a status to whoever speaks with the server."""

    def __init__(
        self,
        *,
        settings: Settings,
        ledger: Ledger,
        deeds: Mapping[str, Deed],
        spool: Spool,
        group: asyncio.TaskGroup,
        tell: Callable[[Status], None],
        is_task: Callable[[str], bool],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._deeds = deeds
        self._spool = spool
        self._group = group
        self._tell = tell
        self._is_task = is_task
        self._finished: dict[str, Entry] = {}
        self._answered: set[str] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many are not over."""
        return len(self._finished)

    def find(self, task: str) -> Entry | None:
        """A task that has ended and is not over."""
        return self._finished.get(task)

    def reports(self) -> list[TaskReport]:
        """All of them, for hello."""
        return [TaskReport(task_id=entry.task, state=entry.task_state) for entry in self._finished.values()]

    def finals(self) -> list[Status]:
        """What is to be told again on a new session."""
        return [final_status(entry) for task, entry in self._finished.items() if task not in self._answered]

    def told(self, task: str) -> None:
        """The server has the task's final status."""
        if task in self._finished:
            faults.at("agent.told")
            self._answered.add(task)
            self.settle(task)

    def leave(self) -> None:
        """What could not be closed yet is told again after the next start."""
        for closing in self._closing:
            closing.cancel()

    async def finish(self, entry: Entry, outcome: Outcome) -> Entry:
        """Durable before it is told; a disk that is full now will not be for ever."""
        while True:
            try:
                faults.at("agent.finishing")
                # Nobody tells the outcome of a command that is no task: whoever asks again is answered.
                told = None if self._is_task(entry.method) else datetime.now(UTC)
                entry = await self._ledger.finish(entry, outcome, acknowledged=told)
                break
            except Unwritable as exc:
                _log.warning("outcome waits for the disk", extra={"task": entry.task, "why": exc.message})
                await asyncio.sleep(RETRY)
        faults.at("agent.finished")
        _log.info("ended", extra={"task": entry.task, "code": str(outcome.code or "complete")})
        if entry.state is State.FINISHED:
            self.take(entry)
        else:
            await self._clear(entry)
        return entry

    def take(self, entry: Entry) -> None:
        """It has ended, here or in an earlier process: tell it."""
        if entry.outcome is None:
            raise AssertionError(f"{entry.id}: finished without an outcome")
        self._finished[entry.task] = entry
        if not self._is_task(entry.method):
            self._answered.add(entry.task)
            self.settle(entry.task)
            return
        self._tell(final_status(entry))
        self._spool.finish(entry.task, entry.outcome.streams)

    def settle(self, task: str) -> None:
        """Over once the status is answered and all output is delivered."""
        if task in self._answered and not self._spool.has(task) and task in self._finished:
            entry = self._finished.pop(task)
            self._answered.discard(task)
            closing = self._group.create_task(self._acknowledge(entry))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _acknowledge(self, entry: Entry) -> None:
        if not await self._is_heard(entry):
            return  # it is told again after the next start
        faults.at("agent.acknowledging")
        while True:
            try:
                await self._ledger.acknowledge([entry.id], now=datetime.now(UTC))
                break
            except Unwritable as exc:
                _log.warning("a closed entry waits for the disk", extra={"task": entry.task, "why": exc.message})
                await asyncio.sleep(RETRY)
        faults.at("agent.acknowledged")
        await self._clear(entry)

    async def _is_heard(self, entry: Entry) -> bool:
        """Let the skill know that the server has it all; before the entry is closed, so again after a crash."""
        deed = self._deeds.get(entry.method)
        if isinstance(deed, Work) and deed.told is not None:
            try:
                await deed.told(entry.task)
            except NOT_OURS:
                raise
            except BaseException:
                _log.exception("a skill did not take it that its end was told", extra={"task": entry.task})
                return False
        return True

    async def _clear(self, entry: Entry) -> None:
        """Nobody needs its directory any more; one that stays after a crash is swept at birth."""
        directory = self._settings.tasks / name_for(entry.task)
        if directory.exists():
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
