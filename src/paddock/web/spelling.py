"""How moments, durations, sizes and states are written on pages."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta

from markupsafe import Markup, escape

from paddock.core.report import spell

SIGNS = {
    # verdicts
    "success": "✓",
    "failure": "✗",
    "error": "!",
    "timed_out": "◷",
    "cancelled": "⊘",
    "superseded": "↷",
    "lease_lost": "!",
    # runs and rounds
    "queued": "…",
    "planned": "…",
    "leasing": "…",
    "preparing": "◔",
    "running": "▶",
    "collecting": "◕",
    "reporting": "◕",
    "done": "●",
    # environments
    "requested": "…",
    "building": "◔",
    "ready": "○",
    "leased": "●",
    "held": "◉",
    "dirty": "◌",
    "cleaning": "◍",
    "broken": "!",
    "quarantined": "⊘",
    "saving": "◕",
    "saved": "▣",
    "wanted": "…",
    "gone": "·",
    # leases
    "granted": "●",
    "released": "○",
    "expired": "◷",
    "revoked": "⊘",
    "impossible": "✗",
    # hosts
    "joining": "…",
    "online": "●",
    "draining": "◑",
    "offline": "○",
    "lost": "✗",
    # commands
    "sent": "→",
    "accepted": "◔",
    "complete": "✓",
    "failed": "✗",
    # cases
    "passed": "✓",
    "skipped": "–",
    # events and reports
    "heard": "…",
    "ignored": "–",
    "gap": "⚠",
    "intended": "…",
    "sending": "→",
    "raised": "!",
    "warning": "!",
    "acknowledged": "✓",
    "over": "–",
}

GOOD = frozenset("success ready complete passed online sent granted".split())
BAD = frozenset("failure failed impossible lost timed_out".split())
FAULT = frozenset("error broken quarantined lease_lost gap revoked expired raised warning".split())
BUSY = frozenset(
    """leasing preparing running collecting reporting building leased held cleaning dirty sending draining
    accepted saving saved""".split()
)


def tone(state: str) -> str:
    """The colour family of a state or verdict: good, bad, fault, busy or calm."""
    for name, states in (("good", GOOD), ("bad", BAD), ("fault", FAULT), ("busy", BUSY)):
        if state in states:
            return name
    return "calm"


def words(state: str) -> str:
    return state.replace("_", " ")


def badge(state: str) -> Markup:
    """A state as sign, word and colour: never by colour alone."""
    return Markup('<span class="state {}"><i aria-hidden="true">{}</i>{}</span>').format(
        tone(state), SIGNS.get(state, "·"), words(state)
    )


def iso(moment: datetime) -> str:
    """`2026-01-31T09:42:00.125Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock_time(moment: datetime | None, now: datetime) -> Markup:
    """A moment as short as it can be read, the whole of it on hover."""
    if moment is None:
        return Markup('<span class="none">–</span>')
    moment = moment.astimezone(UTC)
    if moment.date() == now.date():
        text = f"{moment:%H:%M:%S}"
    elif moment.year == now.year:
        text = f"{moment.day} {moment:%b %H:%M}"
    else:
        text = f"{moment:%Y-%m-%d %H:%M}"
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        iso(moment), f"{moment:%Y-%m-%d %H:%M:%S}", text
    )


def ago(moment: datetime | None, now: datetime) -> Markup:
    """`4m 10s ago`, the moment itself on hover; the page's script keeps it going."""
    if moment is None:
        return Markup('<span class="none">–</span>')
    moment = moment.astimezone(UTC)
    return Markup('<time class="ago" datetime="{}" title="{} UTC">{} ago</time>').format(
        iso(moment), f"{moment:%Y-%m-%d %H:%M:%S}", brief(now - moment)
    )


def brief(duration: timedelta | None) -> str:
    """`0.4s`, `12s`, `3m 11s`, `1h 02m`, `3d 4h`: two figures at most."""
    if duration is None:
        return "–"
    seconds = max(0.0, duration.total_seconds())
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 3600:
        # Cut, not rounded: the report and the command line spell the same figure so.
        return spell(timedelta(seconds=max(10.0, seconds)))
    if seconds < 172_800:
        return f"{int(seconds // 3600)}h {int(seconds // 60 % 60):02}m"
    return f"{int(seconds // 86400)}d {int(seconds // 3600 % 24)}h"


def size(count: int) -> str:
    """`812 B`, `4.0 KiB`, `191 MiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit takes all")


def fingerprint(key: str) -> str:
    """`SHA256:...` of a public key, as ssh shows it; empty where it is none."""
    try:
        data = base64.b64decode(key.split()[1], validate=True)
    except (ValueError, IndexError):
        return ""
    return f"SHA256:{base64.b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')}"


def linked(text: str) -> Markup:
    """Escaped text whose http(s) URLs are links that tell nobody where they were clicked."""
    parts = [_linked_word(word) for word in text.split(" ")]
    return Markup(" ").join(parts)


def _linked_word(word: str) -> Markup:
    lines = word.split("\n")
    return Markup("\n").join(
        Markup('<a href="{0}" rel="noreferrer nofollow">{0}</a>').format(part)
        if part.startswith(("http://", "https://"))
        else escape(part)
        for part in lines
    )
