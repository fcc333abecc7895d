"""The agent's metrics, from the kernel's counters and the agent's own."""

from __future__ import annotations

from collections.abc import Mapping

from wharfinger_dataplane._records import Asked
from wharfinger_dataplane.agent.health import Metric, plain
from wharfinger_dataplane.agent.worker import Progress
from wharfinger_dataplane.attach import Attacher
from wharfinger_dataplane.kernel import Kernel


def kernel_metrics(kernel: Kernel) -> list[Metric]:
    """Packets and bytes by hook and reason, and events lost, since the maps were made."""
    counters = [({"hook": hook, "reason": reason}, counts) for (hook, reason), counts in kernel.counters().items()]
    return [
        Metric("wharfinger_packets_total", "counter", "Packets by hook and by the reason for which they left its chain.",
               tuple((labels, packets) for labels, (packets, _) in counters)),
        Metric("wharfinger_bytes_total", "counter", "Bytes of those packets, with their link headers.",
               tuple((labels, size) for labels, (_, size) in counters)),
        plain("wharfinger_events_lost_total", "counter", "Events of connections that found the ring buffer full.", kernel.events_lost()),
    ]


def agent_metrics(progress: Progress, attacher: Attacher, entries: Mapping[str, int], kernel: Kernel,
                  collected: Mapping[str, int], ended: int, asked: Mapping[Asked, int], traces: Mapping[tuple[str, str], int]) -> list[Metric]:
    """`entries`: table -> entries as last counted; `collected`: outcome -> flows; `ended`: connections
    whose server was gone; `asked`: what became of questions to clients; `traces`: as telemetry names them."""
    programs = [name for names in attacher.attached().values() for name in names]
    return [
        Metric("wharfinger_programs_attached", "gauge", "Interfaces that bear a program.",
               tuple(({"program": name}, programs.count(name)) for name in sorted(set(programs)))),
        plain("wharfinger_attach_fallbacks_total", "counter", "Programs that became classic filters because the kernel has no tcx.",
              attacher.fallbacks),
        Metric("wharfinger_table_entries", "gauge", "Entries of a table, as last counted.",
               tuple(({"table": name}, count) for name, count in entries.items())),
        Metric("wharfinger_table_capacity", "gauge", "Entries that a table can hold.",
               tuple(({"table": name}, kernel.capacity(name)) for name in entries)),
        Metric("wharfinger_flows_collected_total", "counter", "Connections that ended unseen: moved aside, or removed with their pod.",
               tuple(({"outcome": name}, count) for name, count in collected.items())),
        plain("wharfinger_connections_ended_total", "counter", "Connections of this node's pods that were ended: their server was gone.", ended),
        Metric("wharfinger_clients_asked_total", "counter", "Questions of servers that drain to their clients, by what became of them.",
               tuple(({"outcome": one.name.lower()}, asked.get(one, 0)) for one in Asked)),
        plain("wharfinger_rounds_total", "counter", "Rounds of the agent's loop.", progress.rounds),
        plain("wharfinger_rounds_faulty_total", "counter", "Rounds after which something was amiss.", progress.failures),
        plain("wharfinger_table_writes_total", "counter", "Values written to or removed from tables.", progress.writes),
        plain("wharfinger_event_to_write_seconds_sum", "counter", "Time from an event to the tables' being written, summed up.",
              progress.latency_sum_s),
        plain("wharfinger_event_to_write_seconds_count", "counter", "Events in that sum.", progress.latencies),
        plain("wharfinger_event_to_write_seconds_last", "gauge", "The last of them.", progress.last_latency_s),
        *trace_metrics(traces),
    ]


def trace_metrics(counts: Mapping[tuple[str, str], int]) -> list[Metric]:
    """`counts`: (name, reason or "") -> count, as Telemetry.counters has them; a metric for each name, a series for each of its reasons."""
    return [Metric(f"wharfinger_trace_{name}_total", "counter", f"Traces: {name.replace('_', ' ')}.",
                   tuple(({"reason": reason} if reason else {}, count) for (other, reason), count in counts.items() if other == name))
            for name in dict.fromkeys(name for name, _ in counts)]
