"""Adds, removes and lists the users of a machine.

Effects: idempotent; each method states how an account is to be, and does what is missing.
"""

import functools
from collections.abc import Mapping

from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Deed, Place, Read, Work, in_thread
from paddock.wire.framing import JSON


def methods(place: Place) -> Mapping[str, Deed]:
    """user.add, user.remove, user.list."""
    del place  # users belong to the whole machine

    # Loaded when they are first asked for: most agents never touch an account.

    async def add(call: Call) -> Outcome:
        from paddock.agent.skills.users import adding

        return await in_thread(functools.partial(adding.add, call))

    async def remove(call: Call) -> Outcome:
        from paddock.agent.skills.users import removing

        return await in_thread(functools.partial(removing.remove, call))

    async def list_(call: Call) -> Mapping[str, JSON]:
        return (await in_thread(functools.partial(_list, call))).result

    return {"user.add": Work(act=add), "user.remove": Work(act=remove), "user.list": Read(answer=list_)}


def _list(call: Call) -> Outcome:
    """By name, a page at a time."""
    from paddock.agent.skills.users import accounts, adding

    least = 0 if call.params.get("system") is True else accounts.least_uid()
    wanted, after, most = call.text("name"), call.text("after"), call.number("most", 500)
    found = sorted(accounts.all_accounts(), key=lambda one: one.name)
    chosen = [
        one
        for one in found
        if one.name > after
        and (one.name == wanted if wanted else least <= one.uid and (least == 0 or one.uid != 65534))
    ]
    users: list[JSON] = [adding.described(one) for one in chosen[:most]]
    return Outcome(result={"users": users, "more": len(chosen) > most})
