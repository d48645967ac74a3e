"""Methods that make, list and remove images on a host."""

from paddock.core.access import Role
from paddock.wire.methods.table import DAY, STORED, Effect, Kind, Method, Param, Toward

METHODS = (
    Method(
        name="image.build",
        caption="Make the image exist on this host, building what is missing of its chain; its output is the log.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        params=(
            Param(
                name="chain",
                kind=Kind.LIST,
                of=Kind.OBJECT,
                required=True,
                least=1,
                most=64,
                doc="the image and all that it is made of, the one with a url or a path first",
            ),
        ),
        result="{image, digest, bytes, apparent, layers: [{digest, image, script, bytes, seconds, built}], "
        f"{STORED}}}",
    ),
    Method(
        name="image.list",
        caption="Layers of images and templates on this host, with sizes, ages and who needs them.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        result="{layers: [{digest, parent, images[], script, bytes, apparent, built, used, clones, damage}], "
        "templates: [{key, layer, bytes, built, used, clones}]}",
    ),
    Method(
        name="image.collect",
        caption="Remove layers and templates that nobody has used for long, or the oldest until there is room.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        params=(
            Param(name="unused", kind=Kind.NUMBER, unit="s", most=3650 * DAY, doc="not used for so long"),
            Param(name="room", kind=Kind.INTEGER, unit="bytes", doc="until so much is free"),
            Param(name="keep", kind=Kind.LIST, of=Kind.NAME, most=10_000, doc="digests that stay"),
            Param(name="dry_run", kind=Kind.BOOLEAN, default=False, doc="only say what would go"),
        ),
        result=f"{{removed: [{{digest, bytes, why}}], freed: bytes, {STORED}}}",
    ),
)
