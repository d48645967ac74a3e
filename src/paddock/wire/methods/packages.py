"""Methods of the skill `package`."""

from paddock.core.access import Role
from paddock.wire.methods.table import DAY, Effect, Kind, Method, Param, Toward

_NAMES = Param(
    name="names",
    kind=Kind.LIST,
    of=Kind.NAME,
    required=True,
    least=1,
    most=500,
    doc="packages, each by its name or as `name=version`",
)
_PLAIN_NAMES = Param(
    name="names", kind=Kind.LIST, of=Kind.NAME, required=True, least=1, most=500, doc="packages, each by its name"
)
_REFRESH = Param(
    name="refresh",
    kind=Kind.BOOLEAN,
    default=False,
    doc="fetch the lists of what there is first; without them nothing is changed",
)
_WAIT = Param(
    name="wait",
    kind=Kind.NUMBER,
    unit="s",
    least=0,
    most=DAY,
    default=600,
    doc="so long others may hold the package manager's lock, then it is `busy`",
)
_ROOT = Param(name="root", kind=Kind.PATH, doc="the directory of another system than the running one")
_CHANGED = "{manager, changed: [{name, arch, from, to}]}, null for what was not or is not installed"

METHODS = (
    Method(
        name="package.install",
        caption="Make packages be installed; one that is keeps its version, unless another is named.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.PERSON,
        task=True,
        params=(_NAMES, _REFRESH, _WAIT, _ROOT),
        result=_CHANGED,
    ),
    Method(
        name="package.remove",
        caption="Make packages not be installed, nor what depends on them.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.PERSON,
        task=True,
        params=(
            _PLAIN_NAMES,
            Param(
                name="purge",
                kind=Kind.BOOLEAN,
                default=False,
                doc="their configuration too, where the manager tells it apart",
            ),
            _WAIT,
            _ROOT,
        ),
        result=_CHANGED,
    ),
    Method(
        name="package.upgrade",
        caption="Make installed packages be of the newest version that there is; none is removed for it.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.PERSON,
        task=True,
        params=(
            Param(
                name="names",
                kind=Kind.LIST,
                of=Kind.NAME,
                most=500,
                doc="these alone, of which those that are not installed are left out; all if absent",
            ),
            _REFRESH,
            _WAIT,
            _ROOT,
        ),
        result=_CHANGED,
    ),
    Method(
        name="package.list",
        caption="Tell which packages are installed, a page at a time.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        params=(
            Param(name="glob", kind=Kind.NAME, doc="names that match; all if absent"),
            Param(name="cursor", kind=Kind.TEXT, most=1024, doc="where the page before ended, as its answer said"),
            Param(name="most", kind=Kind.INTEGER, least=1, most=5000, default=2000, doc="so many on a page at most"),
            _ROOT,
        ),
        result="{manager, packages: [{name, arch, version}], cursor}: cursor while there are more",
    ),
)
