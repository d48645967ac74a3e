"""Alerting: what agents want a person to know, one row a condition, until somebody knows.

Effects: idempotent (each function is part of one transaction; what is told again only counts)
"""

from datetime import datetime, timedelta

from paddock.core import alert as alerts
from paddock.core.access import Identity
from paddock.core.alert import Alert
from paddock.core.errors import Refused
from paddock.core.redaction import sentence
from paddock.engine.means import move, need
from paddock.ports import Tables
from paddock.wire import hello

REPEAT = timedelta(minutes=5)
"""After so long an agent tells again what nobody has acknowledged."""
MOST_OPEN = 200
"""Open alerts of one agent; more of them tell a person nothing."""
MOST_KEPT = 500
"""Alerts of one agent that are kept, those that are over included."""
_OPEN = sorted(alerts.OPEN)


def tell(tables: Tables, agent: str, told: hello.Alert, *, now: datetime) -> hello.Heard:
    """Raise, repeat or end it; what the agent does next."""
    known = next(iter(tables.alerts.where(agent=agent, name=told.name, state=_OPEN, limit=1)), None)
    level, subject, message = alerts.Level(told.level), sentence(told.subject), sentence(told.message)
    if told.is_over:
        if known is not None:
            _end(tables, known, now=now)
        return hello.Heard(is_acknowledged=True)
    if known is not None:
        after = alerts.repeat(known, level=level, subject=subject, message=message, now=now)
        return _heard(tables.alerts.swap(known, after))
    if tables.alerts.count(agent=agent, state=_OPEN) >= MOST_OPEN:
        raise Refused(f"alert {told.name}: {MOST_OPEN} alerts of this agent are open already")
    _make_room(tables, agent)
    raised = tables.alerts.add(
        Alert(
            id=str(tables.number("alert")),
            agent=agent,
            name=told.name,
            level=level,
            subject=subject,
            message=message,
            at=now,
            told=now,
        )
    )
    return _heard(raised)


def _make_room(tables: Tables, agent: str) -> None:
    """An agent that raises and ends by the second fills no store: its oldest ones go."""
    if tables.alerts.count(agent=agent) >= MOST_KEPT:
        for alert in tables.alerts.where(agent=agent, state=alerts.State.OVER, limit=1):
            tables.alerts.remove(alert.id)


def _heard(alert: Alert) -> hello.Heard:
    is_known = alert.state is alerts.State.ACKNOWLEDGED
    return hello.Heard(is_acknowledged=is_known, repeat_after=None if is_known else REPEAT)


def acknowledge(tables: Tables, id: str, *, identity: Identity, now: datetime) -> Alert:
    """Somebody knows: the agent is told at its next repetition. Again is the same as once."""
    alert = need(tables.alerts, id, "alert")
    if alert.state is alerts.State.ACKNOWLEDGED:
        return alert
    known = alerts.acknowledge(alert, by=identity.name, now=now)
    return move(tables, "alerts", alert, known, alerts.Signal.ACKNOWLEDGE, now=now, by=identity.name)


def _end(tables: Tables, alert: Alert, *, now: datetime) -> None:
    # Without a line of history: the row has both moments, and agents may say this by the second.
    tables.alerts.swap(alert, alerts.end(alert, now=now))


def end_all(tables: Tables, agent: str, *, now: datetime) -> None:
    """The agent is no more: nobody will say that its conditions are over."""
    for alert in tables.alerts.where(agent=agent, state=_OPEN):
        _end(tables, alert, now=now)
