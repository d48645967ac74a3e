"""One line of `paddock doctor`.

Effects: none.
"""

from dataclasses import dataclass

OK, NOTE, BROKEN = "ok", "note", "broken"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check. `state`: ok; note: something is not there that can be done without; broken: it has to be mended."""

    name: str
    state: str
    found: str
    mend: str = ""
