/* The server translator: the stack listens on its target port P, the wire has X while a connection opens and Y from then on
 * (docs/protocol.md, "Establishing" and "State of the ends"). A SYN makes a half-open record, which only step 3 turns into an entry,
 * so a flood of SYNs evicts nothing but its like. */
#ifndef WHARFINGER_SERVER_H
#define WHARFINGER_SERVER_H

#include "substitute.h"

/* A direct dial is nobody's business but for its ports; no pool's scope is 0. */
INLINE int is_direct(const struct flow *f) { return !f->scope; }

INLINE void server_event(struct work *w, const struct flow *f, enum event_kind kind)
{
	const struct flow_key *k = &w->key; /* SERVER_STACK */

	if (is_direct(f))
		return;
	w->event = (struct event){
		.time_ns = now_exact(w), .started_ns = f->started_ns, .established_ns = f->established_ns,
		.client = k->peer, .server = k->local, .scope = f->scope, .isn = f->isn, .ifindex = w->ifindex,
		.client_port = f->client_port ? f->client_port : k->peer_port, .redirect_port = f->redirect_port, .service_port = f->service_port,
		.target_port = k->local_port, .kind = kind, .role = ROLE_SERVER, .reason = f->reason, .ends = f->ends & END_SURE, .proto = PROTO_TCP, .aware = f->aware,
	};
}

/* Notes that w->flow opens under w->key, and lets the stack see it so. */
INLINE void server_notes_opening(struct work *w)
{
	const struct packet *p = &w->packet;

	if (w->key.peer_port != p->sport) {
		struct flow wire = wire_record(w);
		put_half_open(w, &w->wire, &wire);
		w->flow.client_port = p->sport;
	}
	put_half_open(w, &w->key, &w->flow);
	w->verdict.dport = w->key.local_port;
	w->verdict.sport = w->key.peer_port;
	w->verdict.blank = p->option_at != 0;
}

/* A SYN to the stack itself. Its pair of ports may be a connection's of ours, which the dialler cannot know, so it gets a substitute as ours
 * would. Else what we remembered of this pair of ports is over. */
INLINE enum reason server_dialled(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;

	if (!substitute_again(fr, w, p->dport, p->dport)) {
		set_key(&w->key, SIDE_SERVER_STACK, &p->dst, p->dport, &p->src, p->sport);
		const struct flow *half = find_half_open(w, &w->key);
		int again = half && half->isn == p->seq; /* the client tries unaware what it began aware: the same connection to the stack */
		if (again || !(is_opening(half) || find_flows(w, &w->key)) || !stack_holds(fr, w, &w->key)) {
			drop_half_open(w, &w->key);
			return REASON_not_ours;
		}
		if (!substitute(fr, w))
			return REASON_not_ours;
	}
	w->flow = (struct flow){ .isn = p->seq, .redirect_port = p->dport, .service_port = p->dport, .state = FLOW_OPENING,
				 .reason = REASON_server_direct };
	w->flow.started_ns = w->flow.seen_ns = now_exact(w);
	server_notes_opening(w);
	return REASON_server_direct;
}

/* A SYN: to a service port by the port alone, to a redirect port by its scope. */
INLINE enum reason server_opens(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;
	int aware = p->option.flags & OPTION_REDIRECT && p->option.len >= OPTION_LEN_SCOPE;
	enum reason reason = REASON_server_syn_service;
	be16 service_port = p->dport;
	const struct server_port *port = server_port_of(w, &p->dst, p->dport, 0);

	if (!port && aware && p->option.scope) {
		port = server_port_of(w, &p->dst, p->dport, p->option.scope);
		if (!port || !port->count || port->count > SERVICE_PORTS_MAX)
			return REASON_not_ours;
		service_port = port->service[connection_hash(p, p->option.scope) % port->count & (SERVICE_PORTS_MAX - 1)];
		reason = REASON_server_syn;
	}
	if (!port)
		return server_dialled(fr, w);

	if (!find_place(fr, w, port->target, service_port))
		return REASON_server_no_substitute;
	w->flow = (struct flow){ .scope = port->scope, .isn = p->seq, .redirect_port = p->dport, .service_port = service_port,
				 .state = FLOW_OPENING, .aware = aware, .reason = reason };
	/* A SYN that comes twice does not undo the SYN+ACK between: the stack may not repeat that before step 3. */
	const struct flow *half = find_half_open(w, &w->key);
	if (is_opening(half) && half->isn == p->seq) {
		w->flow.server_isn = half->server_isn;
		w->flow.tries = half->tries;
	}
	w->flow.started_ns = w->flow.seen_ns = now_exact(w);
	server_notes_opening(w);
	return reason;
}

/* The connection of w->key, whose half-open record is `half`, has arrived at its port. 0: the table is full. */
INLINE int server_enters(struct work *w, struct flow *half)
{
	w->flow = *half;
	w->flow.state = FLOW_ESTABLISHED;
	w->flow.established_ns = w->flow.seen_ns = now_exact(w);
	if (put_flows(w, &w->key, &w->flow, PUT_ANY))
		goto full;
	if (w->flow.client_port) { /* w->wire is its wire record's key, as it was found by that */
		struct flow wire = wire_record(w);
		if (put_flows(w, &w->wire, &wire, PUT_ANY)) {
			drop_flows(w, &w->key);
			goto full;
		}
		drop_half_open(w, &w->wire);
	}
	drop_half_open(w, &w->key);
	return 1;
full:
	half->state = FLOW_UNENTERED;
	return 0;
}

/* Whether a whole socket would take this packet as one of its peer's: the next in order, or one that it has (RFC 9293, RFC 5961). */
INLINE int is_acceptable(const struct packet *p, const struct numbers *n)
{
	if (p->tcp_flags & TCP_RST)
		return p->seq == n->expects;
	return p->tcp_flags & TCP_ACK && p->ack - n->unacknowledged <= n->next - n->unacknowledged && n->expects - p->seq <= p->payload + 1;
}

/* A packet to a service port of which neither entry nor record speaks. One that the stack's connection takes leaves a record, by which that
 * is rebuilt when the stack answers. One that it does not take is dropped, for the connection may be none of ours. If there is no
 * connection yet it may be the end of a handshake whose record was evicted, or of a SYN cookie's: the record keeps its number. */
INLINE enum reason server_meets(frame *fr, struct work *w, u32 scope)
{
	const struct packet *p = &w->packet;
	enum held held = ask_stack(fr, w, &w->key, &w->numbers);

	if (held == HELD_WHOLE && !is_acceptable(p, &w->numbers))
		return REASON_server_stray;
	w->flow = (struct flow){ .scope = scope, .redirect_port = p->dport, .service_port = p->dport, .state = FLOW_STRAY };
	if (held == HELD_WHOLE || w->netns < 0)
		w->flow.state = FLOW_UNENTERED;
	w->flow.server_isn = p->ack - 1;
	w->flow.client_port = w->key.peer_port == p->sport ? 0 : p->sport;
	w->flow.started_ns = w->flow.seen_ns = now_exact(w);
	put_half_open(w, &w->key, &w->flow);
	return REASON_server_unentered;
}

/* A packet to a service port of which no entry speaks. Step 3 makes the entry: any packet that acknowledges the SYN+ACK and no more, as
 * the stack has sent nothing else by then. When the table is full the connection lives by its record. */
INLINE enum reason server_joins(frame *fr, struct work *w, u32 scope)
{
	const struct packet *p = &w->packet;
	struct flow *half = find_half_open(w, &w->key);

	if (is_opening(half) && half->service_port == p->dport && p->tcp_flags & TCP_ACK && !(p->tcp_flags & TCP_RST) &&
	    half->tries && p->ack == half->server_isn + 1)
		return server_enters(w, half) ? REASON_server_joined : REASON_server_no_room;
	if (!half || half->state == FLOW_STRAY)
		return server_meets(fr, w, scope);
	return REASON_server_unentered;
}

/* Whether a packet to a service port is the answer to a connection that the pod itself began from a port of that number. */
INLINE int is_outgoing(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;

	set_key(&w->wire, SIDE_SERVER_STACK, &p->dst, p->dport, &p->src, p->sport);
	return stack_holds(fr, w, &w->wire);
}

/* To the pod: service port, or redirect port and scope, to the target port. */
INLINE enum reason server_receives(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;

	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return server_opens(fr, w);
	const struct server_port *port = server_port_of(w, &p->dst, p->dport, 0);
	struct flow *f = 0;
	be16 target = port ? port->target : p->dport;
	u32 scope = port ? port->scope : 0;

	if (port) {
		set_key(&w->key, SIDE_SERVER_STACK, &p->dst, target, &p->src, p->sport);
		f = find_flows(w, &w->key);
	}
	if (!f || !is_own(f, p->dport)) {
		be16 known = substitute_of(w, &p->dst, p->dport, target, &p->src, p->sport);
		if (!known && (!port || is_outgoing(fr, w)))
			return REASON_not_ours;
		set_key(&w->key, SIDE_SERVER_STACK, &p->dst, target, &p->src, known ? known : p->sport);
		if (!known && f && !substitute(fr, w)) /* so that the stack refuses it, and the connection that has these ports lives on */
			return REASON_server_no_substitute;
		f = find_flows(w, &w->key);
	}
	w->verdict.dport = w->key.local_port;
	w->verdict.sport = w->key.peer_port;
	w->verdict.blank = p->option_at != 0;
	if (!f)
		return server_joins(fr, w, scope);
	if (f->state == FLOW_CLOSING && is_opening(find_half_open(w, &w->key)) && server_joins(fr, w, scope) == REASON_server_joined)
		return REASON_server_joined;
	f->seen_ns = now_coarse(w);
	if (p->tcp_flags & (TCP_FIN | TCP_RST) && note_peers_end(fr, w, f))
		server_event(w, f, EVENT_CLOSED);
	return REASON_server_receives;
}

/* What the stack sends under w->key goes by the connection's port on the wire, to the client's own. */
INLINE void server_speaks(struct work *w, const struct flow *f, be16 port)
{
	w->verdict.sport = port;
	if (f->client_port)
		w->verdict.dport = f->client_port;
}

/* A SYN+ACK: of the connection that opens, or once more of one that step 3 has entered, when the stack could not take step 3. Any other
 * says that the stack has given the pair of ports to a connection that is none of ours. */
INLINE enum reason server_answers(struct work *w)
{
	const struct packet *p = &w->packet;
	struct flow *half = find_half_open(w, &w->key), *f = find_flows(w, &w->key), *opened = half;

	if (!is_opening(half) || p->ack != half->isn + 1) {
		opened = f;
		if (!f || p->ack != f->isn + 1 || p->seq != f->server_isn) {
			if (f)
				drop_flows(w, &w->key);
			return REASON_not_ours;
		}
	}
	opened->server_isn = p->seq;
	opened->seen_ns = now_coarse(w);
	opened->tries += opened->tries < 255;
	server_speaks(w, opened, opened->redirect_port);
	if (is_direct(opened))
		return REASON_server_direct;
	if (!opened->aware)
		return REASON_server_answers;
	if (!has_room(p, OPTION_LEN_BARE))
		return REASON_server_answers;
	w->verdict.append = (struct option){ .flags = OPTION_CONFIRM, .len = OPTION_LEN_BARE };
	if (opened->service_port != opened->redirect_port) {
		w->verdict.append.flags |= OPTION_PORT;
		w->verdict.append.port = opened->service_port;
	}
	return REASON_server_answers;
}

/* The stack speaks on a connection that has no entry. What is rebuilt of a stray packet goes on from the number that it acknowledged. */
INLINE enum reason server_rebuilds(struct work *w)
{
	const struct packet *p = &w->packet;
	const struct flow *half = find_half_open(w, &w->key);

	if (!half)
		return REASON_not_ours;
	if (p->tcp_flags & TCP_RST) {
		server_speaks(w, half, half->state == FLOW_OPENING ? half->redirect_port : half->service_port);
		if (is_opening(half) && half->aware && p->ack == half->isn + 1 && !p->payload && has_room(p, OPTION_LEN_BARE))
			w->verdict.append = (struct option){ .flags = OPTION_CONFIRM, .len = OPTION_LEN_BARE };
		return is_direct(half) ? REASON_server_direct : REASON_server_refuses;
	}
	if (is_opening(half) && half->tries && p->ack == half->isn + 1 && p->seq == half->server_isn + 1) { /* it refuses an old SYN, say */
		server_speaks(w, half, half->redirect_port);
		return is_direct(half) ? REASON_server_direct : REASON_server_opening;
	}
	if (half->state == FLOW_OPENING || (half->state == FLOW_STRAY && p->seq != half->server_isn + 1))
		return REASON_not_ours;
	server_speaks(w, half, half->service_port);
	w->flow = *half;
	w->flow.state = FLOW_ESTABLISHED;
	w->flow.reason = REASON_server_rebuilt;
	enum reason reason = is_direct(half) ? REASON_server_direct : REASON_server_rebuilt;
	if (!put_flows(w, &w->key, &w->flow, PUT_ANY))
		drop_half_open(w, &w->key);
	return reason;
}

/* From the pod: the target port to the port that the wire uses. Without entry or record it is nobody's business. */
INLINE enum reason server_sends(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;

	set_key(&w->key, SIDE_SERVER_STACK, &p->src, p->sport, &p->dst, p->dport);
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK))
		return server_answers(w);

	struct flow *f = find_flows(w, &w->key);
	if (!f)
		return server_rebuilds(w);
	server_speaks(w, f, f->service_port);
	f->seen_ns = now_coarse(w);
	if (note_own_end(fr, w, f))
		server_event(w, f, EVENT_CLOSED);
	return is_direct(f) ? REASON_server_direct : REASON_server_sends;
}

#endif
