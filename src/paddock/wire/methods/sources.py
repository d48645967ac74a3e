"""Methods of the skill `sources`."""

from paddock.core.access import Role
from paddock.wire.methods.table import Effect, Kind, Method, Param, Toward

METHODS = (
    Method(
        name="sources.checkout",
        caption="Make a directory hold a change's working tree, as the user's own git would.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.PERSON,
        task=True,
        params=(
            Param(name="url", kind=Kind.TEXT, required=True, least=1, most=4096, doc="the repository"),
            Param(name="ref", kind=Kind.NAME, required=True, doc="what to fetch, refs/changes/21/189221/1"),
            Param(
                name="revision",
                kind=Kind.TEXT,
                pattern="[0-9a-f]{40}|[0-9a-f]{64}",
                doc="the commit that ref must be, or it failed",
            ),
            Param(name="path", kind=Kind.PATH, required=True, doc="the directory, relative to the machine's directory"),
        ),
        result="{revision}: the commit that is checked out",
    ),
)
