/* No two connections may share what a stack sees (docs/protocol.md, "State of the ends"): a connection whose pair of ports is taken in the
 * server's stack gets another client port there. Its SERVER_STACK record is under the substitute and bears the client's own port; a
 * SERVER_WIRE record leads from what the wire has to the substitute. */
#ifndef WHARFINGER_SUBSTITUTE_H
#define WHARFINGER_SUBSTITUTE_H

#include "select.h"
#include "work.h"

#define SUBSTITUTES 8         /* tried; of a client with 30,000 connections to one target port all are taken once in 500 SYNs */
#define SUBSTITUTE_LEAST 1024

/* Whether a SERVER_STACK record is that of the connection which the wire has at `port`, under the client's own port. */
INLINE int is_own(const struct flow *f, be16 port) { return f->service_port == port && !f->client_port; }
INLINE int is_opening(const struct flow *half) { return half && half->state == FLOW_OPENING; }

/* The client port that the server's stack knows a connection by, if it is not the client's own; else 0. */
INLINE be16 substitute_of(struct work *w, const struct addr *server, be16 port, const struct addr *client, be16 client_port)
{
	set_key(&w->wire, SIDE_SERVER_WIRE, server, port, client, client_port);
	const struct flow *wire = find_flows(w, &w->wire);
	if (!wire)
		wire = find_half_open(w, &w->wire);
	return wire ? wire->client_port : 0;
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
		w->key.peer_port = to_be16((u16)(SUBSTITUTE_LEAST + (first + i) % (65536 - SUBSTITUTE_LEAST)));
		if (w->key.peer_port != p->sport && is_free(f, w))
			return 1;
	}
	return 0;
}

/* Makes w->key the pair of ports that the stack shall know the connection at `port` by. 0: there is none. */
INLINE int find_place(frame *f, struct work *w, be16 target, be16 port)
{
	const struct packet *p = &w->packet;
	be16 known = substitute_of(w, &p->dst, port, &p->src, p->sport);

	set_key(&w->key, SIDE_SERVER_STACK, &p->dst, target, &p->src, known ? known : p->sport);
	if (known)
		return 1;
	const struct flow *entry = find_flows(w, &w->key), *half = find_half_open(w, &w->key);
	int taken;
	if (entry)
		taken = !is_own(entry, port);
	else if (is_opening(half) && is_own(half, port) && half->isn == p->seq)
		taken = 0; /* the same SYN again */
	else
		taken = (is_opening(half) && !is_own(half, port)) || stack_holds(f, w, &w->key);
	return !taken || substitute(f, w);
}

#endif
