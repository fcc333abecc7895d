/* A connection's two records at one end, in the tables of its phase. The rules are in tables.h.
 *
 * The phase is known where the code is written, so find, put and drop are one table's call each. */
#ifndef WHARFINGER_FLOWS_H
#define WHARFINGER_FLOWS_H

#include "clock.h"

enum phase { OPENING, ESTABLISHED, CLOSED };

INLINE struct flow *find_flow(struct work *w, enum phase phase, const struct flow_key *k)
{
	return phase == OPENING	      ? lookup_opening_flows(w, k)
	       : phase == ESTABLISHED ? lookup_flows(w, k)
				      : lookup_closed_flows(w, k);
}

INLINE struct wire *find_wire(struct work *w, enum phase phase, const struct flow_key *k)
{
	return phase == OPENING	      ? lookup_opening_wires(w, k)
	       : phase == ESTABLISHED ? lookup_wires(w, k)
				      : lookup_closed_wires(w, k);
}

INLINE int put_flow(struct work *w, enum phase phase, const struct flow_key *k, const struct flow *f)
{
	return phase == OPENING	      ? update_opening_flows(w, k, f)
	       : phase == ESTABLISHED ? update_flows(w, k, f)
				      : update_closed_flows(w, k, f);
}

INLINE int put_wire(struct work *w, enum phase phase, const struct flow_key *k, const struct wire *wire)
{
	return phase == OPENING	      ? update_opening_wires(w, k, wire)
	       : phase == ESTABLISHED ? update_wires(w, k, wire)
				      : update_closed_wires(w, k, wire);
}

INLINE void drop_flow(struct work *w, enum phase phase, const struct flow_key *k)
{
	if (phase == OPENING)
		delete_opening_flows(w, k);
	else if (phase == ESTABLISHED)
		delete_flows(w, k);
	else
		delete_closed_flows(w, k);
}

INLINE void drop_wire(struct work *w, enum phase phase, const struct flow_key *k)
{
	if (phase == OPENING)
		delete_opening_wires(w, k);
	else if (phase == ESTABLISHED)
		delete_wires(w, k);
	else
		delete_closed_wires(w, k);
}

INLINE void set_state(union life *life, u8 state)
{
	union life was = { .whole = life->whole }, is = was;

	is.state = state;
	swap_if_same(&life->whole, was.whole, is.whole);
}

INLINE void set_tries(union life *life, u8 tries)
{
	union life was = { .whole = life->whole }, is = was;

	is.tries = tries;
	swap_if_same(&life->whole, was.whole, is.whole);
}

INLINE bool is_client_state(u8 state) { return state <= CLIENT_CLOSED; }
INLINE u8 closed_state(u8 state) { return is_client_state(state) ? CLIENT_CLOSED : SERVER_CLOSED; }
INLINE bool is_closed(const struct flow *f) { return f->life.state == closed_state(f->life.state); }

/* `out`: where the wire of flow `f` under `k` is. */
INLINE void wire_key_of(struct flow_key *out, const struct flow_key *k, const struct flow *f)
{
	if (is_client_state(f->life.state))
		set_key(out, 0, k->local, k->local_port, f->server, f->wire_port);
	else
		set_key(out, 0, k->local, f->wire_port, k->peer, f->client_port);
}

/* `out`: where the flow of `wire` under `k` is. */
INLINE void flow_key_of(struct flow_key *out, const struct flow_key *k, const struct wire *wire)
{
	set_key(out, wire->ifindex, k->local, wire->local_port, wire->peer, wire->peer_port);
}

INLINE struct wire wire_to(const struct flow_key *k, const struct flow *f)
{
	return (struct wire){ .life = f->life,
			      .ifindex = k->ifindex,
			      .peer = k->peer,
			      .local_port = k->local_port,
			      .peer_port = k->peer_port,
			      .started_ns = f->started_ns };
}

INLINE bool leads_to(const struct wire *wire, const struct flow_key *k)
{
	return wire->ifindex == k->ifindex && wire->peer == k->peer && wire->local_port == k->local_port &&
	       wire->peer_port == k->peer_port;
}

/* Whether flow `f` is the server's of the connection that the wire has under `k`. */
INLINE bool is_of_wire(const struct flow *f, const struct flow_key *k)
{
	return !is_client_state(f->life.state) && f->wire_port == k->local_port &&
	       f->client_port == k->peer_port;
}

/* Removes the wire under w->wire_key, unless it is another connection's than w->key's by now. */
INLINE void drop_own_wire(struct work *w, enum phase phase)
{
	const struct wire *wire = find_wire(w, phase, &w->wire_key);

	if (wire && leads_to(wire, &w->key))
		drop_wire(w, phase, &w->wire_key);
}

/* Removes what there is in the tables of one phase of the connection of w->key. Changes w->wire_key. */
INLINE void forget(struct work *w, enum phase phase)
{
	const struct flow *f = find_flow(w, phase, &w->key);

	if (!f)
		return;
	wire_key_of(&w->wire_key, &w->key, f);
	drop_own_wire(w, phase);
	if (f->life.state == CLIENT_OPENING && f->claimed) {
		w->wire_key.peer_port = f->claimed;
		drop_own_wire(w, phase);
	}
	drop_flow(w, phase, &w->key);
}

/* Writes w->flow under w->key and its wire under w->wire_key, which this sets. 0, or an error: there is no
 * room, and neither is there. */
INLINE int enter(struct work *w, enum phase phase)
{
	wire_key_of(&w->wire_key, &w->key, &w->flow);
	w->wire = wire_to(&w->key, &w->flow);
	if (put_wire(w, phase, &w->wire_key, &w->wire))
		return -1;
	if (put_flow(w, phase, &w->key, &w->flow)) {
		drop_wire(w, phase, &w->wire_key);
		return -1;
	}
	return 0;
}

/* Moves the connection of w->key to the tables of what is closed, where it is looked for last. Changes
 * w->wire_key. */
INLINE void close_flow(struct work *w, const struct flow *f)
{
	w->flow = *f;
	enter(w, CLOSED);
	drop_flow(w, ESTABLISHED, &w->key);
	drop_own_wire(w, ESTABLISHED);
}

/* A connection that found no room when it was established, or was moved aside by the agent because nobody
 * knew whether it still is, lives among the closed ones. Its own stack's packet takes it back, if there is
 * room now, and denies a reset that only the wire told of. */
INLINE void reopen_flow(struct work *w, const struct flow *f)
{
	if (is_closed(f))
		return;
	w->flow = *f;
	w->flow.life.marks &= (u8)~RESET_SEEN;
	if (enter(w, ESTABLISHED))
		return;
	drop_flow(w, CLOSED, &w->key);
	drop_own_wire(w, CLOSED);
}

/* Notes that the stack sends on flow `f` now. The way that it remembers was looked up when it was last seen,
 * so it counts no longer when that is not this eighth of a second. */
INLINE void note_sending(struct work *w, struct flow *f)
{
	u32 now = stamp_now(w);

	if (f->seen == now)
		return;
	f->way = (union way){};
	f->seen = now;
}

/* What a packet of the stack becomes on the wire: a client's goes to server:Y in place of virtual address:X,
 * a server's comes from Y in place of its target port, and goes to the client's own port. */
INLINE void leave_stack(const struct flow *f, be32 *dst, be16 *sport, be16 *dport)
{
	if (is_client_state(f->life.state)) {
		*dst = f->server;
		*dport = f->wire_port;
	} else {
		*sport = f->wire_port;
		*dport = f->client_port;
	}
}

/* What a packet of the wire becomes for the stack: a client's comes from virtual address:X in place of
 * server:Y, a server's goes to the target port in place of Y. */
INLINE void reach_stack(const struct wire *wire, be32 *src, be16 *sport, be16 *dport)
{
	*src = wire->peer;
	*sport = wire->peer_port;
	*dport = wire->local_port;
}

INLINE void leave_by(struct work *w, const struct flow *f)
{
	leave_stack(f, &w->verdict.dst.word[3], &w->verdict.sport, &w->verdict.dport);
}

INLINE void reach_by(struct work *w, const struct wire *wire)
{
	reach_stack(wire, &w->verdict.src.word[3], &w->verdict.sport, &w->verdict.dport);
	w->verdict.blank = w->packet.option_at != 0;
}

/* A dial to the target port, which no pool's is: nobody's business but for its ports. */
INLINE bool is_direct_dial(const struct flow *f) { return !f->scope; }

/* By what reason the stack's packet of flow `f` leaves: `past`, when it goes past the node's stack. */
INLINE enum reason sends_by(const struct flow *f, enum reason past)
{
	if (is_direct_dial(f))
		return REASON_server_direct;
	return f->life.marks & BY_STACK ? REASON_server_by_stack : past;
}

/* The reason by which the stack's packets of an established or closed connection leave. */
INLINE enum reason sends_reason(const struct flow *f)
{
	if (!is_client_state(f->life.state))
		return sends_by(f, REASON_server_sends);
	return f->life.reason == REASON_client_unconfirmed ? REASON_client_sends_unredirected
							   : REASON_client_sends;
}

/* Notes what the stack's packet of the established client's flow `f` acknowledges, if it has data: whether
 * the server has said something since then tells whose turn it is (moves.h). A connection of which nothing
 * was known before, as a former release's, is followed from its next data on. */
INLINE void follow(const struct packet *p, struct flow *f)
{
	union life life = f->life;
	bool known = p->payload || p->seq == life.isn + 1;

	if (life.marks & CLOSING)
		return;
	if (life.tries < NOT_FOLLOWED || (life.tries == NOT_FOLLOWED && known))
		set_tries(&f->life, known ? FOLLOWED : NOT_FOLLOWED);
	if (p->payload)
		f->request_ack = p->ack;
}

/* The decision for a packet with data or acknowledgements and nothing else (no SYN, FIN or RST, no option of
 * ours) of an established connection: REASON_none when the whole chain must look at it. The hooks ask this
 * first (fast.h); the chains ask plainly_receives, plainly_passes_node and sends_reason as well. A direct
 * dial is BY_STACK, so it is never sent from here. */
INLINE enum reason plainly_sends(const struct flow *f)
{
	union life life = f->life;

	if (life.marks & (FIN_SEEN | RESET_SEEN | BY_STACK | CLOSING))
		return REASON_none;
	if (life.state == CLIENT_ESTABLISHED && life.tries < NOT_FOLLOWED)
		return REASON_none;
	return life.state == CLIENT_ESTABLISHED || life.state == SERVER_ESTABLISHED ? sends_reason(f)
										    : REASON_none;
}

/* A server's port is sought in the tables again when the last time is not of this eighth of a second. */
INLINE enum reason plainly_receives(struct work *w, const struct wire *wire)
{
	u8 state = wire->life.state;

	if (state == CLIENT_ESTABLISHED)
		return wire->life.marks & CLOSING ? REASON_none : REASON_client_receives;
	return state == SERVER_ESTABLISHED && wire->checked == stamp_now(w) ? REASON_server_receives
									    : REASON_none;
}

INLINE enum reason plainly_passes_node(const struct wire *wire)
{
	u8 state = wire->life.state;

	if (wire->life.marks & BY_STACK)
		return REASON_none;
	if (state == CLIENT_JOINING || state == CLIENT_ESTABLISHED)
		return REASON_net_client;
	return state == SERVER_ESTABLISHED ? REASON_net_service_port : REASON_none;
}

#endif
