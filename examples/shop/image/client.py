"""A client of the shop that reports what it saw. It knows nothing of Wharfinger.

client.py burst URL COUNT              COUNT connections, one after the other; then one JSON object:
                                       servers {pod: count}, nodes {node: count}, peers {address:port as the socket sees it: count},
                                       errors, resets, seconds
client.py download URL BYTES RATE      one download at RATE bytes a second; a JSON object each second (seconds, bytes), then the result:
                                       bytes, seconds, pod, peer, checksum ("right" or "wrong"), resets, error
client.py idle                         wait to be used with `kubectl exec`

The exit status is 1 when anything went wrong.
"""

import hashlib
import http.client
import json
import signal
import sys
import time
from collections import Counter
from urllib.parse import urlsplit

from stream import checksum

TIMEOUT_S = 30.0


def connect(url: str) -> tuple[http.client.HTTPConnection, str]:
    """A fresh connection to the URL's host, and the peer's address and port as the application sees them."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT_S)
    connection.connect()
    return connection, "{}:{}".format(*connection.sock.getpeername()[:2])


def burst(url: str, count: int) -> bool:
    """Make `count` connections with one request each; whether all went well."""
    servers, nodes, peers = Counter(), Counter(), Counter()
    errors, resets, last_error, began = 0, 0, "", time.monotonic()
    for _ in range(count):
        try:
            connection, peer = connect(url)
            connection.request("GET", urlsplit(url).path or "/", headers={"Connection": "close"})
            identity = json.loads(connection.getresponse().read())
            connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            errors += 1
            resets += isinstance(error, ConnectionResetError)
            last_error = repr(error)
            continue
        servers[identity["pod"]] += 1
        nodes[identity["node"]] += 1
        peers[peer] += 1
    report = {"servers": dict(sorted(servers.items())), "nodes": dict(sorted(nodes.items())), "peers": dict(peers), "errors": errors,
              "resets": resets, "seconds": round(time.monotonic() - began, 3)}
    print(json.dumps(report | ({"error": last_error} if last_error else {})), flush=True)
    return errors == 0


def download(url: str, count: int, rate: int) -> bool:
    """Download `count` bytes at `rate` bytes a second; whether they were the right ones."""
    digest, began, received, reported, pod, peer, error = hashlib.sha256(), time.monotonic(), 0, 0.0, "", "", None
    try:
        connection, peer = connect(url)
        connection.request("GET", f"/download?bytes={count}&rate={rate}", headers={"Connection": "close"})
        response = connection.getresponse()
        pod = response.headers.get("X-Pod", "")
        while block := response.read1(65536):
            digest.update(block)
            received += len(block)
            now = time.monotonic() - began
            if now - reported >= 1.0:
                reported = now
                print(json.dumps({"seconds": round(now, 2), "bytes": received}), flush=True)
        connection.close()
    except (OSError, http.client.HTTPException) as failure:
        error = failure
    right = received == count and digest.hexdigest() == checksum(count)
    result = {"bytes": received, "seconds": round(time.monotonic() - began, 2), "pod": pod, "peer": peer,
              "checksum": "right" if right else "wrong", "resets": int(isinstance(error, ConnectionResetError))}
    print(json.dumps(result | ({"error": repr(error)} if error else {})), flush=True)
    return right and error is None


def main(arguments: list[str]) -> None:
    """Do what the arguments say."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    match arguments:
        case ["idle"]:
            signal.pause()
        case ["burst", url, count]:
            sys.exit(not burst(url, int(count)))
        case ["download", url, count, rate]:
            sys.exit(not download(url, int(count), int(rate)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
