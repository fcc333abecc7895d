/* No two connections may share what a stack sees (docs/protocol.md, "State of the ends"): a connection whose pair of ports is taken in the
 * server's stack gets another client port there. Its SERVER_STACK record is under the substitute and bears the client's own port; a
 * SERVER_WIRE record leads from what the wire has to the substitute. */
#ifndef WHARFINGER_SUBSTITUTE_H
#define WHARFINGER_SUBSTITUTE_H

#include "select.h"
#include "work.h"

/* Those tried are spread evenly over all ports: at most 15 of the 32 are among Linux's ephemeral ones (28,232), so a client that has all of
 * those at one target port finds a substitute all the same. */
#define SUBSTITUTES 32
#define SUBSTITUTE_LEAST 1024
#define SUBSTITUTE_RANGE (65536 - SUBSTITUTE_LEAST)
#define SUBSTITUTE_STEP (SUBSTITUTE_RANGE / SUBSTITUTES)

/* Whether a SERVER_STACK record is that of the connection which the wire has at `port`, under the client's own port. */
INLINE int is_own(const struct flow *f, be16 port) { return f->service_port == port && !f->client_port; }
INLINE int is_opening(const struct flow *half) { return half && half->state == FLOW_OPENING; }

/* The record of what the wire has at `port` with the client's `client_port`, by which w->wire is its key; 0: the client's own port is the stack's. */
INLINE const struct flow *wire_of(struct work *w, const struct addr *server, be16 port, const struct addr *client, be16 client_port)
{
	set_key(&w->wire, SIDE_SERVER_WIRE, server, port, client, client_port);
	const struct flow *wire = find_flows(w, &w->wire);
	return wire ? wire : find_half_open(w, &w->wire);
}

/* Whether a stack's record is of another connection than that which the wire has under `k`. */
INLINE int is_anothers(const struct flow *f, const struct flow_key *k)
{
	return f && f->state != FLOW_STRAY && (f->service_port != k->local_port || f->client_port != k->peer_port);
}

/* Makes w->key the place that the record of w->wire leads to. 0: it is another connection's by now, or another target port's, for a wire's
 * record outlives the stack's. */
INLINE int follow(struct work *w, const struct flow *wire, be16 target)
{
	set_key(&w->key, SIDE_SERVER_STACK, &w->wire.local, target, &w->wire.peer, wire->client_port);
	return wire->redirect_port == target && !is_anothers(find_flows(w, &w->key), &w->wire) &&
	       !is_anothers(find_half_open(w, &w->key), &w->wire);
}

/* The client port that the server's stack knows a connection by at its target port, if it is not the client's own; else 0. */
INLINE be16 substitute_of(struct work *w, const struct addr *server, be16 port, be16 target, const struct addr *client, be16 client_port)
{
	const struct flow *wire = wire_of(w, server, port, client, client_port);

	return wire && follow(w, wire, target) ? w->key.peer_port : 0;
}

/* Whether a SYN to `port` has the substitute that a former connection had, or the same SYN before, and w->key is the pair of ports with it.
 * A place of which no record speaks is another's as well if the stack holds it; what leads there leads nowhere. */
INLINE int substitute_again(frame *f, struct work *w, be16 port, be16 target)
{
	const struct packet *p = &w->packet;
	const struct flow *wire = wire_of(w, &p->dst, port, &p->src, p->sport), *half;

	if (!wire)
		return 0;
	int again = wire->isn == p->seq;
	if (follow(w, wire, target)) {
		half = find_half_open(w, &w->key);
		if (again || find_flows(w, &w->key) || (half && half->state != FLOW_STRAY) || !stack_holds(f, w, &w->key))
			return 1;
	}
	drop_flows(w, &w->wire);
	drop_half_open(w, &w->wire);
	return 0;
}

/* What leads from the wire to w->key, whose connection w->flow is. */
INLINE struct flow wire_record(const struct work *w)
{
	struct flow wire = w->flow;

	wire.redirect_port = w->key.local_port;
	wire.client_port = w->key.peer_port;
	return wire;
}

/* The pair of ports in w->key: whether no connection has it, be it ours or the stack's alone (a direct dial, TIME_WAIT). */
INLINE int is_free(frame *f, struct work *w)
{
	return !find_flows(w, &w->key) && !is_opening(find_half_open(w, &w->key)) && !stack_holds(f, w, &w->key);
}

/* Another client port for w->key; 0 when none was found free. */
INLINE int substitute(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;
	u32 first = connection_hash(p, from_be16(w->key.local_port));

	for (u32 i = 0; i < SUBSTITUTES; i++) {
		w->key.peer_port = to_be16((u16)(SUBSTITUTE_LEAST + (first + i * SUBSTITUTE_STEP) % SUBSTITUTE_RANGE));
		if (w->key.peer_port != p->sport && is_free(f, w))
			return 1;
	}
	return 0;
}

/* Makes w->key the pair of ports that the stack shall know the connection at `port` by. 0: there is none. */
INLINE int find_place(frame *f, struct work *w, be16 target, be16 port)
{
	const struct packet *p = &w->packet;

	if (substitute_again(f, w, port, target))
		return 1;
	set_key(&w->key, SIDE_SERVER_STACK, &p->dst, target, &p->src, p->sport);
	const struct flow *entry = find_flows(w, &w->key), *half = find_half_open(w, &w->key);
	int taken;
	if (entry)
		taken = !is_own(entry, port);
	else if (is_opening(half) && is_own(half, port) && half->isn == p->seq)
		taken = 0; /* the same SYN again */
	else if (half && half->state == FLOW_UNENTERED && is_own(half, port) && stack_holds(f, w, &w->key))
		return 0; /* a connection lives by this one record, and a substitute's wire record would lead its packets astray */
	else
		taken = (is_opening(half) && !is_own(half, port)) || stack_holds(f, w, &w->key);
	return !taken || substitute(f, w);
}

#endif
