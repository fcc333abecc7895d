"""A small API server for the operator's client: objects with versions, preconditions, listings and watches, over real HTTP."""

import asyncio
import itertools
import json
from contextlib import asynccontextmanager

import kopf
from aiohttp import web
from wharfinger_operator.client import KINDS, Client

KIND_OF = {where.plural: kind for kind, where in KINDS.items()}


class ApiServer:
    """`objects` by (kind, namespace, name). `fail` holds statuses with which the next requests are refused; `requests` what was
    asked, `watching` from which versions watches were begun."""

    def __init__(self):
        self.objects = {}
        self.requests = []
        self.fail = []
        self.watching = []
        self._versions = itertools.count(100)
        self._events = asyncio.Queue()

    def put(self, kind, namespace, name, body):
        """Stores an object under a new version."""
        old = self.objects.get((kind, namespace, name))
        metadata = {"uid": f"uid-{name}", "generation": 0, **(old or {}).get("metadata", {}), **body.get("metadata", {}),
                    "name": name, "namespace": namespace, "resourceVersion": str(next(self._versions))}
        if old is None or old.get("spec") != body.get("spec"):
            metadata["generation"] += 1
        self.objects[kind, namespace, name] = {**body, "kind": kind, "metadata": metadata}
        self._events.put_nowait(("ADDED" if old is None else "MODIFIED", self.objects[kind, namespace, name]))
        return self.objects[kind, namespace, name]

    async def handle(self, request):
        self.requests.append((request.method, request.path))
        if self.fail:
            return refusal(self.fail.pop(0), "as the test wants it")
        namespace, kind, name, sub = parts(request.path)
        body = json.loads(text) if (text := await request.text()) else {}
        if request.query.get("watch"):
            return await self._watch(request)
        if request.method == "POST":
            name = body["metadata"]["name"]
        key = (kind, namespace, name)
        found = self.objects.get(key)
        if request.method == "GET" and not name:
            items = [raw for (other, space, _), raw in self.objects.items() if other == kind and namespace in ("", space)]
            return web.json_response({"items": items, "metadata": {"resourceVersion": str(next(self._versions))}})
        if request.method == "POST":
            return refusal(409, "exists") if found else web.json_response(self.put(*key, body))
        if found is None:
            return refusal(404, "not found")
        if request.method == "GET":
            return web.json_response(found)
        wanted = body.get("preconditions", body.get("metadata", {})).get("resourceVersion")
        if wanted not in (None, found["metadata"]["resourceVersion"]):
            return refusal(409, "another version")
        if request.method == "DELETE":
            del self.objects[key]
            return web.json_response({})
        return web.json_response(self.put(*key, {**found, "status": body["status"]} if sub == "status" else body))

    async def _watch(self, request):
        self.watching.append(request.query["resourceVersion"])
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            event, raw = await self._events.get()
            if event == "END":
                return answer
            await answer.write(json.dumps({"type": event, "object": raw}).encode() + b"\n")

    def break_watch(self, message):
        self._events.put_nowait(("ERROR", {"message": message}))

    def end_watch(self):
        self._events.put_nowait(("END", None))


def refusal(status, message):
    return web.json_response({"message": message}, status=status)


def parts(path):
    """(namespace, kind, name, subresource) of a request's path."""
    words = path.strip("/").split("/")
    words = words[2:] if words[0] == "api" else words[3:]
    namespace = ""
    if words[0] == "namespaces" and len(words) > 2:
        namespace, words = words[1], words[2:]
    return namespace, KIND_OF[words[0]], words[1] if len(words) > 1 else "", words[2] if len(words) > 2 else ""


@asynccontextmanager
async def served():
    """(server, client of it)."""
    server = ApiServer()
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with Client(kopf.ConnectionInfo(server=f"http://127.0.0.1:{port}")) as client:
            yield server, client
    finally:
        await runner.cleanup()
