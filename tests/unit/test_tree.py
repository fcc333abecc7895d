"""What the documents say of the tree is so, and imports go one way."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
ROOTS = {"wharfinger_api": "crds", "wharfinger_dataplane": "dataplane", "wharfinger_sidecar": "dataplane",
         "wharfinger_operator": "operator", "wharfinger_cli": "cli"}
MAY_IMPORT = {
    "wharfinger_api": set(),
    "wharfinger_dataplane": {"wharfinger_api"},
    "wharfinger_sidecar": set(),
    "wharfinger_operator": {"wharfinger_api"},
    "wharfinger_cli": {"wharfinger_api", "wharfinger_dataplane"},
}


def ways() -> list[tuple[str, str]]:
    """(heading, step) of README's two ways."""
    readme = (TOP / "README.md").read_text()
    return [(heading, step) for heading, body in re.findall(r"## (The way of one [^\n]+)\n(.*?)(?=\n## )", readme, re.S)
            for step in re.findall(r"^\d+\. (.+)$", body, re.M)]


def test_readme_has_the_way_of_a_packet_and_of_a_custom_resource():
    assert {heading for heading, _ in ways()} == {"The way of one packet", "The way of one custom resource"}


@pytest.mark.parametrize(("heading", "step"), ways())
def test_the_names_in_readmes_ways_exist(heading, step):
    base = TOP / "dataplane" / "bpf" if "packet" in heading else TOP
    text = ""
    for name in re.findall(r"`([^`]+)`", step):
        word = name.removesuffix("()").split("(")[0]
        if re.search(r"\.(c|h|py|yaml)$|/$", word):
            found = [path for path in (base / word, TOP / word, *TOP.glob(f"operator/wharfinger_operator/{word}")) if path.exists()]
            assert found, f"{step}: there is no {word}"
            files = [found[0]] if found[0].is_file() else sorted(found[0].glob("*.py"))
            text += "".join(file.read_text() for file in files)
        elif re.fullmatch(r"\w+", word) and word.islower():
            everything = text or "".join(file.read_text() for file in (*base.glob("*.[ch]"), *(TOP / "operator").rglob("*.py")))
            known = everything + "".join(file.read_text() for file in (TOP / "dataplane" / "bpf").glob("*.[ch]"))
            assert re.search(rf"\b{word}\b", known), f"{step}: there is no {word}"


@pytest.mark.parametrize("page", [TOP / "README.md", *(TOP / "docs").glob("*.md"), *(TOP / "charts").rglob("README.md")], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.relative_to(TOP)} links {target}, which is not there"


@pytest.mark.parametrize("page", ["neighbours.md", "security.md"])
def test_tests_that_a_page_names_are_there(page):
    defined = {path.name: path.read_text() for path in (TOP / "tests").rglob("test_*.py")}
    for named in re.findall(r"`((?:test_\w+\.py::)?test_\w+)`", (TOP / "docs" / page).read_text()):
        file, _, name = named.rpartition("::")
        assert any(f"def {name}(" in text for where, text in defined.items() if file in ("", where)), f"{page}: there is no {named}"


@pytest.mark.parametrize("package", sorted(ROOTS))
def test_imports_go_one_way(package):
    for file in (TOP / ROOTS[package] / package).rglob("*.py*"):
        if file.suffix not in (".py", ".pyx"):
            continue
        imported = set(re.findall(r"^\s*(?:from|import|cimport) (wharfinger_\w+)", file.read_text(), re.M))
        assert imported <= MAY_IMPORT[package] | {package}, f"{file.relative_to(TOP)} imports {imported}"


def test_the_sidecar_imports_the_standard_library_only():
    for file in (TOP / "dataplane" / "wharfinger_sidecar").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            assert all(name.split(".")[0] in sys.stdlib_module_names | {"wharfinger_sidecar"} for name in names), (file.name, names)


def test_k06_the_top_level_is_as_laid_out():
    for name in ("operator", "dataplane", "charts", "crds", "tests", "pyproject.toml", "Tiltfile"):
        assert (TOP / name).exists(), name
    dependencies = (TOP / "pyproject.toml").read_text()
    for name in ("kopf", "kubernetes", "pyroute2", "opentelemetry-sdk", "cython"):
        assert f'"{name}>=' in dependencies, name


def test_no_source_root_is_a_package():
    assert [root for root in {*ROOTS.values()} if (TOP / root / "__init__.py").exists()] == []


@pytest.mark.parametrize("source", sorted((TOP / "dataplane" / "bpf").glob("*.[ch]")), ids=lambda source: source.name)
def test_lines_of_the_core_have_at_most_110_columns(source):
    assert [f"{number}: {line}" for number, line in enumerate(source.read_text().splitlines(), 1) if len(line) > 110] == []
