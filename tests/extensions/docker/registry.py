"""A registry with one image, on loopback: as much of the distribution API as a pull needs."""

import gzip
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_KINDS = "application/vnd.docker."


class Registry:
    """The image `tools/busybox:latest`, of one layer."""

    def __init__(self, tar: Path) -> None:
        plain = tar.read_bytes()
        layer = gzip.compress(plain, 1, mtime=0)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["/bin/sh"]},
                "rootfs": {"type": "layers", "diff_ids": [_digest(plain)]},
                "history": [{"created": "2026-01-01T00:00:00Z"}],
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{_KINDS}distribution.manifest.v2+json",
                "config": _named(config, "container.image.v1+json"),
                "layers": [_named(layer, "image.rootfs.diff.tar.gzip")],
            }
        ).encode()
        self.digest = _digest(manifest)
        self.address = ""
        name = "/v2/tools/busybox"
        self.pages = {
            "/v2/": (b"{}", "application/json"),
            f"{name}/manifests/latest": (manifest, f"{_KINDS}distribution.manifest.v2+json"),
            f"{name}/manifests/{self.digest}": (manifest, f"{_KINDS}distribution.manifest.v2+json"),
            f"{name}/blobs/{_digest(config)}": (config, "application/octet-stream"),
            f"{name}/blobs/{_digest(layer)}": (layer, "application/octet-stream"),
        }

    @contextmanager
    def serve(self) -> Iterator["Registry"]:
        handler = type("Pages", (_Pages,), {"pages": self.pages})
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            self.address = f"127.0.0.1:{server.server_port}"
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _named(data: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": f"{_KINDS}{kind}", "size": len(data), "digest": _digest(data)}


class _Pages(http.server.BaseHTTPRequestHandler):
    pages: dict[str, tuple[bytes, str]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        data, kind = self.pages.get(self.path, (b"", ""))
        if not kind:
            data = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}).encode()
        self.send_response(200 if kind else 404)
        self.send_header("Content-Type", kind or "application/json")
        self.send_header("Content-Length", str(len(data)))
        if "/manifests/" in self.path and kind:
            self.send_header("Docker-Content-Digest", _digest(data))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass
