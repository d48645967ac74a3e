"""What a machine needs to become a host: the agent in one file, and its installer."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from paddock.web.kit import script
from paddock.web.site import Site

_SUM = ".sha256"


class Enrolling:
    """The routes. Nothing here is a secret, and whoever asks has no token yet."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[BaseRoute]:
        return [Route("/enrol", self.script), Route("/agent/{name}", self.file)]

    async def file(self, request: Request) -> Response:
        """The agent in one file; with `.sha256` at the end of its name the digest, as sha256sum reads it."""
        name = request.path_params["name"]
        offered = await self._site.kit.find(name.removesuffix(_SUM))
        if name.endswith(_SUM):
            return PlainTextResponse(f"{offered.sha256}  {offered.name}\n")
        headers = {"X-Checksum-SHA256": offered.sha256, "ETag": f'"{offered.sha256}"'}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        headers["Content-Disposition"] = f'attachment; filename="{offered.name}"'
        return Response(offered.content, media_type="application/octet-stream", headers=headers)

    async def script(self, request: Request) -> Response:
        """The installer, made for this server: its address, what its certificate is known by, what it offers."""
        offers = [f"{one.name} {one.sha256}" for one in await self._site.kit.all()]
        return PlainTextResponse(script(self._site.public_url, self._site.kit.pins, offers))
