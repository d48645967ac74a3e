"""A metadata service on loopback: it speaks every cloud's dialect, one or all of them, or hangs."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping

CODE = "code-from-the-cloud"
USER_DATA = f"#cloud-config\n# paddock-enrolment-code: {CODE}\npackages: [git]\n"
SESSION = "session-of-imds-v2"

EC2 = {
    "/latest/meta-data/instance-id": "i-0123456789abcdef0",
    "/latest/meta-data/local-ipv4": "10.0.0.5",
    "/latest/meta-data/public-ipv4": "198.51.100.5",
    "/latest/user-data": USER_DATA,
}
OPENSTACK = {
    "/openstack/latest/meta_data.json": json.dumps(
        {"uuid": "d8e02d56-2648-49a3-bf97-6be8f1204f38", "meta": {"paddock-enrolment-code": CODE}, "name": "web"}
    ),
}
AZURE = {
    "/metadata/instance?api-version=2021-02-01": json.dumps(
        {
            "compute": {
                "vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6",
                "tagsList": [{"name": "team", "value": "ci"}],
                "userData": base64.b64encode(USER_DATA.encode()).decode(),
            },
            "network": {
                "interface": [
                    {
                        "ipv4": {"ipAddress": [{"privateIpAddress": "10.1.0.4", "publicIpAddress": "198.51.100.7"}]},
                        "ipv6": {"ipAddress": []},
                    }
                ]
            },
        }
    ),
}
GOOGLE = {
    "/computeMetadata/v1/instance/?recursive=true": json.dumps(
        {
            "id": 8087716956832600000,
            "attributes": {"paddock-enrolment-code": CODE},
            "networkInterfaces": [{"ip": "10.2.0.3", "accessConfigs": [{"externalIp": "198.51.100.9"}]}],
        }
    ),
}
WANTED = dict.fromkeys(AZURE, ("metadata", "true")) | dict.fromkeys(GOOGLE, ("metadata-flavor", "Google"))
"""Headers without which nothing is told: nobody is to be talked into asking by a link."""


class Metadata:
    """`pages` by path; with `session` the pages of EC2 are told to those alone who asked for a session first."""

    def __init__(self, pages: Mapping[str, str], *, session: bool = False, hangs: bool = False) -> None:
        self.pages = pages
        self.session = session
        self.hangs = hangs
        self.asked: list[str] = []
        self.port = 0
        self._over = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Metadata"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._over.set()
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *fields = head.split("\r\n")
            method, path, _ = line.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            self.asked.append(f"{method} {path}")
            if self.hangs:
                await self._over.wait()
            status, body = self._answer(method, path, headers)
            proof = "Metadata-Flavor: Google\r\n" if path in GOOGLE else ""
            writer.write(f"HTTP/1.1 {status} -\r\n{proof}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()
        writer.close()

    def _answer(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        if method == "PUT":
            is_asked = "x-aws-ec2-metadata-token-ttl-seconds" in headers
            return (200, SESSION) if self.session and path == "/latest/api/token" and is_asked else (405, "")
        if self.session and path in EC2 and headers.get("x-aws-ec2-metadata-token") != SESSION:
            return 401, ""
        name, value = WANTED.get(path, ("host", headers.get("host", "")))
        if path not in self.pages or headers.get(name) != value:
            return 404, ""
        return 200, self.pages[path]
