"""What kube-score says of the chart's manifests: nothing but what docs/security.md gives the reasons for."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from testbed import Cluster, Settings, builds

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"


@pytest.fixture(scope="session")
def complaints(chart):
    """(check, kind and name) of all that is less than well in the default rendering."""
    cluster = Cluster(Settings.from_environment())
    builds.build(cluster.settings, cluster.reporter, ("kube-score",))
    scored = subprocess.run([str(cluster.program("kube-score")), "score", "--kubernetes-version", "v1.30", "--output-format", "json", "-"],
                            input=chart.template().stdout, capture_output=True, text=True, check=False, timeout=60)
    graded = json.loads(scored.stdout)
    assert len(graded) >= 3, scored.stderr
    return {(check["check"]["id"], f"{found['type_meta']['kind']} {found['object_meta']['name']}")
            for found in graded for check in found["checks"] if not check["skipped"] and check["grade"] < 10}


def test_every_complaint_has_its_reason_in_the_security_page_and_no_reason_is_left_over(complaints):
    told = {(check, thing) for check, things in re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", SECURITY.read_text(), re.M)
            for thing in re.findall(r"(?:DaemonSet|Deployment|Job) [\w-]+", things)}
    assert complaints == told
