"""Methods of the skill `user`."""

from paddock.core.access import Role
from paddock.wire.methods.table import GRACE, KIB, Effect, Kind, Method, Param, Toward

_NAME = Param(
    name="name",
    kind=Kind.TEXT,
    required=True,
    pattern="[a-z_][a-z0-9_-]{0,31}",
    doc="the user: lower case, digits, _ and -",
)
_FORCE = Param(
    name="force", kind=Kind.BOOLEAN, default=False, doc="the system's own accounts and names too, root's never removed"
)

METHODS = (
    Method(
        name="user.add",
        caption="Make an account be as described: made, changed where it differs, or left alone.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        params=(
            _NAME,
            Param(name="uid", kind=Kind.INTEGER, doc="of a new account; the next free one if absent"),
            Param(name="group", kind=Kind.NAME, doc="its own group, which exists; one of its name if absent"),
            Param(
                name="groups",
                kind=Kind.LIST,
                of=Kind.TEXT,
                most=1000,
                doc="all the others it is in, which exist; as they are if absent",
            ),
            Param(name="home", kind=Kind.PATH, doc="its home; where this system has homes if absent"),
            Param(name="create_home", kind=Kind.BOOLEAN, default=True, doc="make the home if it is not there"),
            Param(name="shell", kind=Kind.PATH, doc="a program of the machine; the system's usual one if absent"),
            Param(name="comment", kind=Kind.TEXT, most=256, doc="who that is"),
            Param(
                name="sudo",
                kind=Kind.LIST,
                of=Kind.TEXT,
                most=100,
                doc="all its rules, each what follows the name in sudoers; [] takes them away; as they are if absent",
            ),
            Param(
                name="keys", kind=Kind.LIST, of=Kind.TEXT, most=1000, doc="public keys that may log in, one line each"
            ),
            Param(name="keys_exact", kind=Kind.BOOLEAN, default=False, doc="those keys alone, not beside the others"),
            _FORCE,
        ),
        result="{name, uid, gid, comment, home, shell, groups, sudo, keys: how many, changed: [what]}",
    ),
    Method(
        name="user.remove",
        caption="End an account's processes and remove it; its home only if that is asked.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        params=(
            _NAME,
            Param(name="home", kind=Kind.BOOLEAN, default=False, doc="its home and its mail too"),
            GRACE,
            _FORCE,
        ),
        result="{name, changed: [what], ended: how many processes}",
    ),
    Method(
        name="user.list",
        caption="Name the accounts of the machine's own files.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        params=(
            Param(name="name", kind=Kind.TEXT, most=KIB, doc="this one alone"),
            Param(name="system", kind=Kind.BOOLEAN, default=False, doc="the system's own too"),
            Param(name="after", kind=Kind.TEXT, most=KIB, doc="names after this one: the last of the page before"),
            Param(name="most", kind=Kind.INTEGER, least=1, most=500, default=500, doc="so many at once"),
        ),
        result="{users: [as user.add tells them], more}",
    ),
)
