"""The few requests that the testbed itself makes of the API server. Everything else goes through kubectl."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse
from collections.abc import Iterator

from .errors import ClusterError
from .settings import Settings

TIMEOUT_S = 5.0
UNREACHABLE = (OSError, http.client.HTTPException)


class Api:
    """The API server, spoken to as its administrator."""

    def __init__(self, settings: Settings) -> None:
        self._url = urllib.parse.urlsplit(settings.server)
        folder = settings.certificates
        self._context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        self._context.load_cert_chain(str(folder / "admin.crt"), str(folder / "admin.key"))

    def request(self, method: str, path: str, body: dict | None = None) -> tuple[int, str]:
        """The status and text of an answer."""
        connection = http.client.HTTPSConnection(self._url.hostname or "", self._url.port, timeout=TIMEOUT_S, context=self._context)
        try:
            connection.request(method, path, body=json.dumps(body) if body else None, headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

    def lines(self, path: str, seconds: int) -> Iterator[dict]:
        """The objects of an answer of one a line, as a watch is; it ends after `seconds`, or when the server ends it."""
        connection = http.client.HTTPSConnection(self._url.hostname or "", self._url.port, timeout=seconds + TIMEOUT_S, context=self._context)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            while line := response.readline():
                yield json.loads(line)
        finally:
            connection.close()

    def ready(self) -> bool:
        """Whether the API server says that it is."""
        try:
            return self.request("GET", "/readyz")[0] == 200
        except UNREACHABLE:
            return False

    def exists(self, path: str) -> bool:
        """Whether an object is there."""
        return self.request("GET", path)[0] == 200

    def create(self, path: str, body: dict) -> None:
        """Creates an object, or finds it there."""
        status, text = self.request("POST", path, body)
        if status not in (200, 201, 409):
            raise ClusterError(f"creating {body['kind']} {body['metadata']['name']} was answered with {status}: {text}")

    def ready_nodes(self) -> set[str]:
        """The names of the nodes that are Ready."""
        status, text = self.request("GET", "/api/v1/nodes")
        return ready_nodes(json.loads(text)) if status == 200 else set()


def ready_nodes(listing: dict) -> set[str]:
    """The names of those nodes in a NodeList that are Ready."""
    return {item["metadata"]["name"] for item in listing.get("items", ())
            for condition in item.get("status", {}).get("conditions", ())
            if condition["type"] == "Ready" and condition["status"] == "True"}
