/* Trace identity (docs/protocol.md, "Trace identity"): ids that client, balancer and server each compute
 * alone, and so agree on; the programs decide by them which connections to tell of, the agent gives them to
 * spans.
 *
 * Rules:
 * - All that is hashed is in the connection's SYN or in the pool's slices: nothing is added to any packet for
 *   it.
 * - Encodings are fixed and little-endian, addresses as on the wire; changing one changes the protocol, for
 *   nodes of two versions would no longer agree.
 * - Trace ids are keyed: who sees packets must not be able to tell or choose a connection's trace. Span ids
 *   follow from the trace id. */
#ifndef WHARFINGER_TRACE_H
#define WHARFINGER_TRACE_H

#include "siphash.h"
#include "work.h"

/* 128 bits. A key is one as well. */
struct trace_id {
	u64 low, high;
};
ASSERT_SIZE(struct trace_id, 16);

INLINE u64 half_of(const struct addr *a, int n)
{
	return __builtin_bswap32(from_be32(a->word[2 * n])) |
	       (u64)__builtin_bswap32(from_be32(a->word[2 * n + 1])) << 32;
}

/* 29 bytes: client address, scope, client ISN, client port, X, protocol. */
INLINE struct siphash trace_hash(const struct trace_id *key, const struct event *e)
{
	struct siphash s = siphash_start(key->low, key->high);

	siphash_word(&s, half_of(&e->client, 0));
	siphash_word(&s, half_of(&e->client, 1));
	siphash_word(&s, e->scope | (u64)e->isn << 32);
	siphash_word(&s, from_be16(e->client_port) | (u32)from_be16(e->redirect_port) << 16 |
				 (u64)e->proto << 32 | 29ULL << 56);
	return s;
}

/* Whether a trace is one of `traced` out of TRACES_ALL: OpenTelemetry's rule (specification, "TraceState:
 * Probability Sampling"). */
INLINE int is_kept(u64 low, u64 traced) { return (low & (TRACES_ALL - 1)) + traced >= TRACES_ALL; }

/* The end of a connection whose beginning its server never saw (an entry rebuilt in mid-stream): nobody can
 * name its trace. */
INLINE int is_nameless(const struct event *e)
{
	return e->kind == EVENT_CLOSED && !e->isn && !e->established_ns;
}

/* Whether the programs tell of it: of all that is kept, and of the nameless, to be counted. */
INLINE int is_told(const struct trace_id *key, const struct event *e, u64 traced)
{
	if (!traced || traced >= TRACES_ALL || is_nameless(e))
		return traced != 0;
	struct siphash s = trace_hash(key, e);

	return is_kept(siphash_low(&s), traced);
}

/* Never 0. */
INLINE struct trace_id trace_of(const struct trace_id *key, const struct event *e)
{
	struct siphash s = trace_hash(key, e);
	struct trace_id id;

	id.low = siphash_low(&s);
	id.high = siphash_high(&s);
	id.low |= !(id.low | id.high);
	return id;
}

/* 19 bytes under the trace id as key: the server's address (zeros for the client's span), port, role. Never
 * 0. */
INLINE u64 span_of(const struct trace_id *trace, enum role role, const struct addr *server, be16 port)
{
	struct siphash s = siphash_start(trace->low, trace->high);

	siphash_word(&s, half_of(server, 0));
	siphash_word(&s, half_of(server, 1));
	siphash_word(&s, from_be16(port) | (u32)role << 16 | 19ULL << 56);
	u64 id = siphash_low(&s);
	return id | !id;
}

#endif
