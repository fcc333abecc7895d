/* The client translator: the application sees virtual address:X for the whole connection, the wire has server:X, then server:Y
 * (docs/protocol.md, "Establishing"). An entry has one CLIENT_STACK record that holds its state, and a CLIENT_WIRE record for each
 * port of the server that the wire may use, which only leads back. */
#ifndef WHARFINGER_CLIENT_H
#define WHARFINGER_CLIENT_H

#include "balance.h"

INLINE void client_event(struct work *w, const struct flow *f, enum role role, enum event_kind kind)
{
	const struct flow_key *k = &w->key; /* CLIENT_STACK */

	w->event = (struct event){
		.time_ns = now_exact(w), .started_ns = f->started_ns, .established_ns = f->established_ns,
		.client = k->local, .virtual = k->peer, .server = f->other, .scope = f->scope, .isn = f->isn, .ifindex = w->ifindex,
		.client_port = k->local_port, .redirect_port = k->peer_port, .service_port = f->service_port,
		.kind = kind, .role = role, .reason = f->reason, .ends = f->ends & END_SURE, .proto = PROTO_TCP, .aware = f->aware,
	};
}

/* Gives back the wire's ports. An entry that is no longer aware has none, and another connection may have them by now. */
INLINE void client_release(struct work *w, const struct flow *f)
{
	if (!f->aware)
		return;
	set_key(&w->wire, SIDE_CLIENT_WIRE, &w->key.local, w->key.local_port, &f->other, f->redirect_port);
	drop_flows(w, &w->wire);
	if (f->service_port && f->service_port != f->redirect_port) {
		w->wire.peer_port = f->service_port;
		drop_flows(w, &w->wire);
	}
}

/* The record that leads from a wire port back to what the stack sees: REASON_none, or why there is none. */
INLINE enum reason client_claim(struct work *w, const struct flow *f, be16 wire_port)
{
	set_key(&w->wire, SIDE_CLIENT_WIRE, &w->key.local, w->key.local_port, &f->other, wire_port);
	const struct flow *taken = find_flows(w, &w->wire);
	if (taken && taken->aware && (taken->redirect_port != w->key.peer_port || !addr_equal(&taken->other, &w->key.peer)))
		return REASON_port_taken;
	w->flow = *f;
	w->flow.other = w->key.peer;
	w->flow.redirect_port = w->key.peer_port;
	if (!put_flows(w, &w->wire, &w->flow, taken ? PUT_ANY : PUT_NEW))
		return REASON_none;
	return !taken && find_flows(w, &w->wire) ? REASON_port_taken : REASON_table_full; /* taken just now, on another processor */
}

/* The connection goes on unaware. The record of the port dialled stays while no other connection wants the port: what still comes from there
 * is no packet of this one. */
INLINE void client_gives_up(struct work *w, struct flow *f)
{
	client_release(w, f);
	f->aware = 0;
	client_claim(w, f, f->redirect_port);
}

INLINE enum reason syn_unaware_by_rule(const struct packet *p)
{
	if (p->payload || p->traits & SYN_FAST_OPEN)
		return REASON_fast_open;
	if (p->traits & SYN_MPTCP)
		return REASON_mptcp;
	if (p->traits & SYN_SIGNED)
		return REASON_signed_segment;
	if (!has_room(p, OPTION_LEN_SCOPE))
		return REASON_no_room;
	return REASON_none;
}

INLINE enum reason client_tags_syn(struct work *w, const struct flow *f)
{
	w->verdict.dst = f->other;
	w->verdict.append = (struct option){ .flags = OPTION_REDIRECT, .len = OPTION_LEN_SCOPE, .scope = f->scope };
	return f->service_port == f->redirect_port ? REASON_client_syn_service : REASON_client_syn;
}

/* A SYN of the pod's stack. The stack is the authority: another ISN on a known pair of ports is a new connection. */
INLINE enum reason client_opens(struct work *w, struct flow *old)
{
	const struct packet *p = &w->packet;
	struct choice c = {};
	enum reason rule;

	if (old && old->isn == p->seq) {
		old->seen_ns = now_coarse(w);
		if (old->aware && ++old->tries < 2)
			return client_tags_syn(w, old);
		if (old->aware)
			client_gives_up(w, old); /* and stays so: an answer to this SYN may come after the next one */
		return REASON_third_syn;
	}
	if (old) {
		client_release(w, old);
		drop_flows(w, &w->key);
	}
	choose(w, &c);
	if (c.reason != REASON_client_syn && c.reason != REASON_client_syn_service)
		return c.reason;
	rule = syn_unaware_by_rule(p);
	if (rule != REASON_none)
		return rule;
	if (server_port_of(w, &p->src, p->sport, 0))
		return REASON_port_taken; /* a service port of the pod's own: answers to it could not be told from its clients' packets */

	struct flow f = { .other = c.server, .scope = c.scope, .isn = p->seq, .redirect_port = p->dport, .state = FLOW_OPENING, .aware = 1,
			  .reason = c.reason };
	f.service_port = c.reason == REASON_client_syn_service ? p->dport : 0;
	f.started_ns = f.seen_ns = now_exact(w);
	rule = client_claim(w, &f, p->dport);
	if (rule != REASON_none)
		return rule;
	if (put_flows(w, &w->key, &f, PUT_ANY)) {
		drop_flows(w, &w->wire);
		return REASON_table_full;
	}
	client_event(w, &f, ROLE_BALANCER, EVENT_BALANCED);
	return client_tags_syn(w, &f);
}

/* Whether the tables know that the server has lost the connection's service port: they know the virtual address, so they are no empty ones. */
INLINE int server_is_gone(struct work *w, const struct flow *f)
{
	if (!f->service_port || server_port_of(w, &f->other, f->service_port, 0) ||
	    (f->service_port == f->redirect_port && server_port_of(w, &f->other, f->service_port, f->scope)))
		return 0;
	w->address_key = (struct address_key){ .addr = w->key.peer, .proto = PROTO_TCP };
	return find_addresses(w, &w->address_key) != 0;
}

/* From the pod: what its stack sends to virtual address:X. */
INLINE enum reason client_sends(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;

	set_key(&w->key, SIDE_CLIENT_STACK, &p->src, p->sport, &p->dst, p->dport);
	struct flow *f = find_flows(w, &w->key);
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return client_opens(w, f);
	if (!f || !f->aware)
		return REASON_no_entry;

	f->seen_ns = now_coarse(w);
	if ((p->tcp_flags & (TCP_ACK | TCP_RST)) == TCP_ACK && server_is_gone(w, f)) {
		if (mark_end(f, END_RESET))
			client_event(w, f, ROLE_CLIENT, EVENT_CLOSED);
		answer_with_reset(w);
		return REASON_client_server_gone;
	}
	w->verdict.dst = f->other;
	if (note_own_end(fr, w, f))
		client_event(w, f, ROLE_CLIENT, EVENT_CLOSED);
	if (!f->service_port)
		return REASON_client_sends_unredirected;
	w->verdict.dport = f->service_port;
	if (f->state != FLOW_REDIRECTED || p->payload || p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) || !has_room(p, OPTION_LEN_BARE))
		return REASON_client_sends;
	w->verdict.append = (struct option){ .flags = OPTION_CONFIRM | OPTION_PORT, .len = OPTION_LEN_BARE, .port = f->redirect_port };
	return REASON_client_joins;
}

/* A SYN+ACK that the client's stack has no use for. The stack would reset its sender at the port that it came from, where nobody knows of
 * it: so it is reset at the port that it names, unless that is another connection's. `otherwise`: when it names none of its sender's. */
INLINE enum reason client_resets(struct work *w, enum reason otherwise)
{
	const struct packet *p = &w->packet;

	if (!names_port(&p->option))
		return otherwise;
	const struct server_port *port = server_port_of(w, &p->src, p->option.port, 0);
	set_key(&w->wire, SIDE_CLIENT_WIRE, &p->dst, p->dport, &p->src, p->option.port);
	if (!port || port->count || find_flows(w, &w->wire))
		return otherwise;
	answer_with_reset(w);
	w->verdict.dport = p->option.port;
	return REASON_client_resets;
}

/* Whether an answer without our option to an aware SYN lost it on the way, or the SYN did: only a translator answers at a port that the server
 * does not listen on, and it always confirms. */
INLINE int lost_its_option(struct work *w, const struct flow *f)
{
	const struct server_port *port;

	if (f->state != FLOW_OPENING || f->service_port || w->packet.option.flags & OPTION_CONFIRM)
		return 0;
	port = server_port_of(w, &f->other, f->redirect_port, f->scope);
	return port && port->target != f->redirect_port;
}

/* The server's SYN+ACK: the first that names a port of its own wins. */
INLINE enum reason client_answered(struct work *w, struct flow *f)
{
	const struct packet *p = &w->packet;
	const struct option *o = &p->option;

	if (p->ack != f->isn + 1)
		return client_resets(w, REASON_client_receives);
	f->seen_ns = now_coarse(w);
	if (!names_port(o) || o->port == f->redirect_port) {
		if (f->state != FLOW_OPENING)
			return REASON_client_receives;
		if (lost_its_option(w, f))
			return REASON_client_withheld;
		f->state = FLOW_ESTABLISHED;
		f->established_ns = now_exact(w);
		f->reason = o->flags & OPTION_CONFIRM ? REASON_client_confirmed : REASON_client_unconfirmed;
		if (o->flags & OPTION_CONFIRM)
			f->service_port = f->redirect_port;
		return f->reason;
	}
	if (f->service_port)
		return f->service_port == o->port ? REASON_client_receives : client_resets(w, REASON_client_other_answer);

	const struct server_port *port = server_port_of(w, &p->src, o->port, 0);
	if (!port || port->count || port->scope != f->scope)
		return REASON_client_unsure;
	f->established_ns = now_exact(w);
	f->state = FLOW_REDIRECTED;
	w->flow = *f;
	enum reason claimed = client_claim(w, f, o->port);
	if (claimed != REASON_none) {
		f->state = FLOW_OPENING;
		if (claimed != REASON_table_full)
			return REASON_client_other_answer;
		f->tries = 2; /* the next SYN is the one that goes unaware */
		return REASON_client_no_room;
	}
	f->service_port = o->port;
	f->reason = REASON_client_redirected;
	return f->reason;
}

/* Once the server has named Y, nothing comes from X but its answer once more: only the port in use ends a connection. */
INLINE int is_from_left_port(const struct packet *p, const struct flow *f)
{
	int answer = (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == (TCP_SYN | TCP_ACK) && p->ack == f->isn + 1;

	return f->service_port && p->sport != f->service_port && !answer;
}

/* To the pod: what a server sends to its client. The stack sees virtual address:X. */
INLINE enum reason client_receives(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;

	set_key(&w->wire, SIDE_CLIENT_WIRE, &p->dst, p->dport, &p->src, p->sport);
	struct flow *wire = find_flows(w, &w->wire);
	if (!wire)
		return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) ? client_resets(w, REASON_not_ours) : REASON_not_ours;
	if (!wire->aware)
		return p->option.flags & OPTION_CONFIRM ? REASON_client_late : REASON_not_ours;
	w->verdict.src = wire->other;
	w->verdict.sport = wire->redirect_port;
	w->verdict.blank = p->option_at != 0;
	if (wire->state == FLOW_ESTABLISHED && !(p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)))
		return REASON_client_receives;

	set_key(&w->key, SIDE_CLIENT_STACK, &p->dst, p->dport, &wire->other, wire->redirect_port);
	struct flow *f = find_flows(w, &w->key);
	if (!f)
		return REASON_not_ours;
	if (is_from_left_port(p, f))
		return REASON_client_left_port;
	if (p->tcp_flags & TCP_SYN)
		return client_answered(w, f);
	if (p->tcp_flags & TCP_RST && p->ack == f->isn + 1 && lost_its_option(w, f))
		return REASON_client_withheld;
	if (f->state == FLOW_REDIRECTED && p->sport == f->service_port)
		f->state = FLOW_ESTABLISHED; /* Y answered: the hint need not be repeated */
	if (f->state == FLOW_ESTABLISHED)
		wire->state = FLOW_ESTABLISHED;
	if (note_peers_end(fr, w, f))
		client_event(w, f, ROLE_CLIENT, EVENT_CLOSED);
	return REASON_client_receives;
}

#endif
