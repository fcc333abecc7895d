"""A copy of a collection, by list and watch."""

import queue

import pytest
from unit.agent.apiserver import change, listing
from wharfinger_dataplane.agent import reflector as module
from wharfinger_dataplane.agent.reflector import Misread, Reflector


class Copy:
    """A reflector and its changes as they come."""

    def __init__(self, cluster):
        self.changes = queue.Queue()
        self.reflector = Reflector(cluster, "/api/v1/pods", {"fieldSelector": "x=y"}, self.read, self.changed)

    def read(self, raw):
        if raw["metadata"].get("bad"):
            raise Misread(f"{raw['metadata']['name']} is bad")
        return raw["metadata"]["name"]

    def changed(self):
        self.changes.put(sorted(self.reflector.objects()))

    def next(self):
        return self.changes.get(timeout=5)


@pytest.fixture
def copy(api, cluster, monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_S", (0.01, 0.05))
    copy = Copy(cluster)
    yield copy
    copy.reflector.stop()
    api.lists = [listing("1")]
    api.watch.put(None)
    api.watch.put(None)


def test_a_list_is_taken_page_by_page(api, copy):
    api.lists = [listing("5", "a", "b", more="token"), listing("5", "c")]
    assert not copy.reflector.synced
    copy.reflector.start()
    assert copy.next() == ["a", "b", "c"]
    assert copy.reflector.synced
    assert api.queries[1]["continue"] == "token"


def test_a_watch_changes_the_copy(api, copy):
    api.lists = [listing("5", "a")]
    copy.reflector.start()
    assert copy.next() == ["a"]
    for event in (change("ADDED", "b", "6"), change("DELETED", "a", "7"), change("MODIFIED", "b", "8")):
        api.watch.put(event)
    assert [copy.next(), copy.next(), copy.next()] == [["a", "b"], ["b"], ["b"]]


def test_a_watch_that_ends_goes_on_at_the_last_version(api, copy):
    api.lists = [listing("5", "a")]
    copy.reflector.start()
    copy.next()
    api.watch.put(change("ADDED", "b", "6"))
    copy.next()
    api.watch.put({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}})
    api.watch.put(None)
    api.watch.put(change("ADDED", "c", "10"))
    assert copy.next() == ["a", "b", "c"]
    watches = [query for query in api.queries if "watch" in query]
    assert [query["resourceVersion"] for query in watches] == ["5", "9"]
    assert {query["fieldSelector"] for query in api.queries} == {"x=y"}


def test_a_version_that_is_gone_means_a_new_list(api, copy):
    api.lists = [listing("5", "a"), listing("50", "z")]
    copy.reflector.start()
    assert copy.next() == ["a"]
    api.watch.put({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
    api.watch.put(None)
    assert copy.next() == ["z"]


def test_the_copy_stays_while_the_server_fails(api, copy):
    api.lists = [listing("5", "a"), 500, 500, listing("50", "z")]
    copy.reflector.start()
    assert copy.next() == ["a"]
    api.watch.put({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
    assert copy.reflector.objects() == ["a"]
    api.watch.put(None)
    assert copy.next() == ["z"]


def test_an_object_that_is_not_understood_keeps_its_former_version_and_is_told_of(api, copy):
    api.lists = [listing("5", "a")]
    copy.reflector.start()
    copy.next()
    for name in ("a", "b"):
        event = change("MODIFIED", name, "6")
        event["object"]["metadata"]["bad"] = True
        api.watch.put(event)
    assert [copy.next(), copy.next()] == [["a"], ["a"]]
    assert copy.reflector.misread() == ["a is bad", "b is bad"]
    api.watch.put(change("MODIFIED", "a", "7"))
    api.watch.put(change("DELETED", "b", "8"))
    assert [copy.next(), copy.next()] == [["a"], ["a"]]
    assert copy.reflector.misread() == []
