/* One packet's working memory, and what the chains answer. Too big for a BPF stack, so every host keeps one per processor. */
#ifndef WHARFINGER_WORK_H
#define WHARFINGER_WORK_H

#include "packet.h"
#include "reasons.h"
#include "tables.h"

enum hook { HOOK_FROM_POD = 0, HOOK_TO_POD = 1, HOOK_FROM_NET = 2, HOOK_COUNT = 3 };
enum outcome { OUTCOME_PASS = 0, OUTCOME_DELIVER, OUTCOME_FORWARD, OUTCOME_DROP, OUTCOME_REFLECT, OUTCOME_RESET, OUTCOME_STACK, OUTCOME_NOTE };

/* The kernel's table of counters has a row of this many a hook. */
#define COUNTER_REASONS 128
_Static_assert(REASON_COUNT <= COUNTER_REASONS, "reasons outgrew the counters' table");
#define TRACES_ALL (1ULL << 56)
enum setting {
	SETTING_TRACED = 0,        /* of TRACES_ALL traces, how many are told of */
	SETTING_HELD_UNTIL,        /* kernel's monotonic clock, ns */
	SETTING_TRACE_KEY_LOW,
	SETTING_TRACE_KEY_HIGH,
	SETTING_GENERATION,        /* raised when routes, interfaces or tables change: what connections remember of them is looked up again */
	SETTING_LEFT_TO_STACK,     /* not 0: no packet goes past the stack (xfrm policies) */
	SETTING_COUNT,
};

enum role { ROLE_CLIENT = 1, ROLE_BALANCER = 2, ROLE_SERVER = 3 };
enum event_kind { EVENT_NONE = 0, EVENT_BALANCED = 1, EVENT_CLOSED = 2 };

/* What telemetry learns of a connection; the one record that crosses from kernel to agent while packets flow. */
struct event {
	u64 time_ns, started_ns, established_ns; /* kernel's monotonic clock; 0: not yet */
	struct addr client, virtual, server;     /* zero where the role cannot know: a server does not see the virtual address */
	u32 scope, isn, ifindex;
	be16 client_port, redirect_port, service_port, target_port;
	u8 kind, role, reason, ends;             /* enum event_kind, role, reason that the connection came to be by; bits of flow_end */
	u8 proto, aware, pad[6];
};
ASSERT_SIZE(struct event, 104);

/* What the packet shall say when it leaves: the chains start from what it says, and change what must change. Of outcome reset the addresses
 * and ports are those of the RST that answers it. */
struct verdict {
	struct addr src, dst;
	be16 sport, dport;
	u8 blank;                 /* overwrite our option with NOPs before the stack sees it */
	u8 pad[3];
	struct option append;     /* len 0: nothing */
};

/* Of a socket: what it expects of its peer, and what it sent: the first octet that is not acknowledged, the next. */
struct numbers {
	u32 expects, unacknowledged, next;
};

struct work {
	void *host;               /* the host's own; the chains never look at it */
	u32 ifindex;              /* the interface at whose host side the hook is */
	__s32 netns;              /* of the pod behind it */
	struct headers headers;
	struct packet packet;
	struct verdict verdict;
	struct event event;
	struct flow_key key, wire;
	struct flow flow;
	struct numbers numbers;
	struct server_port_key port_key;
	struct address_key address_key;
};

/* Each host gives these, beside find_NAME for every table of tables.h. */
#define WHARFINGER_DECLARE_FIND(name, key, value, capacity, kind) INLINE value *find_##name(struct work *w, const key *k);
WHARFINGER_TABLES(WHARFINGER_DECLARE_FIND)
#undef WHARFINGER_DECLARE_FIND
enum put { PUT_ANY = 0, PUT_NEW = 1 };
INLINE int put_flows(struct work *w, const struct flow_key *k, const struct flow *f, enum put how); /* 0, or not: taken or full */
INLINE void drop_flows(struct work *w, const struct flow_key *k);
INLINE int put_half_open(struct work *w, const struct flow_key *k, const struct flow *f);
INLINE void drop_half_open(struct work *w, const struct flow_key *k);
/* The pod's socket of this pair of ports, with its numbers when it is a whole one; a listener is none, and nor is what cannot be asked. */
enum held { HELD_NOT = 0, HELD_PART /* a handshake's, or TIME_WAIT's */, HELD_WHOLE };
INLINE enum held ask_stack(frame *f, const struct work *w, const struct flow_key *k, struct numbers *n);
INLINE u64 now_exact(struct work *w);
INLINE u64 now_coarse(struct work *w);
INLINE u32 draw_random(struct work *w);
INLINE u32 next_turn(struct work *w, u32 set);

INLINE void set_key(struct flow_key *k, enum flow_side side, const struct addr *local, be16 local_port, const struct addr *peer, be16 peer_port)
{
	k->local = *local;
	k->peer = *peer;
	k->local_port = local_port;
	k->peer_port = peer_port;
	k->proto = PROTO_TCP;
	k->side = side;
	k->pad = 0;
}

INLINE const struct server_port *server_port_of(struct work *w, const struct addr *server, be16 port, u32 scope)
{
	w->port_key = (struct server_port_key){ .addr = *server, .scope = scope, .port = port, .proto = PROTO_TCP };
	return find_server_ports(w, &w->port_key);
}

INLINE int has_room(const struct packet *p, u8 option_len)
{
	return !(p->traits & SYN_ENDED) && p->tcp_len + option_len <= TCP_LEN_MAX;
}

INLINE int is_end(u32 ends)
{
	return ends & END_RESET || (ends & (END_LOCAL_FIN | END_PEER_FIN)) == (END_LOCAL_FIN | END_PEER_FIN);
}

INLINE int stack_holds(frame *f, struct work *w, const struct flow_key *k) { return ask_stack(f, w, k, &w->numbers) != HELD_NOT; }

/* Bits of enum flow_end on a live connection: 1 when they are the ones that end it. */
INLINE int mark_end(struct flow *f, u32 bits)
{
	u32 was = __sync_fetch_and_or(&f->ends, bits);

	if (is_end(was) || !is_end(was | bits))
		return 0;
	f->state = FLOW_CLOSING;
	return 1;
}

/* A packet of the pod's own stack on a live connection: 1 when it is the one that ends it. The stack is the authority: its RST counts, but
 * for the one by which a handshake refuses a stranger's packet, and the peer's FIN counts when the stack acknowledges it. FIN and RST
 * only mark; the agent removes the entry when the socket is gone (docs/protocol.md, "State of the ends"). */
INLINE int note_own_end(frame *fr, struct work *w, struct flow *f)
{
	const struct packet *p = &w->packet;
	u32 said = f->ends, bits = 0;

	if (!(p->tcp_flags & (TCP_FIN | TCP_RST)) && !(said & (END_FIN_SAID | END_RESET_SAID)))
		return 0;
	if (said & END_RESET_SAID && !(p->tcp_flags & TCP_RST))
		__sync_fetch_and_and(&f->ends, ~(u32)END_RESET_SAID);
	if (said & END_FIN_SAID && p->tcp_flags & TCP_ACK && p->ack == f->peer_end)
		bits |= END_PEER_FIN;
	if (p->tcp_flags & TCP_FIN)
		bits |= END_LOCAL_FIN;
	if (p->tcp_flags & TCP_RST &&
	    (f->state == FLOW_OPENING ? p->seq == f->isn + 1 : ask_stack(fr, w, &w->key, &w->numbers) != HELD_PART))
		bits |= END_RESET;
	return mark_end(f, bits);
}

/* Whether the stack takes this RST of its peer's (RFC 5961): anybody may have sent it. */
INLINE int is_reset(frame *fr, struct work *w, const struct flow *f)
{
	const struct packet *p = &w->packet;

	if (f->state == FLOW_OPENING)
		return p->tcp_flags & TCP_ACK && p->ack == f->isn + 1;
	switch (ask_stack(fr, w, &w->key, &w->numbers)) {
	case HELD_WHOLE:
		return p->seq == w->numbers.expects;
	case HELD_PART:
		return p->seq == f->isn + 1;
	default:
		return 1;
	}
}

#define NEAR (1u << 24)       /* more than most windows */
/* Whether the stack may come to acknowledge this FIN of its peer's, and has not yet: a stranger's is not even remembered. The peer may
 * acknowledge what the stack has sent and not counted yet: it counts after sending, and the two are on different processors. */
INLINE int is_awaited(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;
	const struct numbers *n = &w->numbers;

	return ask_stack(fr, w, &w->key, &w->numbers) != HELD_WHOLE ||
	       (p->seq + p->payload - n->expects < NEAR && n->next + NEAR - p->ack < n->next - n->unacknowledged + 2 * NEAR);
}

/* A FIN or RST from the wire on the live connection of w->key: 1 when it is the one that ends it. */
INLINE int note_peers_end(frame *fr, struct work *w, struct flow *f)
{
	const struct packet *p = &w->packet;

	if (p->tcp_flags & TCP_RST)
		return mark_end(f, is_reset(fr, w, f) ? END_RESET : END_RESET_SAID);
	if (p->tcp_flags & TCP_FIN && !(f->ends & END_PEER_FIN) && is_awaited(fr, w)) {
		f->peer_end = p->seq + p->payload + 1;
		mark_end(f, END_FIN_SAID);
	}
	return 0;
}

/* The packet is answered by a RST, from the end that it went to. */
INLINE void answer_with_reset(struct work *w)
{
	const struct packet *p = &w->packet;

	w->verdict.src = p->dst;
	w->verdict.dst = p->src;
	w->verdict.sport = p->dport;
	w->verdict.dport = p->sport;
}

#endif
