"""The API server, as the agent needs it: JSON in, JSON out.

Not the kubernetes package on purpose: its models cost 40 MB on every node, almost as much as all the rest of the agent.
"""

from __future__ import annotations

import json
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from wharfinger_dataplane.agent.access import Access, service_account

Json = dict[str, Any]
MERGE_PATCH = "application/merge-patch+json"
TOKEN_S = 60.0
CONNECT_S, READ_S = 3.0, 10.0
KEEPALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
             (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5), (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)]
"""A server that vanished without a word is noticed after 25 s, also by a watch on which nothing happens."""


class Refused(Exception):
    """The API server answered with an error: `status` is HTTP's number."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(Exception):
    """No answer: the API server or the way to it is down."""


class Cluster:
    """Requests to one API server. May be used from several threads at a time."""

    def __init__(self, access: Access) -> None:
        self._access = access
        context = ssl.create_default_context(cadata=access.ca or None)
        if access.certificate:
            with tempfile.NamedTemporaryFile("w", prefix="wharfinger-", suffix=".pem") as file:  # readable by its owner only
                file.write(access.certificate)
                file.flush()
                context.load_cert_chain(file.name)
        options = [*urllib3.connection.HTTPConnection.default_socket_options, *KEEPALIVE]
        self._pool = urllib3.PoolManager(maxsize=8, retries=False, ssl_context=context, socket_options=options)
        self._token, self._token_until_s = access.token, 0.0

    @classmethod
    def connect(cls, environment: Mapping[str, str]) -> Cluster:
        """By the kubeconfig that KUBECONFIG names, else as the pod's service account. NoAccess when there is neither."""
        if environment.get("KUBECONFIG"):
            # For developers, and so imported only then: it needs PyYAML, which the agent's image has no use for.
            from wharfinger_dataplane.agent.kubeconfig import kubeconfig

            return cls(kubeconfig(Path(environment["KUBECONFIG"])))
        return cls(service_account(environment))

    def request(self, method: str, path: str, body: Json | None = None, *, content_type: str = "application/json") -> Json:
        """The answer to one request. Refused or Unreachable."""
        answer = self._send(method, path, body, content_type, READ_S)
        try:
            return json.loads(answer.data)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"{method} {path}: {error}") from error
        finally:
            answer.release_conn()

    def stream(self, path: str, query: Mapping[str, str | int], read_s: float) -> Iterator[Json]:
        """The lines of a watch, until the server ends it or nothing came for `read_s` seconds. Refused or Unreachable."""
        answer = self._send("GET", f"{path}?{urlencode(query)}", None, "", read_s)
        try:
            rest = b""
            for chunk in answer.stream(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        yield json.loads(line)
        except urllib3.exceptions.ReadTimeoutError:
            return  # to watch on from where this watch came to costs little, and shows whether the server is there
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise Unreachable(f"watch of {path}: {error}") from error
        finally:
            answer.close()

    def close(self) -> None:
        """Closes idle connections; a watch that is going on ends when its server or its time-out ends it."""
        self._pool.clear()

    def _send(self, method: str, path: str, body: Json | None, content_type: str, read_s: float) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": "wharfinger-agent"}
        if body is not None:
            headers["Content-Type"] = content_type
        if token := self._bearer():
            headers["Authorization"] = f"Bearer {token}"
        try:
            answer = self._pool.request(
                method, self._access.server + path, headers=headers, body=None if body is None else json.dumps(body).encode(),
                timeout=urllib3.Timeout(connect=CONNECT_S, read=read_s), preload_content=False)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"{method} {path}: {error}") from error
        if answer.status < 400:
            return answer
        try:
            raise Refused(answer.status, f"{method} {path}: {answer.status} {_message(answer.data)}")
        finally:
            answer.release_conn()


    def _bearer(self) -> str:
        """The token; the kubelet renews its file long before it expires."""
        now_s = time.monotonic()
        if self._access.token_file and now_s >= self._token_until_s:
            try:
                self._token, self._token_until_s = self._access.token_file.read_text().strip(), now_s + TOKEN_S
            except OSError as error:
                raise Unreachable(f"the service account's token cannot be read: {error}") from error
        return self._token


def _message(data: bytes) -> str:
    """What a Status object, or whatever came instead, says."""
    try:
        return str(json.loads(data).get("message", ""))
    except (ValueError, AttributeError):
        return data[:200].decode(errors="replace")
