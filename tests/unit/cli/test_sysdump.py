"""`wharfinger sysdump`: what can be had is in the archive, what cannot is named, and no secret is in it."""

import json
import tarfile
from datetime import UTC, datetime

import pytest
from wharfinger_cli._errors import CliError
from wharfinger_cli.sysdump import LISTS, dump_to, without_secrets

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
AGENT = {
    "metadata": {"namespace": "wharfinger-system", "name": "agent-x", "labels": {"app.kubernetes.io/component": "agent"}},
    "spec": {"nodeName": "node-1", "containers": [{"name": "agent", "env": [
        {"name": "OTEL_EXPORTER_OTLP_HEADERS", "value": "authorization=Bearer 123"}, {"name": "NODE_NAME", "value": "node-1"}]}]},
    "status": {"containerStatuses": [{"name": "agent", "restartCount": 1}]}}


class Answers:
    """A cluster at hand: its lists are all the agent's pod, and what is in `away` cannot be had."""

    def __init__(self, *away):
        self.away = away

    def _had(self, what, value):
        if any(part in what for part in self.away):
            raise CliError(f"{what} is away", "wait")
        return value

    def raw(self, path):
        return self._had(path, {"gitVersion": "v1.34.4"})

    def items(self, path, **_query):
        return self._had(path, [AGENT])

    def text(self, path, **query):
        return self._had(path + query.get("previous", ""), f"log of {query['container']}")

    def execute(self, namespace, pod, command):
        return self._had("exec", json.dumps({"links": [], "command": command}))


def archive(path):
    with tarfile.open(path) as found:
        return {name.split("/", 1)[1]: found.extractfile(name).read().decode() for name in found.getnames()}


def test_lists_logs_views_and_every_nodes_kernel_are_in_the_archive(tmp_path):
    view = dump_to(Answers(), tmp_path / "dump", {"status": lambda: {"problems": []}}, NOW)
    found = archive(view.file)
    assert set(found) == {"version.json", "status.json", "missing.json", "kernel/node-1.json",
                          "logs/agent-x.agent.log", "logs/agent-x.agent.former.log",
                          *(f"resources/{name}.json" for name in LISTS)}
    assert (view.pieces, view.missing) == (len(found) - 1, {})
    assert json.loads(found["kernel/node-1.json"])["command"] == ["python3", "-m", "wharfinger_dataplane.dump"]


def test_the_archive_is_readable_by_its_owner_only(tmp_path):
    dump_to(Answers(), tmp_path / "dump", {}, NOW)
    assert (tmp_path / "dump").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_had_is_named_and_the_rest_goes_on(tmp_path):
    view = dump_to(Answers("exec", "nodereports"), tmp_path / "dump", {}, NOW)
    assert set(view.missing) == {"kernel/node-1.json", "resources/nodereports.json"}
    found = archive(view.file)
    assert json.loads(found["missing.json"]) == view.missing
    assert found["logs/agent-x.agent.log"] == "log of agent"


def test_a_cluster_of_which_nothing_can_be_read_leaves_no_file(tmp_path):
    with pytest.raises(CliError, match="nothing of the cluster"):
        dump_to(Answers("/"), tmp_path / "dump", {}, NOW)
    assert not (tmp_path / "dump").exists()


def test_a_file_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "dump").write_text("mine")
    with pytest.raises(CliError, match="cannot be written: File exists"):
        dump_to(Answers(), tmp_path / "dump", {}, NOW)
    assert (tmp_path / "dump").read_text() == "mine"


def test_values_of_secret_names_are_left_out(tmp_path):
    view = dump_to(Answers(), tmp_path / "dump", {}, NOW)
    text = archive(view.file)["resources/pods.json"]
    assert "Bearer 123" not in text
    assert '"node-1"' in text
    assert not [path for path in LISTS.values() if "secrets" in path]


@pytest.mark.parametrize(("given", "left"), [
    ({"name": "DB_PASSWORD", "value": "x"}, {"name": "DB_PASSWORD", "value": "(left out)"}),
    ({"name": "API_KEY", "value": "x"}, {"name": "API_KEY", "value": "(left out)"}),
    ({"name": "WHARFINGER_TRACE_KEY_FILE", "value": "/etc/k"}, {"name": "WHARFINGER_TRACE_KEY_FILE", "value": "/etc/k"}),
    ({"managedFields": [1], "name": "a"}, {"name": "a"}),
    ({"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "b": "c"}}, {"annotations": {"b": "c"}}),
])
def test_what_is_left_out_is_left_out_at_any_depth(given, left):
    assert without_secrets([{"deep": given}]) == [{"deep": left}]
