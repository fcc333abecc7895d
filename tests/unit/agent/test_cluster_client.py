"""Requests to the API server, and what can be wrong with them."""

import base64

import pytest
import yaml
from wharfinger_dataplane.agent.access import Access, NoAccess, service_account
from wharfinger_dataplane.agent.cluster import MERGE_PATCH, Cluster, Refused, Unreachable
from wharfinger_dataplane.agent.kubeconfig import kubeconfig


def test_an_answer_is_its_json(api, cluster):
    api.answers["/a"] = {"b": 1}
    assert cluster.request("GET", "/a") == {"b": 1}


def test_a_body_is_sent_and_answered(api, cluster):
    assert cluster.request("PATCH", "/a", {"b": 2}, content_type=MERGE_PATCH) == {"b": 2}
    assert api.written == [("PATCH", "/a", 200, {"b": 2})]


def test_an_error_has_its_number_and_the_servers_words(api, cluster):
    api.refuse["POST", "/a"] = 409
    with pytest.raises(Refused, match="as told") as raised:
        cluster.request("POST", "/a", {})
    assert raised.value.status == 409


def test_a_server_that_is_not_there_is_unreachable():
    with pytest.raises(Unreachable):
        Cluster(Access("http://127.0.0.1:1", "")).request("GET", "/a")


def test_a_pod_finds_the_server_by_its_service_account(tmp_path):
    (tmp_path / "ca.crt").write_text("PEM")
    environment = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert service_account(environment, tmp_path) == Access("https://10.96.0.1:443", "PEM", token_file=tmp_path / "token")
    assert service_account({**environment, "KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path).server == "https://[fd00::1]:443"


def test_what_is_no_pod_says_so(tmp_path):
    with pytest.raises(NoAccess, match="KUBECONFIG"):
        service_account({}, tmp_path)


def test_a_kubeconfigs_current_context_is_taken(tmp_path):
    def data(text):
        return base64.b64encode(text.encode()).decode()

    path = tmp_path / "config"
    path.write_text(yaml.safe_dump({
        "current-context": "b",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}, {"name": "b", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://s", "certificate-authority-data": data("CA")}}],
        "users": [{"name": "u", "user": {"client-certificate-data": data("CERT\n"), "client-key-data": data("KEY\n")}}]}))
    assert kubeconfig(path) == Access("https://s", "CA", certificate="CERT\nKEY\n")


def test_a_file_that_is_no_kubeconfig_is_named(tmp_path):
    (tmp_path / "config").write_text("{}")
    with pytest.raises(NoAccess, match="config"):
        kubeconfig(tmp_path / "config")
