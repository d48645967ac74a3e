"""What a person should know, durable until the server knows it and the person has said so.

Effects: journaled; an alert is on disk before it is told, and what the server answered is on disk before it counts.
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from paddock.agent import durable
from paddock.core.errors import PaddockError
from paddock.core.redaction import redact, sentence
from paddock.hands import faults
from paddock.wire import fields as read
from paddock.wire.fields import Fields, iso
from paddock.wire.framing import JSON

_log = logging.getLogger(__name__)

AT_MOST = 200
"""So many are kept; those that are over give way first, and their loss is logged."""
_AGAIN = 60.0  # seconds until one that the server could not take is told again
_SOONEST = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One condition from its beginning to its end; the next time it is another alert.

    `is_heard`: the server has answered that it is raised. `is_settled`: it wants to hear no more of that.
    """

    id: str
    subject: str
    level: str
    msg: str
    raised: datetime
    over: datetime | None = None
    why_over: str = ""
    is_heard: bool = False
    is_settled: bool = False
    fields: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def is_ending(self) -> bool:
        """Whether its end is what is to be told: never before its beginning was heard."""
        return self.over is not None and self.is_heard

    def params(self) -> dict[str, JSON]:
        """As it is told now."""
        over = self.over if self.is_ending else None
        return {
            "id": self.id,
            "subject": self.subject,
            "level": self.level,
            "state": "raised" if over is None else "over",
            "msg": self.msg if over is None else self.why_over or self.msg,
            "time": iso(over or self.raised),
            "fields": dict(self.fields),
        }


class Alerts:
    """All alerts of one agent. Used from one loop; `changed` is set when there is something to tell."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._alerts: dict[str, Alert] = {}
        self._due: dict[str, float] = {}
        self._telling: set[str] = set()
        self._writing = asyncio.Lock()
        self._is_behind = False
        """The file does not say what we know: it found no room."""
        self.changed = asyncio.Event()

    def load(self) -> None:
        """Take up what the last process left. Once, before anything else."""
        stored = durable.read(self._path)
        for one in stored if isinstance(stored, list) else []:
            try:
                alert = _read(one)
            except PaddockError as exc:
                _log.error("an alert cannot be read", extra={"path": str(self._path), "why": exc.message})
            else:
                self._alerts[alert.id] = alert

    def find(self, subject: str) -> Alert | None:
        """The one about this that is not over."""
        return next((one for one in self._alerts.values() if one.subject == subject and one.over is None), None)

    async def begin(self, subject: str, msg: str, *, level: str = "warning", **about: JSON) -> None:
        """It is so from now on. One that is raised already stays as it is."""
        if self.find(subject) is not None:
            return
        alert = Alert(
            id=f"{subject[:80]}.{secrets.token_hex(6)}",
            subject=subject,
            level=level,
            msg=sentence(msg),
            raised=datetime.now(UTC),
            fields={name: redact(value) if isinstance(value, str) else value for name, value in about.items()},
        )
        _log.log(logging.ERROR if level == "error" else logging.WARNING, "alert", extra={"about": subject, "why": msg})
        self._make_room()
        await self._keep(alert)

    async def end(self, subject: str, why: str = "") -> None:
        """It is not so any more. Nothing happens where it was not."""
        alert = self.find(subject)
        if alert is not None:
            _log.info("alert is over", extra={"about": subject})
            self._due.pop(alert.id, None)
            await self._keep(replace(alert, over=datetime.now(UTC), why_over=sentence(why)))

    async def save(self) -> None:
        """Write what could not be written when it changed."""
        if self._is_behind:
            await self._write()

    # Telling

    def begin_session(self) -> None:
        """What was under way on the last link is told again; what is to be repeated keeps its time."""
        self._telling.clear()
        self.changed.set()

    def take(self, now: float) -> Alert | None:
        """The oldest that is to be told now; it is under way then, until `hear` or `begin_session`."""
        for alert in self._alerts.values():
            if alert.id not in self._telling and self._is_due(alert, now):
                self._telling.add(alert.id)
                return alert
        return None

    def next_due(self) -> float | None:
        """When there will be something to tell if nothing changes, by the clock that `take` was given."""
        waiting = [self._due.get(one.id, 0) for one in self._alerts.values() if self._is_open(one)]
        return min(waiting, default=None)

    async def hear(self, told: Alert, answer: Mapping[str, JSON] | None, *, now: float, is_final: bool = False) -> None:
        """What the server said to an alert as it was told; None if it could not take it, for good if `is_final`."""
        alert = self._alerts.get(told.id)
        if alert is None:
            return
        if answer is None and not is_final:
            self._due[alert.id] = now + _AGAIN
        elif told.is_ending or (is_final and alert.over is not None):
            await self._forget(alert)
        else:
            after = (answer or {}).get("repeat_after")
            is_repeated = isinstance(after, int | float) and not (answer or {}).get("acknowledged")
            wait = max(float(after), _SOONEST) if isinstance(after, int | float) and alert.over is None else 0
            self._due[alert.id] = now + wait
            heard = replace(alert, is_heard=True, is_settled=not is_repeated)
            if heard != alert:
                await self._keep(heard)
        self._telling.discard(told.id)
        self.changed.set()

    def _is_open(self, alert: Alert) -> bool:
        return alert.id not in self._telling and (not alert.is_settled or alert.over is not None)

    def _is_due(self, alert: Alert, now: float) -> bool:
        return self._is_open(alert) and self._due.get(alert.id, 0) <= now

    # Keeping

    async def _keep(self, alert: Alert) -> None:
        self._alerts[alert.id] = alert
        await self._write()
        self.changed.set()

    async def _forget(self, alert: Alert) -> None:
        self._alerts.pop(alert.id, None)
        self._due.pop(alert.id, None)
        await self._write()

    def _make_room(self) -> None:
        if len(self._alerts) >= AT_MOST:
            gone = next(
                (one for one in self._alerts.values() if one.over is not None), next(iter(self._alerts.values()))
            )
            del self._alerts[gone.id]
            _log.error("an alert was dropped, there are too many", extra={"about": gone.subject, "why": gone.msg})

    async def _write(self) -> None:
        """All of them, as they are when their turn to be written comes."""
        async with self._writing:
            stored: JSON = [_stored(one) for one in self._alerts.values()]
            faults.at("alerts.writing")
            try:
                await asyncio.to_thread(durable.write, self._path, stored)
                self._is_behind = False
            except OSError as exc:
                # It is told all the same; the next change writes all of them.
                self._is_behind = True
                _log.error("alerts are not on disk", extra={"path": str(self._path), "why": str(exc)})
            faults.at("alerts.written")


def _stored(alert: Alert) -> dict[str, JSON]:
    return {
        "id": alert.id,
        "subject": alert.subject,
        "level": alert.level,
        "msg": alert.msg,
        "raised": iso(alert.raised),
        "over": None if alert.over is None else iso(alert.over),
        "why_over": alert.why_over,
        "is_heard": alert.is_heard,
        "is_settled": alert.is_settled,
        "fields": dict(alert.fields),
    }


def _read(value: JSON) -> Alert:
    found = Fields(value, "alert")
    return Alert(
        id=found.need("id", read.name),
        subject=found.need("subject", read.text),
        level=found.need("level", read.text),
        msg=found.need("msg", read.text),
        raised=found.need("raised", read.moment),
        over=found.maybe("over", read.moment, None),
        why_over=found.maybe("why_over", read.text, ""),
        is_heard=found.maybe("is_heard", read.boolean, False),  # noqa: FBT003 - what it is if absent
        is_settled=found.maybe("is_settled", read.boolean, False),  # noqa: FBT003
        fields=found.maybe("fields", read.obj, {}),
    )
