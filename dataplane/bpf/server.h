/* The server translator: the stack listens on its target port P, the wire has X while a connection opens and
 * Y from then on (docs/protocol.md, "Establishing" and "State of the ends"). */
#ifndef WHARFINGER_SERVER_H
#define WHARFINGER_SERVER_H

#include "server_opening.h"

/* Whether the server has lost the service port of an established connection. Then no packet goes by it any
 * more: this one passes as it is, to a port where the pod's stack has no such connection. One that has the
 * target port itself on the wire has no port to lose. */
INLINE bool port_is_lost(struct work *w, struct wire *wire)
{
	const struct packet *p = &w->packet;
	bool translated = wire->local_port != p->dport;

	if (translated && !server_port_of(w, &p->dst, p->dport, 0))
		return true;
	wire->checked = stamp_now(w);
	return false;
}

/* A packet to the wire of an established connection. */
INLINE enum reason server_established_receives(frame *fr, struct work *w, struct wire *wire)
{
	bool plain = !(w->packet.tcp_flags & (TCP_FIN | TCP_RST));

	if (!(plain && plainly_receives(w, wire)) && port_is_lost(w, wire))
		return REASON_not_ours;
	reach_by(w, wire);
	if (plain)
		return REASON_server_receives;
	flow_key_of(&w->key, &w->wire_key, wire);
	struct flow *f = find_flow(w, ESTABLISHED, &w->key);
	if (f && f->life.isn == wire->life.isn && wire_ends(fr, w, f))
		server_closes(w, f);
	return REASON_server_receives;
}

/* Whether a packet to a service port is of a connection that the pod's stack has by that number itself: one
 * that it began from there, or one of an application that listens there, whose stack answers by cookies if it
 * has no socket yet. */
INLINE bool is_stacks_own(frame *fr, struct work *w, const struct server_port *port)
{
	const struct packet *p = &w->packet;

	set_place(w, p->dport, p->sport);
	enum socket_seen seen = ask_stack(fr, w, &w->key, &w->numbers);
	bool listens = seen == SOCKET_LISTENER && port->target != p->dport && !p->option_at;
	set_place(w, port->target, p->sport);
	return seen >= SOCKET_PART || (listens && !stack_has(fr, w, &w->key));
}

/* Whether a packet from a pod of this node takes the node's stack: its sender has no record. */
INLINE bool is_unaware_neighbours(struct work *w)
{
	const struct packet *p = &w->packet;

	if (!lookup_pods(w, &p->src))
		return false;
	set_key(&w->key, 0, v4_of(&p->src), p->sport, v4_of(&p->dst), p->dport);
	const struct wire *wire = find_wire(w, ESTABLISHED, &w->key);
	return !wire || !is_client_state(wire->life.state);
}

/* Whether the stack has a connection at the place w->key that does not take this packet. */
INLINE bool is_unacceptable(frame *fr, struct work *w)
{
	return ask_stack(fr, w, &w->key, &w->numbers) == SOCKET_WHOLE &&
	       !is_acceptable(&w->packet, &w->numbers);
}

/* Makes w->key the place of a connection that got a substitute and whose record is lost: no record speaks of
 * the stack's connection there, which takes this packet. Returns: whether there is one. */
INLINE bool find_lost_substitute(frame *fr, struct work *w)
{
	u32 first = first_substitute(w);

	for (u32 i = 0; i < SUBSTITUTES; i++) {
		w->key.peer_port = substitute_port(first, i);
		if (is_unrecorded(w) && ask_stack(fr, w, &w->key, &w->numbers) == SOCKET_WHOLE &&
		    is_acceptable(&w->packet, &w->numbers))
			return true;
	}
	return false;
}

/* A packet to a service port of which no wire speaks. Where a record says that its place is another
 * connection's, the stack is to refuse it, by a substitute, and that connection lives on. */
INLINE enum reason server_receives_unknown(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;
	const struct server_port *port = server_port_of(w, &p->dst, p->dport, 0);

	if (!port || is_stacks_own(fr, w, port))
		return REASON_not_ours;
	u8 marks = is_unaware_neighbours(w) ? BY_STACK : 0;
	set_place(w, port->target, p->sport);
	const struct flow *f = find_flow(w, ESTABLISHED, &w->key);
	if (!f)
		f = find_holder(w);
	bool others = f && !is_of_wire(f, &w->wire_key);
	if ((others || is_unacceptable(fr, w)) && !find_lost_substitute(fr, w)) {
		if (!others)
			return REASON_server_stray;
		set_place(w, port->target, p->sport);
		if (!find_substitute(fr, w))
			return REASON_server_no_substitute;
	}
	return server_meets(fr, w, port->scope, marks);
}

/* To the pod: service port, or redirect port and scope, to the target port. */
INLINE enum reason server_receives(frame *fr, struct work *w)
{
	struct wire *wire;

	if (is_syn(&w->packet))
		return server_opens(fr, w);
	wire = find_wire(w, ESTABLISHED, &w->wire_key);
	if (wire && !is_client_state(wire->life.state))
		return server_established_receives(fr, w, wire);
	wire = find_wire(w, OPENING, &w->wire_key);
	if (wire && !is_client_state(wire->life.state)) {
		enum reason reason = server_opening_receives(fr, w, wire);
		if (reason != REASON_not_ours)
			return reason;
	}
	wire = find_wire(w, CLOSED, &w->wire_key);
	if (wire && !is_client_state(wire->life.state)) {
		reach_by(w, wire);
		return REASON_server_receives;
	}
	return server_receives_unknown(fr, w);
}

/* From the pod: the target port to the port that the wire uses. Without a record it is nobody's business. */
INLINE enum reason server_sends(frame *fr, struct work *w)
{
	struct flow *f;

	if (is_syn_ack(&w->packet))
		return server_answers(w);
	f = find_flow(w, ESTABLISHED, &w->key);
	if (f && !is_client_state(f->life.state)) {
		leave_by(w, f);
		note_sending(w, f);
		enum reason reason = sends_reason(f);
		if (own_stack_ends(fr, w, f))
			server_closes(w, f);
		return reason;
	}
	f = find_claim(w, 0);
	if (!speaks_for(&w->packet, f))
		f = find_claim(w, BESIDE);
	if (speaks_for(&w->packet, f))
		return server_opening_sends(fr, w, f);
	f = find_flow(w, CLOSED, &w->key);
	if (!f || is_client_state(f->life.state))
		return REASON_not_ours;
	enum reason reason = sends_reason(f);
	leave_by(w, f);
	note_sending(w, f);
	if (!(w->packet.tcp_flags & (TCP_FIN | TCP_RST)))
		reopen_flow(w, f);
	return reason;
}

#endif
