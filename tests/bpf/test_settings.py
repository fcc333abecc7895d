"""What the agent sets of the programs, in the kernel's map."""

from contextlib import closing

import pytest
from support.lab import bpffs
from support.packets import PORT, REDIRECT, option, tcp
from wharfinger_dataplane import _records as records
from wharfinger_dataplane.kernel import CONNECTION_TABLES, Kernel

MARK, _ = records.pack_setting(records.SETTING_MADE, 0)
KEY, HALF = bytes(range(16)), records.TRACES_ALL // 2


@pytest.fixture
def kernel(tmp_path):
    with (
        bpffs(tmp_path / "bpf") as path,
        closing(Kernel.open(path, dict.fromkeys(CONNECTION_TABLES, 1024))) as found,
    ):
        yield found


@pytest.fixture
def writes(kernel, monkeypatch):
    """What is put into the kernel's maps, which it does reach."""
    found, put = [], kernel.put
    monkeypatch.setattr(
        kernel, "put", lambda table, key, value: found.append((key, value)) or put(table, key, value)
    )
    return found


def test_a_new_key_is_whole_before_anything_is_traced_by_it(kernel, writes):
    kernel.trace(bytes(16), HALF)
    writes.clear()
    kernel.trace(KEY, HALF)
    assert writes == [*records.pack_tracing(KEY, 0), records.pack_tracing(KEY, HALF)[0]]
    assert [kernel.get("settings", setting) for setting, _ in writes[1:]] == [
        value for _, value in writes[1:]
    ]


def test_an_agent_that_restarts_with_the_same_settings_writes_nothing_and_so_misses_no_record(kernel, writes):
    kernel.trace(KEY, HALF)
    writes.clear()
    kernel.trace(KEY, HALF)
    assert writes == []


def test_more_than_all_traces_or_another_key_are_refused():
    with pytest.raises(ValueError, match="traces of"):
        records.pack_tracing(KEY, records.TRACES_ALL + 1)
    with pytest.raises(ValueError, match="16"):
        records.pack_tracing(KEY[1:], 0)


def test_a_mark_is_drawn_once_for_packets_of_our_making(tmp_path):
    with bpffs(tmp_path / "bpf") as path:
        drawn = []
        for _ in range(2):  # the second adopts the maps
            with closing(Kernel.open(path, dict.fromkeys(CONNECTION_TABLES, 1024))) as found:
                drawn.append(found.get("settings", MARK))
    assert drawn[0] == drawn[1] != bytes(8)


@pytest.mark.parametrize(("ours", "reason"), [(True, "client_ends"), (False, "forged_option")])
def test_a_packet_with_another_mark_is_not_of_our_making(kernel, ours, reason):
    """Some interfaces let a pod set marks (netkit without scrubbing)."""
    mark = int.from_bytes(kernel.get("settings", MARK), "little")
    step_1 = tcp("10.0.0.1:20001", "10.0.0.2:3", "A", options=option(REDIRECT | PORT, port=80))
    kernel.programs["wharf_from_pod"].run(step_1, ifindex=1, mark=mark if ours else mark ^ 1)
    assert set(kernel.counters()) == {("from_pod", reason)}
