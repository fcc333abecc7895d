/* The server translator: the stack listens on its target port P, the wire has X while a connection opens and
 * Y from then on (docs/protocol.md, "Establishing" and "State of the ends"). A SYN makes an opening flow and
 * wire, which only step 3 makes established, so a flood of SYNs evicts nothing but its like. */
#ifndef WHARFINGER_SERVER_H
#define WHARFINGER_SERVER_H

#include "ends.h"
#include "substitute.h"

/* A dial to the target port, which no pool's is: nobody's business but for its ports. */
INLINE bool is_direct_dial(const struct flow *f) { return f->life.marks & DIRECT_DIAL; }

INLINE void server_event(struct work *w, const struct flow *f, enum event_kind kind)
{
	const struct flow_key *k = &w->key;

	if (is_direct_dial(f))
		return;
	w->event = (struct event){
		.time_ns = now_exact(w),
		.started_ns = f->started_ns,
		.established_ns = f->established_us ? f->started_ns + f->established_us * 1000ULL : 0,
		.client = addr_from_v4(k->peer),
		.server = addr_from_v4(k->local),
		.scope = f->scope,
		.isn = f->life.isn,
		.ifindex = w->ifindex,
		.client_port = f->client_port,
		.redirect_port = f->redirect_port,
		.service_port = f->wire_port,
		.target_port = k->local_port,
		.kind = kind,
		.role = ROLE_SERVER,
		.reason = f->life.reason,
		.ends = f->life.marks & ENDED,
		.proto = PROTO_TCP,
		.aware = (f->life.marks & AWARE) != 0,
	};
}

INLINE void server_closes(struct work *w, const struct flow *f)
{
	server_event(w, f, EVENT_CLOSED);
	close_flow(w, f);
}

/* Notes that a connection opens at the place w->key, as w->flow has it, and lets the stack see it so. */
INLINE void server_notes_opening(struct work *w)
{
	const struct packet *p = &w->packet;

	w->flow.client_port = p->sport;
	w->flow.seen = stamp_now(w);
	w->flow.started_ns = now_exact(w);
	enter(w, OPENING);
	w->verdict.dport = w->key.local_port;
	w->verdict.sport = w->key.peer_port;
	w->verdict.blank = p->option_at != 0;
}

/* A SYN to the stack itself. Its pair of ports may be a connection's of ours, which the dialler cannot know,
 * so it gets a substitute as ours would. Else what we remembered of this pair of ports is over. */
INLINE enum reason server_dialled(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;
	be16 target = p->dport;

	if (!find_former_place(fr, w, target)) {
		set_place(w, target, p->sport);
		const struct flow *half = find_flow(w, OPENING, &w->key);
		bool opening = half && half->life.state == SERVER_OPENING;
		/* The client tries unaware what it began aware: to the stack it is the same connection. */
		bool again = half && half->life.isn == p->seq;
		bool ours = opening || find_flow(w, ESTABLISHED, &w->key) || find_flow(w, CLOSED, &w->key);
		if (again || !ours || !stack_has(fr, w, &w->key)) {
			forget(w, OPENING);
			return REASON_not_ours;
		}
		if (!find_substitute(fr, w))
			return REASON_not_ours;
	}
	w->flow = (struct flow){ .life = { .state = SERVER_OPENING,
					   .marks = DIRECT_DIAL,
					   .reason = REASON_server_direct,
					   .isn = p->seq },
				 .redirect_port = p->dport,
				 .wire_port = p->dport };
	server_notes_opening(w);
	return REASON_server_direct;
}

/* A SYN: to a service port by the port alone, to a redirect port by its scope. */
INLINE enum reason server_opens(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;
	bool aware = p->option.flags & OPTION_REDIRECT && p->option.len >= OPTION_LEN_SCOPE;
	const struct server_port *port = server_port_of(w, &p->dst, p->dport, 0);
	enum reason reason = REASON_server_syn_service;
	be16 service_port = p->dport;

	if (!port && aware && p->option.scope) {
		port = server_port_of(w, &p->dst, p->dport, p->option.scope);
		service_port = port ? select_service_port(port, p, &p->dst) : 0;
		if (!service_port)
			return REASON_not_ours;
		reason = REASON_server_syn;
	}
	if (!port)
		return server_dialled(fr, w);

	w->wire_key.local_port = service_port;
	if (!find_place(fr, w, port->target))
		return REASON_server_no_substitute;
	w->flow = (struct flow){ .life = { .state = SERVER_OPENING,
					   .marks = aware ? AWARE : 0,
					   .reason = reason,
					   .isn = p->seq },
				 .scope = port->scope,
				 .redirect_port = p->dport,
				 .wire_port = service_port };
	/* A SYN that comes twice does not undo the SYN+ACK between: the stack may not repeat that before
	 * step 3. */
	const struct flow *half = find_flow(w, OPENING, &w->key);
	if (half && half->life.state == SERVER_OPENING && half->life.isn == p->seq) {
		w->flow.server_isn = half->server_isn;
		w->flow.life.tries = half->life.tries;
	}
	server_notes_opening(w);
	return reason;
}

/* Makes the connection of w->key, whose opening flow is `half`, an established one: when there is no room it
 * lives among the closed ones. Returns: `reason`, or that there was no room. */
INLINE enum reason server_enters(struct work *w, const struct flow *half, enum reason reason)
{
	w->flow = *half;
	w->flow.life.state = SERVER_ESTABLISHED;
	w->flow.seen = 0;
	if (enter(w, ESTABLISHED)) {
		enter(w, CLOSED);
		reason = REASON_server_no_room;
	}
	drop_flow(w, OPENING, &w->key);
	drop_wire(w, OPENING, &w->wire_key);
	return reason;
}

/* Whether a whole socket would take this packet as one of its peer's: the next in order, or one that it has
 * (RFC 9293, RFC 5961). */
INLINE bool is_acceptable(const struct packet *p, const struct numbers *n)
{
	if (p->tcp_flags & TCP_RST)
		return p->seq == n->expects;
	return p->tcp_flags & TCP_ACK && p->ack - n->unacknowledged <= n->next - n->unacknowledged &&
	       n->expects - p->seq <= p->payload + 1;
}

/* A packet to a service port of which no record speaks, for the place w->key. One that the stack's connection
 * takes leaves a record, by which that is entered when the stack answers. One that it does not take is
 * dropped, for the connection may be none of ours. If the stack has none yet it may be the end of a handshake
 * whose record was evicted, or of a SYN cookie's: the record keeps its number. */
INLINE enum reason server_meets(frame *fr, struct work *w, u32 scope)
{
	const struct packet *p = &w->packet;
	enum socket_seen seen = ask_stack(fr, w, &w->key, &w->numbers);

	if (seen == SOCKET_WHOLE && !is_acceptable(p, &w->numbers))
		return REASON_server_stray;
	w->flow = (struct flow){
		.scope = scope, .server_isn = p->ack - 1, .redirect_port = p->dport, .wire_port = p->dport
	};
	w->flow.life.state = seen == SOCKET_WHOLE || w->netns < 0 ? SERVER_FOUND : SERVER_STRAY;
	server_notes_opening(w);
	return REASON_server_unentered;
}

/* Whether a packet is step 3: it acknowledges the SYN+ACK and no more, as the stack has sent nothing else by
 * then. */
INLINE bool is_step_3(const struct packet *p, const struct flow *half)
{
	return half->life.state == SERVER_OPENING && half->wire_port == p->dport && half->life.tries &&
	       (p->tcp_flags & (TCP_ACK | TCP_RST)) == TCP_ACK && p->ack == half->server_isn + 1;
}

/* A packet to a service port, of a connection that opens: `wire` leads to its place. */
INLINE enum reason server_opening_receives(frame *fr, struct work *w, const struct wire *wire)
{
	const struct packet *p = &w->packet;

	flow_key_of(&w->key, &w->wire_key, wire);
	struct flow *half = find_flow(w, OPENING, &w->key);
	if (!half || !is_of_wire(half, &w->wire_key)) {
		drop_wire(w, OPENING, &w->wire_key);
		return REASON_not_ours;
	}
	reach_by(w, wire);
	if (half->life.state == SERVER_STRAY)
		return server_meets(fr, w, half->scope);
	if (!is_step_3(p, half))
		return REASON_server_unentered;
	half->established_us = (u32)((now_exact(w) - half->started_ns) / 1000) | 1;
	return server_enters(w, half, REASON_server_joined);
}

/* Whether the server has lost the service port of an established connection: no packet goes by it any
 * more. */
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

/* Whether a packet to a service port is the answer to a connection that the pod itself began from a port of
 * that number. */
INLINE bool is_outgoing(frame *fr, struct work *w)
{
	w->wire_key.ifindex = w->ifindex;
	bool outgoing = stack_has(fr, w, &w->wire_key);
	w->wire_key.ifindex = 0;
	return outgoing;
}

/* A packet to a service port of which no wire speaks. */
INLINE enum reason server_receives_unknown(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;
	const struct server_port *port = server_port_of(w, &p->dst, p->dport, 0);

	if (!port || is_outgoing(fr, w))
		return REASON_not_ours;
	set_place(w, port->target, p->sport);
	const struct flow *f = find_flow(w, ESTABLISHED, &w->key);
	/* The place is another connection's: the stack is to refuse this packet, and that connection lives
	 * on. */
	if (f && !is_of_wire(f, &w->wire_key) && !find_substitute(fr, w))
		return REASON_server_no_substitute;
	w->verdict.dport = w->key.local_port;
	w->verdict.sport = w->key.peer_port;
	w->verdict.blank = p->option_at != 0;
	return server_meets(fr, w, port->scope);
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

/* What the stack sends goes by `port` on the wire, to the client's own port. */
INLINE void server_speaks(struct work *w, const struct flow *f, be16 port)
{
	w->verdict.sport = port;
	w->verdict.dport = f->client_port;
}

/* The stack's SYN+ACK of flow `f`, from the port that the client dialled: it names the service port. */
INLINE enum reason server_names_port(struct work *w, struct flow *f)
{
	const struct packet *p = &w->packet;
	union life was = f->life, life = was;

	life.tries += life.tries < 255;
	swap_if_same(&f->life.whole, was.whole, life.whole);
	f->server_isn = p->seq;
	note_sending(w, f);
	server_speaks(w, f, f->redirect_port);
	if (is_direct_dial(f))
		return REASON_server_direct;
	if (!(life.marks & AWARE) || !has_room(p, OPTION_LEN_BARE))
		return REASON_server_answers;
	if (p->may_fragment)
		return REASON_server_may_fragment;
	w->verdict.append = (struct option){ .flags = OPTION_CONFIRM, .len = OPTION_LEN_BARE };
	if (f->wire_port != f->redirect_port) {
		w->verdict.append.flags |= OPTION_PORT;
		w->verdict.append.port = f->wire_port;
	}
	return REASON_server_answers;
}

/* A SYN+ACK: of the connection that opens, or once more of one that step 3 has made established, when the
 * stack could not take step 3. Any other says that the stack has given the pair of ports to a connection that
 * is none of ours. */
INLINE enum reason server_answers(struct work *w)
{
	const struct packet *p = &w->packet;
	struct flow *f = find_flow(w, OPENING, &w->key);

	if (f && f->life.state == SERVER_OPENING && p->ack == f->life.isn + 1) {
		forget(w, ESTABLISHED); /* the stack has opened this pair of ports once more */
		forget(w, CLOSED);
		return server_names_port(w, f);
	}
	f = find_flow(w, ESTABLISHED, &w->key);
	if (f && f->life.state == SERVER_ESTABLISHED && p->ack == f->life.isn + 1 && p->seq == f->server_isn)
		return server_names_port(w, f);
	forget(w, ESTABLISHED);
	forget(w, CLOSED);
	return REASON_not_ours;
}

/* What the stack sends on a connection whose flow `half` is not established. What is entered by a stray
 * packet goes on from the number that it acknowledged. */
INLINE enum reason server_opening_sends(frame *fr, struct work *w, const struct flow *half)
{
	const struct packet *p = &w->packet;
	bool opening = half->life.state == SERVER_OPENING;
	enum reason direct = is_direct_dial(half) ? REASON_server_direct : REASON_none;

	if (p->tcp_flags & TCP_RST) {
		server_speaks(w, half, opening ? half->redirect_port : half->wire_port);
		if (opening && half->life.marks & AWARE && p->ack == half->life.isn + 1 && !p->payload &&
		    has_room(p, OPTION_LEN_BARE))
			w->verdict.append =
				(struct option){ .flags = OPTION_CONFIRM, .len = OPTION_LEN_BARE };
		return direct ? direct : REASON_server_refuses;
	}
	bool next = p->seq == half->server_isn + 1;
	if (opening && half->life.tries && p->ack == half->life.isn + 1 &&
	    next) { /* it refuses an old SYN, say */
		server_speaks(w, half, half->redirect_port);
		return direct ? direct : REASON_server_opening;
	}
	if (opening || (half->life.state == SERVER_STRAY && !next))
		return REASON_not_ours;
	server_speaks(w, half, half->wire_port);
	/* TIME_WAIT repeats its last word; that is no connection to enter. */
	if (ask_stack(fr, w, &w->key, &w->numbers) == SOCKET_PART)
		return direct ? direct : REASON_server_sends;
	w->flow = *half;
	w->flow.life.reason = REASON_server_rebuilt;
	server_enters(w, &w->flow, REASON_server_rebuilt);
	return direct ? direct : REASON_server_rebuilt;
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
		enum reason reason = is_direct_dial(f) ? REASON_server_direct : REASON_server_sends;
		if (own_stack_ends(fr, w, f))
			server_closes(w, f);
		return reason;
	}
	f = find_flow(w, OPENING, &w->key);
	if (f && !is_client_state(f->life.state)) {
		enum reason reason = server_opening_sends(fr, w, f);
		if (reason != REASON_not_ours)
			return reason;
	}
	f = find_flow(w, CLOSED, &w->key);
	if (!f || is_client_state(f->life.state))
		return REASON_not_ours;
	enum reason reason = is_direct_dial(f) ? REASON_server_direct : REASON_server_sends;
	leave_by(w, f);
	note_sending(w, f);
	if (!(w->packet.tcp_flags & (TCP_FIN | TCP_RST)))
		reopen_flow(w, f);
	return reason;
}

#endif
