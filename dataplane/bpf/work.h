/* One packet's working memory, what the chains answer, and what each host gives them. The memory is too big
 * for a BPF stack, so every host keeps one per processor. */
#ifndef WHARFINGER_WORK_H
#define WHARFINGER_WORK_H

#include "packet.h"
#include "reasons.h"
#include "tables.h"

enum hook { HOOK_FROM_POD = 0, HOOK_TO_POD = 1, HOOK_FROM_NET = 2, HOOK_COUNT = 3 };
/* What becomes of a packet by a reason. STACK and NOTE are counted beside another reason, and decide
 * nothing. */
enum outcome {
	OUTCOME_PASS = 0, /* untouched: the stack's */
	OUTCOME_DELIVER,  /* rewritten, and the stack's or the pod's */
	OUTCOME_FORWARD,  /* rewritten and sent past the stack, or given to it by a reason of STACK */
	OUTCOME_DROP,
	OUTCOME_REFLECT, /* sent back to the pod as its answer */
	OUTCOME_ANSWER,	 /* answered by a segment of our making, in place of the packet */
	OUTCOME_STACK,	 /* why a packet that was to go past the stack did not */
	OUTCOME_NOTE,	 /* something about the packet */
};

/* The kernel's table of counters has a row of this many a hook. */
#define COUNTER_REASONS 128
_Static_assert(REASON_COUNT <= COUNTER_REASONS, "reasons outgrew the counters' table");
#define TRACES_ALL (1ULL << 56)
enum setting {
	SETTING_TRACED = 0, /* of TRACES_ALL traces, how many are reported */
	SETTING_HELD_UNTIL, /* kernel's monotonic clock, ns */
	SETTING_TRACE_KEY_LOW,
	SETTING_TRACE_KEY_HIGH,
	SETTING_GENERATION, /* changed when routes or interfaces change, or a server loses a port (clock.h) */
	SETTING_LEFT_TO_STACK, /* not 0: no packet goes past the stack (agent/ways.py says why) */
	SETTING_FULL, /* not 0: the tables of connections are nearly full, so new connections are unaware */
	SETTING_MADE, /* the mark of a packet that wharf_ask made; drawn, as some interfaces let a pod set
			 marks */
	SETTING_COUNT,
};

enum role { ROLE_CLIENT = 1, ROLE_BALANCER = 2, ROLE_SERVER = 3 };
enum event_kind { EVENT_NONE = 0, EVENT_BALANCED = 1, EVENT_CLOSED = 2 };

/* What telemetry learns of a connection; the one record that crosses from kernel to agent while packets
 * flow. */
struct event {
	u64 time_ns, started_ns, established_ns; /* kernel's monotonic clock; 0: not yet */
	struct addr client, virtual,
		server; /* zero where the role cannot know: a server does not see the virtual address */
	u32 scope, isn, ifindex;
	be16 client_port, redirect_port, service_port, target_port;
	u8 kind, role, reason, ends; /* enum event_kind; enum role; enum reason that the connection came to be
					by; flow_mark */
	u8 proto, aware, pad[6];
};
ASSERT_SIZE(struct event, 104);

/* A segment of our making, without data. */
struct segment {
	u32 seq, ack;
	u16 window;
	u8 flags;
	bool timestamps;
	u32 value, echo; /* its timestamps */
};

/* What the packet is to say when it leaves: the chains start from what it says, and change what must change.
 * Of outcome answer the addresses and ports are those of the segment that answers it. */
struct verdict {
	struct addr src, dst;
	be16 sport, dport;
	u32 seq, ack;
	be32 error_to; /* an ICMP error's own destination: what is above is of the embedded packet */
	bool blank;    /* overwrite our option with NOPs before the stack sees it */
	u8 pad[3];
	struct option append; /* len 0: nothing */
	struct segment answer;
};

/* Of a socket: what it expects of its peer, and what it sent: the first octet that is not acknowledged, the
 * next. */
struct numbers {
	u32 expects, unacknowledged, next;
};

/* Of a socket that is established, what tells whether it is at rest, and what it would say now, beside its
 * numbers. */
struct rest {
	struct numbers numbers;
	u32 written;	 /* the number behind the last octet that its application wrote */
	u32 value, echo; /* the timestamps that its peer knows of, the latest */
	u16 window;	 /* scaled, as its next packet would have it at least */
	bool timestamps;
};

struct work {
	void *host;   /* the host's own; the chains never look at it */
	u32 ifindex;  /* the interface at whose host side the hook is */
	__s32 netns;  /* of the pod behind it */
	bool is_made; /* the packet is of our own making (moves.h) */
	struct headers headers;
	struct packet packet;
	struct verdict verdict;
	struct event event;
	struct flow_key key;	  /* the connection's flow */
	struct flow_key wire_key; /* and its wire */
	struct flow flow;	  /* what is to be written there */
	struct wire wire;
	struct numbers numbers;
};

/* The kernel's tables, settings and clocks are there without a `w`, so the fast path, which has none, passes
 * 0; the engine's are its `host`. Each host gives these, beside lookup_NAME for every table of tables.h, and
 * update_NAME and delete_NAME for those of connections. update_NAME answers 0, or an error: there is no room.
 */
#define WHARFINGER_DECLARE_FIND(name, key, value, capacity, kind) \
	INLINE value *lookup_##name(struct work *w, const key *k);
WHARFINGER_TABLES(WHARFINGER_DECLARE_FIND)
#undef WHARFINGER_DECLARE_FIND
#define WHARFINGER_DECLARE_PUT(name, key, value, capacity, kind) \
	INLINE int update_##name(struct work *w, const key *k, const value *v); \
	INLINE void delete_##name(struct work *w, const key *k);
WHARFINGER_CONNECTION_TABLES(WHARFINGER_DECLARE_PUT)
#undef WHARFINGER_DECLARE_PUT

/* What the pod's stack has of this pair of ports. NONE: no socket was found, which is not to say that there
 * is none: it may be bound to a device, redirected inside the pod, or in another namespace. LISTENER: no
 * connection, but one that would take it. PART: a handshake's, or TIME_WAIT's. */
enum socket_seen { SOCKET_NONE = 0, SOCKET_LISTENER, SOCKET_PART, SOCKET_WHOLE };
/* Asks the stack of the pod behind w->netns for a socket by a flow's key. WHOLE: its numbers are in `n`. */
INLINE enum socket_seen ask_stack(frame *f, const struct work *w, const struct flow_key *k,
				  struct numbers *n);
/* Asks it for an established connection: whether there is one, whose `rest` is in `r`. */
INLINE bool ask_rest(frame *f, const struct work *w, const struct flow_key *k, struct rest *r);
INLINE u64 now_exact(struct work *w);
INLINE u64 now_coarse(struct work *w);
INLINE u64 setting(struct work *w, enum setting number);
INLINE u32 draw_random(struct work *w);
INLINE u32 next_turn(struct work *w, u32 set);
/* A function that the verifier looks at by itself, where a host has one: rare packets take it, and what it
 * may do does not multiply with what else may happen to them. It has no argument but the frame, whose memory
 * it gets by work_of. */
INLINE struct work *work_of(frame *f);
/* `*at` becomes `to` if it is `from` until then: whether it was. */
INLINE bool swap_if_same(u64 *at, u64 from, u64 to)
{
	return __sync_val_compare_and_swap(at, from, to) == from;
}

INLINE void set_key(struct flow_key *k, u32 ifindex, be32 local, be16 local_port, be32 peer, be16 peer_port)
{
	k->ifindex = ifindex;
	k->local = local;
	k->peer = peer;
	k->local_port = local_port;
	k->peer_port = peer_port;
}

INLINE const struct server_port *server_port_of(struct work *w, const struct addr *server, be16 port,
						u32 scope)
{
	struct server_port_key k = { .addr = *server, .scope = scope, .port = port, .proto = PROTO_TCP };

	return lookup_server_ports(w, &k);
}

INLINE bool stack_has(frame *f, struct work *w, const struct flow_key *k)
{
	return ask_stack(f, w, k, &w->numbers) >= SOCKET_PART;
}

/* The packet is answered, from the end that it went to. */
INLINE void answer_with(struct work *w, const struct segment *answer)
{
	const struct packet *p = &w->packet;

	w->verdict.src = p->dst;
	w->verdict.dst = p->src;
	w->verdict.sport = p->dport;
	w->verdict.dport = p->sport;
	w->verdict.answer = *answer;
}

/* As a stack without the connection would (RFC 9293, 3.10.7.1). */
INLINE void answer_with_reset(struct work *w)
{
	answer_with(w, &(struct segment){ .seq = w->packet.ack, .flags = TCP_RST });
}

#endif
