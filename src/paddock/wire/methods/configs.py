"""Methods of the skill `config`."""

from paddock.core.access import Role
from paddock.wire.methods.table import KIB, Effect, Kind, Method, Param, Toward

METHODS = (
    Method(
        name="config.apply",
        caption="Apply an ansible playbook, a puppet manifest or a chef recipe to the agent's machine.",
        toward=Toward.AGENT,
        # What a playbook does twice nobody but its author knows: it is repeated by who asked, not by us.
        effect=Effect.ONCE,
        role=Role.PERSON,
        task=True,
        params=(
            Param(
                name="tool",
                kind=Kind.TEXT,
                required=True,
                pattern="ansible|puppet|chef",
                doc="what applies it; it must be installed on the machine",
            ),
            Param(name="content", kind=Kind.TEXT, most=512 * KIB, doc="the playbook, manifest or recipe itself"),
            Param(
                name="url",
                kind=Kind.TEXT,
                least=1,
                most=4096,
                doc="where it is fetched: https, or on this machine file and http of its own address; needs sha256",
            ),
            Param(
                name="sha256",
                kind=Kind.TEXT,
                pattern="[0-9a-f]{64}",
                doc="of the file, verified before anything of it runs",
            ),
            Param(
                name="variables",
                kind=Kind.MAP,
                of=Kind.ANY,
                most=1000,
                pattern="[A-Za-z_][A-Za-z0-9_]*",
                doc="extra variables of ansible, facts of puppet (texts, numbers, booleans), attributes of chef",
            ),
            Param(name="check", kind=Kind.BOOLEAN, default=False, doc="only tell what would change"),
        ),
        one_of=("content", "url"),
        result="{tool, state: changed, unchanged or failed, exit: 0 unless failed, check}, and counts: "
        "hosts{name: {ok, changed, failures, ...}} of ansible, resources{total, changed, ...} of the others",
    ),
)
