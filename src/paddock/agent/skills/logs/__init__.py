"""Follows log files and units of the journal, as an output that grows until it is ended.

Effects: none; files are read. What was sent stays sent: after a restart of the agent it goes on behind the last byte.
"""

from collections.abc import Mapping

from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Deed, Place, Work


def methods(place: Place) -> Mapping[str, Deed]:
    """log.tail."""

    async def tail(call: Call) -> Outcome:
        # Loaded when it is first asked for.
        from paddock.agent.skills.logs import tailing

        return await tailing.tail(place, call)

    return {"log.tail": Work(act=tail, streams=True)}
