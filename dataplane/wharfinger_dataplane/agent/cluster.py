"""The API server, as the agent needs it: JSON in, JSON out, over the kubernetes client's connection and credentials.

Raw objects on purpose: the client's models would cost the agent more memory than all it keeps itself.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config

Json = dict[str, Any]
MERGE_PATCH = "application/merge-patch+json"
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

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api

    @classmethod
    def connect(cls) -> Cluster:
        """By the kubeconfig that KUBECONFIG names, else as the pod's service account.

        kubernetes.config.ConfigException when there is neither."""
        configuration = client.Configuration()
        if os.environ.get("KUBECONFIG"):
            config.load_kube_config(client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)
        configuration.retries = urllib3.Retry(0)
        configuration.connection_pool_maxsize = 8
        configuration.socket_options = [*urllib3.connection.HTTPConnection.default_socket_options, *KEEPALIVE]
        return cls(client.ApiClient(configuration))

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
        """The lines of a watch, until the server ends it. Refused or Unreachable, also when nothing comes for `read_s` seconds."""
        answer = self._send("GET", f"{path}?{urlencode(query)}", None, "", read_s)
        try:
            rest = b""
            for chunk in answer.stream(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        yield json.loads(line)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise Unreachable(f"watch of {path}: {error}") from error
        finally:
            answer.close()

    def close(self) -> None:
        """Closes idle connections; a watch that is going on ends when its server or its time-out ends it."""
        self._api.rest_client.pool_manager.clear()

    def _send(self, method: str, path: str, body: Json | None, content_type: str, read_s: float) -> urllib3.BaseHTTPResponse:
        headers: dict[str, str] = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        self._api.update_params_for_auth(headers, [], ["BearerToken"])
        try:
            answer = self._api.rest_client.pool_manager.request(
                method, self._api.configuration.host + path, headers=headers, body=None if body is None else json.dumps(body).encode(),
                timeout=urllib3.Timeout(connect=CONNECT_S, read=read_s), preload_content=False)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"{method} {path}: {error}") from error
        if answer.status < 400:
            return answer
        try:
            raise Refused(answer.status, f"{method} {path}: {answer.status} {_message(answer.data)}")
        finally:
            answer.release_conn()


def _message(data: bytes) -> str:
    """What a Status object, or whatever came instead, says."""
    try:
        return str(json.loads(data).get("message", ""))
    except (ValueError, AttributeError):
        return data[:200].decode(errors="replace")
