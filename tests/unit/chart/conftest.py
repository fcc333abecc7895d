"""The chart as Helm renders it, by the Helm that the testbed builds."""

import subprocess
from pathlib import Path

import pytest
import yaml
from testbed import Cluster, Settings, builds

TOP = Path(__file__).parents[3]
NAMESPACE = "wharfinger-system"


class Chart:
    """One chart and one Helm."""

    def __init__(self, helm, path):
        self.path = path
        self._helm = helm

    def helm(self, *words):
        """The ended process of a helm command; its text is captured."""
        return subprocess.run([str(self._helm), *words], capture_output=True, text=True, check=False, timeout=60)

    def template(self, *words, chart=None):
        """The process of a `helm template` of release wharfinger."""
        return self.helm("template", "wharfinger", str(chart or self.path), "--namespace", NAMESPACE, *words)

    def render(self, *words, chart=None):
        """The objects that an installation with these further words would make."""
        ended = self.template(*words, chart=chart)
        assert ended.returncode == 0, ended.stderr
        return [document for document in yaml.safe_load_all(ended.stdout) if document]


@pytest.fixture(scope="session")
def chart():
    cluster = Cluster(Settings.from_environment())
    builds.build(cluster.settings, cluster.reporter, ("helm",))
    return Chart(cluster.program("helm"), TOP / "charts" / "wharfinger")


@pytest.fixture(scope="session")
def objects(chart):
    """Everything in the default rendering, by (kind, name)."""
    return {(document["kind"], document["metadata"]["name"]): document for document in chart.render()}
