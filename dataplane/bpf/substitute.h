/* No two connections may share what a stack sees (docs/protocol.md, "State of the ends"): a connection whose
 * pair of ports is taken in the server's stack gets another client port there, its substitute. Its flow is
 * under the substitute, and its wire, which has the client's own port, leads there. A place is a pair of
 * ports in the stack: the key of a flow. */
#ifndef WHARFINGER_SUBSTITUTE_H
#define WHARFINGER_SUBSTITUTE_H

#include "flows.h"
#include "select.h"

/* Those tried are spread evenly over all ports: at most 15 of the 32 are among Linux's ephemeral ones
 * (28,232), so a client that has all of those at one target port finds a substitute all the same. */
#define SUBSTITUTES 32
#define SUBSTITUTE_LEAST 1024
#define SUBSTITUTE_RANGE (65536 - SUBSTITUTE_LEAST)
#define SUBSTITUTE_STEP (SUBSTITUTE_RANGE / SUBSTITUTES)
#define COUNT_SLACK (1u << 24) /* 1.07 s of Linux's ticks */

/* Several that open may claim one place, and only the stack knows which it has or will have. The first SYN
 * keeps its flow; beside it, under the same key with this bit in the interface, is the latest of the others:
 * another SYN's, or what a packet without a SYN left. Each speaks for what its numbers confirm. */
#define BESIDE (1u << 31)

INLINE struct flow *find_claim(struct work *w, u32 beside)
{
	w->key.ifindex |= beside;
	struct flow *claim = find_flow(w, OPENING, &w->key);
	w->key.ifindex &= ~BESIDE;
	return claim;
}

/* The claim that says that the place w->key is in use: a stray packet's does not. 0: none. */
INLINE const struct flow *find_holder(struct work *w)
{
	const struct flow *claim = find_claim(w, 0);

	if (!claim)
		claim = find_claim(w, BESIDE);
	return claim && claim->life.state != SERVER_STRAY ? claim : 0;
}

INLINE void set_place(struct work *w, be16 target, be16 client_port)
{
	set_key(&w->key, w->ifindex, w->wire_key.local, target, w->wire_key.peer, client_port);
}

/* Whether a SYN goes on with the count by which the closed connection `f` began, to a second or so: then its
 * client's stack has dialled the same address and port, and TIME_WAIT lets go of the place for it. The
 * number of another dial may be old to that, or its timestamps. (RFC 6528: a clock, which in Linux ticks
 * every 64 ns, and a hash of both ends. By another clock it is no dial of the same, and gets a
 * substitute.) */
INLINE bool counts_on(struct work *w, const struct flow *f)
{
	u32 expected = f->life.isn + (u32)((now_exact(w) - f->started_ns) >> 6);

	return w->packet.seq - expected + COUNT_SLACK < 2 * COUNT_SLACK;
}

/* Whether the place w->key can bear the connection that the wire has under w->wire_key: it has it already, or
 * had it, and either the stack is not through with it (its last data is on the way) or a SYN may begin there
 * again, or neither another connection of ours nor the stack alone (a direct dial, TIME_WAIT) has it. */
INLINE bool may_have_place(frame *fr, struct work *w)
{
	const struct flow *f = find_flow(w, ESTABLISHED, &w->key);

	if (f)
		return is_of_wire(f, &w->wire_key);
	f = find_holder(w);
	if (f)
		return is_of_wire(f, &w->wire_key);
	f = find_flow(w, CLOSED, &w->key);
	bool own = f && is_of_wire(f, &w->wire_key);
	if (own && (!is_closed(f) || counts_on(w, f)))
		return true;
	enum socket_seen seen = ask_stack(fr, w, &w->key, &w->numbers);
	return seen < SOCKET_PART || (own && seen == SOCKET_WHOLE);
}

/* Whether no record says that a connection has the place w->key. */
INLINE bool is_unrecorded(struct work *w) { return !find_flow(w, ESTABLISHED, &w->key) && !find_holder(w); }

/* Whether no connection has the place w->key. */
INLINE bool is_free_place(frame *fr, struct work *w)
{
	return is_unrecorded(w) && !stack_has(fr, w, &w->key);
}

/* Where the search for a substitute at w->key's target port begins for the client's end of w->wire_key, and
 * where it goes on: by whatever port of the server, so that one can be found again without its record. */
INLINE u32 first_substitute(const struct work *w)
{
	const struct flow_key *k = &w->wire_key;

	return mix3(mix3(k->peer, k->local, k->peer_port), w->key.local_port, PROTO_TCP);
}

INLINE be16 substitute_port(u32 first, u32 i)
{
	return to_be16((u16)(SUBSTITUTE_LEAST + (first + i * SUBSTITUTE_STEP) % SUBSTITUTE_RANGE));
}

/* Makes w->key a place with another client port. Returns: whether one was found free. */
INLINE bool find_substitute(frame *fr, struct work *w)
{
	u32 first = first_substitute(w);
	be16 own = w->wire_key.peer_port;

	for (u32 i = 0; i < SUBSTITUTES; i++) {
		w->key.peer_port = substitute_port(first, i);
		if (w->key.peer_port != own && is_free_place(fr, w))
			return true;
	}
	return false;
}

/* What is remembered of the wire under w->wire_key, in whatever phase; 0: nothing. */
INLINE const struct wire *find_any_wire(struct work *w)
{
	const struct wire *wire = find_wire(w, ESTABLISHED, &w->wire_key);

	if (!wire)
		wire = find_wire(w, OPENING, &w->wire_key);
	return wire ? wire : find_wire(w, CLOSED, &w->wire_key);
}

/* Makes w->key the place at `target` that the connection under w->wire_key had before, or that the same SYN
 * got. A place that is another's by now is forgotten. Returns: whether there is one. */
INLINE bool find_former_place(frame *fr, struct work *w, be16 target)
{
	const struct wire *wire = find_any_wire(w);

	if (!wire || is_client_state(wire->life.state)) /* the pod's own dial stays what it is */
		return false;
	set_place(w, target, wire->peer_port);
	if (wire->local_port == target && may_have_place(fr, w))
		return true;
	drop_wire(w, ESTABLISHED, &w->wire_key);
	drop_wire(w, OPENING, &w->wire_key);
	drop_wire(w, CLOSED, &w->wire_key);
	return false;
}

/* Makes w->key the place that the stack is to know the connection under w->wire_key by: without another, that
 * of a closed one, which TIME_WAIT may let go. Returns: whether there is one. */
INLINE bool find_place(frame *fr, struct work *w, be16 target)
{
	if (find_former_place(fr, w, target))
		return true;
	set_place(w, target, w->wire_key.peer_port);
	if (may_have_place(fr, w) || find_substitute(fr, w))
		return true;
	set_place(w, target, w->wire_key.peer_port);
	const struct flow *f = find_flow(w, CLOSED, &w->key);
	return f && is_of_wire(f, &w->wire_key);
}

#endif
