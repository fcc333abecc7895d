"""What the tests of other kernels are made of, without a guest: sources, modules, results, the documents' table."""

import lzma
import re
import tarfile

import pytest
from kernels import table
from kernels.debian import KERNELS, Unpacked, dependencies, sources
from kernels.disks import TOP
from kernels.guests import cases, kernel_line, read
from testbed.errors import BuildError
from wharfinger_cli.check import KERNEL, SHOWN

TARGETS = """Debian|bookworm|main|https://mirror.example/debian/
Debian|bookworm|contrib|https://mirror.example/debian/
Debian|bookworm-updates|main|https://mirror.example/debian/
Other|bookworm|main|https://other.example/
"""
COUNTS = {"6.1": {"a": 1_000, "b": 123_456}, "6.12": {"a": 900}}
PAGE = f"# Kernels\n\n{table.BEGIN}\n{table.END}\nafter\n"


def test_another_release_comes_from_the_mirror_of_this_one():
    assert sources(TARGETS, "bookworm", "trixie") == ("deb https://mirror.example/debian/ trixie contrib\n"
                                                      "deb https://mirror.example/debian/ trixie main\n")


def test_a_machine_of_another_distribution_is_refused_in_words():
    with pytest.raises(BuildError, match="apt knows no mirror of Debian sid"):
        sources(TARGETS, "sid", "trixie")


def module(*needed):
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0name=x\0"


def test_a_module_names_those_that_it_needs():
    assert dependencies(module("llc", "nf-nat")) == ["llc", "nf_nat"]
    assert dependencies(module()) == []


@pytest.fixture
def unpacked(tmp_path):
    folder = tmp_path / "lib/modules/6.1.0"
    (folder / "kernel").mkdir(parents=True)
    (folder / "modules.builtin").write_text("kernel/net/ipv4/tunnel4.ko\n")
    (folder / "kernel/bridge.ko").write_bytes(module("stp", "tunnel4"))
    (folder / "kernel/stp.ko.xz").write_bytes(lzma.compress(module("llc")))
    (folder / "kernel/llc.ko").write_bytes(module())
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6.1.0").touch()
    return Unpacked(tmp_path)


def test_modules_come_after_what_they_need_and_without_what_is_built_in(unpacked):
    found = unpacked.modules(["bridge", "llc", "tunnel4"])
    assert list(found) == ["llc", "stp", "bridge"]
    assert found["stp"] == module("llc")


def test_a_module_that_the_kernel_has_not_is_named(unpacked):
    with pytest.raises(BuildError, match=r"kernel 6\.1\.0 has no module veth"):
        unpacked.modules(["veth"])


JUNIT = """<testsuites><testsuite><testcase classname="tests.a.test_b" name="good"/>
<testcase classname="tests.a.test_b" name="bad"><failure message="no">why</failure></testcase>
<testcase classname="tests.a.test_bc" name="left"><skipped message="not here"/></testcase>
</testsuite></testsuites>"""


def test_results_say_of_each_test_what_came_of_it():
    came = {case.name: case.outcome for case in cases(JUNIT)}
    assert came == {"good": "passed", "bad": "failure", "left": "skipped"}


def test_a_file_has_its_own_tests_and_not_those_of_one_whose_name_begins_alike(tmp_path):
    (tmp_path / "junit.xml").write_text(JUNIT)
    (tmp_path / "output.txt").write_text("said")
    with tarfile.open(tmp_path / "results.tar", "w") as archive:
        for name in ("junit.xml", "output.txt"):
            archive.add(tmp_path / name, f"./{name}")
    with (tmp_path / "results.tar").open("ab") as rest:
        rest.write(bytes(1 << 20))
    found = read(tmp_path / "results.tar")
    assert (len(found.of("tests/a/test_b.py")), len(found.of("tests/a"))) == (2, 3)
    assert (found.output, found.facts) == ("said", {})


def test_a_disk_on_which_nothing_was_written_is_no_result(tmp_path):
    (tmp_path / "results.tar").write_bytes(bytes(1 << 20))
    with pytest.raises((KeyError, tarfile.TarError)):
        read(tmp_path / "results.tar")


def test_a_guest_is_told_what_to_run_and_ends_at_a_panic():
    assert kernel_line("ttyS0", {"tests": "a,b"}).split()[-1] == "wharfinger.tests=a,b"
    assert "panic=-1" in kernel_line("ttyS0", {})


def test_a_page_has_the_counts_that_were_written_into_it():
    page = table.replace(PAGE, COUNTS)
    assert "| `b` | 123,456 | – |" in page
    assert page.startswith("# Kernels\n") and page.endswith("after\n")
    assert table.read(page) == COUNTS
    assert table.replace(page, COUNTS) == page
    assert table.read(PAGE) == {}


@pytest.mark.parametrize(("found", "said"), [
    ({"a": 1_000}, []),
    ({"a": 1_100}, []),
    ({"a": 500}, []),
    ({"a": 1_101}, ["a: 1,101 instructions, 1,000 in the table"]),
    ({"a": 1_000, "c": 1}, ["c is not in the table"]),
    ({}, ["a is in the table and not in the object"]),
])
def test_only_what_is_more_than_a_tenth_above_the_table_or_not_in_it_is_a_difference(found, said):
    assert table.differences({"a": 1_000}, found) == said


def test_a_kernels_series_is_its_first_two_numbers():
    assert table.series("6.12.117+deb13-cloud-amd64") == "6.12"


DOCUMENT = (TOP / "docs" / "kernels.md").read_text()
BPF = [*(TOP / "dataplane" / "bpf").glob("*.h"), *(TOP / "dataplane" / "bpf").glob("*.c")]


def features():
    """(feature, since which kernel, what is done without) as the page has them."""
    rows = re.findall(r"^\| ([^|]+) \| (?:after )?(\d+)\.(\d+) \| ([^|]+) \|$", DOCUMENT, re.M)
    return [(feature, (int(major), int(minor)), without) for feature, major, minor, without in rows]


def test_the_page_names_the_helpers_that_the_programs_call_and_no_others():
    called = {name for file in BPF for name in re.findall(r"\b(bpf_[a-z0-9_]+)\(", file.read_text())}
    assert "bpf_fib_lookup" in called
    assert set(re.findall(r"`(bpf_[a-z0-9_]+)`", DOCUMENT)) == called


def test_what_the_oldest_kernel_has_not_is_done_without():
    assert len(features()) > 15
    assert [feature for feature, since, without in features() if since > KERNEL and without == "–"] == []
    assert [feature for feature, since, without in features() if since <= KERNEL and without != "–"] == []


def test_the_kernels_that_are_tried_are_those_of_the_page_and_of_check():
    for kernel in KERNELS:
        assert f"| {kernel.version} (Debian" in DOCUMENT
    assert ".".join(map(str, SHOWN)) == KERNELS[0].version
    assert f"Linux **{'.'.join(map(str, KERNEL))} or later**" in DOCUMENT
