"""The sidecar as its container runs it: the system's Python, without site directories, as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wharfinger_sidecar import _log
from wharfinger_sidecar.__main__ import DEFAULT_TIMEOUT_S, timeout_s

DATAPLANE = Path(__file__).parents[3] / "dataplane"
COMMAND = ["/usr/bin/python3", "-S", "-m", "wharfinger_sidecar"]
RSS_LIMIT_KB = 12 * 1024
"""10.4 MB were measured with Python 3.11 on Debian 12, 4.3 of them private to the process."""


def environment(**extra: str) -> dict[str, str]:
    return {"PYTHONPATH": str(DATAPLANE), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"], **extra}


def catches(pid: int, signum: signal.Signals) -> bool:
    """Whether the process has a handler for the signal (proc(5), status, SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)


@pytest.fixture
def sidecar():
    """A sidecar whose gate nobody answers, after the gate's time-out; and the first line that it logged."""
    process = subprocess.Popen(COMMAND, env=environment(WHARFINGER_START_GATE_TIMEOUT_S="0.1", POD_NAME="client-0", NODE_NAME="n1"),
                               stderr=subprocess.PIPE, text=True)
    try:
        yield process, json.loads(process.stderr.readline())
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_it_logs_the_outcome_the_wait_and_its_place_as_json(sidecar):
    _, logged = sidecar
    assert logged["event"] == "start gate passed"
    assert (logged["outcome"], logged["level"], logged["pod"], logged["node"]) == ("unaware", "warning", "client-0", "n1")
    assert 100 <= logged["waited_ms"] < 1000


def test_it_stays_after_the_gate_and_is_small(sidecar):
    process, _ = sidecar
    time.sleep(0.1)
    assert process.poll() is None
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident_kb = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident_kb < RSS_LIMIT_KB


def test_it_ends_at_once_on_sigterm(sidecar):
    process, _ = sidecar
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    assert time.monotonic() - began < 0.5


def test_sigterm_while_a_line_is_being_written_ends_it_with_success():
    """With buffered output the handler's own line failed now and then: the interrupted line had the buffer."""
    for _ in range(20):
        process = subprocess.Popen(COMMAND, env=environment(WHARFINGER_START_GATE_TIMEOUT_S="0.01"), stderr=subprocess.PIPE, text=True)
        process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        process.stderr.close()


def test_sigterm_ends_it_while_the_gate_is_still_shut():
    process = subprocess.Popen(COMMAND, env=environment(WHARFINGER_START_GATE_TIMEOUT_S="60"), stderr=subprocess.PIPE, text=True)
    while not catches(process.pid, signal.SIGTERM):
        time.sleep(0.01)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, logged = process.communicate(timeout=5)
    assert process.returncode == 0
    assert time.monotonic() - began < 0.5
    assert json.loads(logged)["signal"] == "SIGTERM"


def test_hook_ends_with_success_after_the_timeout_so_that_the_pod_starts_unaware():
    began = time.monotonic()
    subprocess.run([*COMMAND, "gate"], env=environment(WHARFINGER_START_GATE_TIMEOUT_S="0.2"), check=True, timeout=10)
    assert 0.2 <= time.monotonic() - began < 2


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan", "inf"])
def test_timeout_that_is_no_positive_number_is_logged_and_not_used(text, monkeypatch, capfd):
    monkeypatch.setenv("WHARFINGER_START_GATE_TIMEOUT_S", text)
    assert timeout_s() == DEFAULT_TIMEOUT_S
    assert json.loads(capfd.readouterr().err)["value"] == text


def test_unknown_argument_is_refused_with_what_to_give():
    ended = subprocess.run([*COMMAND, "serve"], env=environment(), capture_output=True, text=True, timeout=10, check=False)
    assert ended.returncode == 1
    assert "`gate` for the hook" in ended.stderr


def test_only_the_standard_library_is_imported():
    listing = "import sys; before = set(sys.modules); import wharfinger_sidecar.__main__; print(*(set(sys.modules) - before))"
    loaded = subprocess.run(["/usr/bin/python3", "-S", "-c", listing], env=environment(), capture_output=True, text=True, check=True)
    foreign = {name.partition(".")[0] for name in loaded.stdout.split()} - {"wharfinger_sidecar"}
    assert foreign <= set(sys.stdlib_module_names)
    assert not foreign & {"json", "re", "typing", "logging", "dataclasses", "asyncio"}, "each of these costs megabytes in every pod"


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_every_line_is_json_and_reads_back_as_it_was(fields):
    read = json.loads(_log.line(fields))
    assert read == fields


def test_bytes_that_were_no_text_do_not_break_the_line():
    assert json.loads(_log.quote("a\udcffb").encode()) == "a\ufffdb"
