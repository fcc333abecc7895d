/* The client translator: the application sees virtual address:X for the whole connection, the wire has
 * server:X while it opens and server:Y from then on (docs/protocol.md, "Establishing").
 *
 * While a connection opens it has wires for the port dialled and, claimed beforehand, for the port that the
 * server is to name. The SYN+ACK makes it established, with one wire. Nothing from any other port of the
 * server is its packet, but that SYN+ACK once more. */
#ifndef WHARFINGER_CLIENT_H
#define WHARFINGER_CLIENT_H

#include "balance.h"
#include "moves.h"

INLINE void client_event(struct work *w, const struct flow *f, enum role role, enum event_kind kind)
{
	const struct flow_key *k = &w->key;
	union life life = f->life;
	bool named = life.state != CLIENT_OPENING && life.reason != REASON_client_unconfirmed;

	w->event = (struct event){
		.time_ns = now_exact(w),
		.started_ns = f->started_ns,
		.established_ns = f->established_us ? f->started_ns + f->established_us * 1000ULL : 0,
		.client = addr_from_v4(k->local),
		.virtual = addr_from_v4(k->peer),
		.server = addr_from_v4(f->server),
		.scope = f->scope,
		.isn = life.isn,
		.ifindex = w->ifindex,
		.client_port = k->local_port,
		.redirect_port = k->peer_port,
		.service_port = named || life.reason == REASON_client_syn_service ? f->wire_port : 0,
		.kind = kind,
		.role = role,
		.reason = life.reason,
		.ends = life.marks & ENDED,
		.proto = PROTO_TCP,
		.aware = 1,
	};
}

INLINE void client_closes(struct work *w, const struct flow *f)
{
	client_event(w, f, ROLE_CLIENT, EVENT_CLOSED);
	close_flow(w, f);
}

INLINE void client_forgets(struct work *w)
{
	forget(w, ESTABLISHED);
	forget(w, OPENING);
	forget(w, CLOSED);
}

/* The connection, whose flow is copied to w->flow, goes on unaware. Its record stays while no other
 * connection wants the ports: what still answers the aware SYNs is no packet of this one. */
INLINE void client_gives_up(struct work *w)
{
	client_forgets(w);
	w->flow.life.state = CLIENT_UNAWARE;
	w->flow.wire_port = w->key.peer_port;
	w->flow.claimed = 0;
	enter(w, OPENING);
}

INLINE enum reason syn_unaware_by_rule(const struct packet *p)
{
	if (p->payload || p->traits & SYN_FAST_OPEN)
		return REASON_fast_open;
	if (p->traits & SYN_MPTCP)
		return REASON_mptcp;
	if (p->traits & SYN_SIGNED)
		return REASON_signed_segment;
	if (p->may_fragment)
		return REASON_may_fragment;
	return has_room(p, OPTION_LEN_SCOPE) ? REASON_none : REASON_no_room;
}

INLINE enum reason client_tags_syn(struct work *w, const struct flow *f)
{
	w->verdict.dst = addr_from_v4(f->server);
	w->verdict.append =
		(struct option){ .flags = OPTION_REDIRECT, .len = OPTION_LEN_SCOPE, .scope = f->scope };
	return f->life.state == CLIENT_OPENING ? f->life.reason : REASON_client_syn;
}

/* The same SYN again: the second bears REDIRECT as the first did, the third is unaware. */
INLINE enum reason client_repeats_syn(struct work *w, struct flow *f)
{
	u8 tries = f->life.tries + 1;

	if (f->life.marks & CLOSING) /* no SYN of a stack that has the connection */
		return REASON_client_ends;
	if (f->life.tries >= NOT_FOLLOWED) /* nor is this: it was under way */
		return client_tags_syn(w, f);
	if (f->life.state == CLIENT_UNAWARE)
		return REASON_third_syn;
	if (tries < 2) {
		set_tries(&f->life, tries);
		note_sending(w, f);
		return client_tags_syn(w, f);
	}
	w->flow = *f;
	client_gives_up(w);
	return REASON_third_syn;
}

/* Whether another connection has the server's port `port` on the wire with this client port: one of ours, or
 * one that the pod's own stack has dialled. Leaves w->wire_key at it. */
INLINE bool client_port_taken(frame *fr, struct work *w, be32 server, be16 port)
{
	const struct wire *wire;

	set_key(&w->wire_key, 0, w->key.local, w->key.local_port, server, port);
	wire = find_wire(w, ESTABLISHED, &w->wire_key);
	if (!wire)
		wire = find_wire(w, OPENING, &w->wire_key);
	if (wire)
		return wire->life.state != CLIENT_UNAWARE && !leads_to(wire, &w->key);
	w->wire_key.ifindex = w->key.ifindex;
	bool dialled = stack_has(fr, w, &w->wire_key);
	w->wire_key.ifindex = 0;
	return dialled;
}

/* Notes that the connection of w->key opens, as w->flow has it: its flow, the port dialled, and the one
 * claimed. */
INLINE int client_notes_opening(struct work *w)
{
	if (enter(w, OPENING))
		return -1;
	if (!w->flow.claimed)
		return 0;
	w->wire_key.peer_port = w->flow.claimed;
	w->wire.life.state = CLIENT_CLAIMED;
	return put_wire(w, OPENING, &w->wire_key, &w->wire);
}

/* The first SYN of a connection, to a server that the tables choose. */
INLINE enum reason client_begins(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;
	struct choice c = {};
	be16 claimed = 0;

	choose(w, &c);
	if (c.reason != REASON_client_syn && c.reason != REASON_client_syn_service)
		return c.reason;
	enum reason rule = syn_unaware_by_rule(p);
	if (rule != REASON_none)
		return rule;
	if (setting(w, SETTING_FULL))
		return REASON_table_full;
	if (server_port_of(w, &p->src, p->sport, 0))
		return REASON_port_taken; /* a service port of the pod's own: answers to it could not be told
					     from its clients' packets */
	if (c.reason == REASON_client_syn) {
		const struct server_port *port = server_port_of(w, &c.server, p->dport, c.scope);
		claimed = port ? select_service_port(port, p, &c.server) : 0;
	}
	if (client_port_taken(fr, w, v4_of(&c.server), p->dport) ||
	    (claimed && client_port_taken(fr, w, v4_of(&c.server), claimed)))
		return REASON_port_taken;

	w->flow = (struct flow){
		.life = { .state = CLIENT_OPENING, .marks = AWARE, .reason = c.reason, .isn = p->seq },
		.scope = c.scope,
		.claimed = claimed,
		.server = v4_of(&c.server),
		.wire_port = p->dport,
		.seen = stamp_now(w),
		.started_ns = now_exact(w)
	};
	if (client_notes_opening(w))
		return REASON_table_full;
	client_event(w, &w->flow, ROLE_BALANCER, EVENT_BALANCED);
	return client_tags_syn(w, &w->flow);
}

/* A SYN of the pod's stack. The stack is the authority: another ISN on a known pair of ports is a new
 * connection. */
INLINE enum reason client_opens(frame *fr, struct work *w)
{
	u32 isn = w->packet.seq;
	struct flow *f = find_flow(w, OPENING, &w->key);

	if (f && f->life.isn == isn)
		return client_repeats_syn(w, f);
	f = find_flow(w, ESTABLISHED, &w->key);
	if (f && f->life.isn == isn)
		return client_repeats_syn(w, f);
	client_forgets(w);
	return client_begins(fr, w);
}

/* Whether the tables know that the server has lost the port that the connection uses: they know the virtual
 * address, so they are no empty ones. The packet is then answered with a reset (client_sends). */
INLINE bool server_is_gone(struct work *w, const struct flow_key *k, const struct flow *f)
{
	struct addr server = addr_from_v4(f->server);
	struct address_key virtual = { .addr = addr_from_v4(k->peer), .proto = PROTO_TCP };

	if (f->life.reason == REASON_client_unconfirmed || server_port_of(w, &server, f->wire_port, 0) ||
	    (f->wire_port == k->peer_port && server_port_of(w, &server, f->wire_port, f->scope)))
		return false;
	return lookup_addresses(w, &virtual) != 0;
}

/* What the stack sends while its SYN is on the way: a RST refuses an answer with strange numbers, or gives
 * up. All else says that the stack has an answer which did not come by us: this SYN had gone unaware before.
 */
INLINE enum reason client_sends_opening(struct work *w, const struct flow *f)
{
	if (f->life.state != CLIENT_OPENING)
		return REASON_no_record;
	if (!(w->packet.tcp_flags & TCP_RST)) {
		w->flow = *f;
		client_gives_up(w);
		return REASON_no_record;
	}
	leave_by(w, f);
	return REASON_client_sends_unredirected;
}

/* What the stack of a CLOSING client sends. Where its FIN comes before the server's, both ends have the same
 * numbers again, and nothing is left of CLOSING. */
ALONE int client_sends_closing(frame *fr)
{
	struct work *w = work_of(fr);
	bool established = true;

	if (!w)
		return REASON_no_record;
	struct flow *f = find_flow(w, ESTABLISHED, &w->key);
	if (!f) {
		f = find_flow(w, CLOSED, &w->key);
		established = false;
	}
	if (!f)
		return REASON_no_record;
	u32 isn = f->life.isn;
	enum reason reason = closing_sends(fr, w, f);
	if (!established || reason == REASON_client_held_back || reason == REASON_client_closes_again)
		return reason;
	bool over = reason == REASON_client_wrote_late ? mark(f, isn, RESET, 0) : own_stack_ends(fr, w, f);
	if (over)
		client_closes(w, f);
	else if (f->life.marks & LOCAL_FIN)
		unmark_closing(&f->life, isn);
	return reason;
}

/* From the pod: what its stack sends to virtual address:X. */
INLINE enum reason client_sends(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;
	bool established = true;

	if (is_syn(p))
		return client_opens(fr, w);
	struct flow *f = find_flow(w, ESTABLISHED, &w->key);
	if (!f) {
		f = find_flow(w, OPENING, &w->key);
		if (f)
			return client_sends_opening(w, f);
		f = find_flow(w, CLOSED, &w->key);
		established = false;
	}
	if (!f || !is_client_state(f->life.state))
		return REASON_no_record;

	leave_by(w, f);
	if ((p->tcp_flags & (TCP_ACK | TCP_RST)) == TCP_ACK && server_is_gone(w, &w->key, f)) {
		if (established && mark(f, f->life.isn, RESET, 0))
			client_closes(w, f);
		answer_with_reset(w);
		return REASON_client_server_gone;
	}
	if (f->life.marks & CLOSING)
		return client_sends_closing(fr);
	enum reason reason = sends_reason(f);
	bool joining = f->life.state == CLIENT_JOINING;
	if (established)
		follow(p, f);
	note_sending(w, f);
	if (joining && !p->payload && !(p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)) &&
	    has_room(p, OPTION_LEN_BARE)) {
		w->verdict.append = (struct option){ .flags = OPTION_CONFIRM | OPTION_PORT,
						     .len = OPTION_LEN_BARE,
						     .port = w->key.peer_port };
		reason = REASON_client_joins;
	}
	if (!established && !(p->tcp_flags & (TCP_FIN | TCP_RST)))
		reopen_flow(w, f);
	else if (established && own_stack_ends(fr, w, f))
		client_closes(w, f);
	return reason;
}

/* A SYN+ACK that the client's stack has no use for. The stack would reset its sender at the port that it came
 * from, where nobody knows of it: so it is reset at the port that it names, unless that is another
 * connection's. `otherwise`: when it names none of its sender's. */
INLINE enum reason client_resets(struct work *w, enum reason otherwise)
{
	const struct packet *p = &w->packet;

	if (!names_port(&p->option))
		return otherwise;
	const struct server_port *port = server_port_of(w, &p->src, p->option.port, 0);
	set_key(&w->wire_key, 0, v4_of(&p->dst), p->dport, v4_of(&p->src), p->option.port);
	if (!port || port->count || find_wire(w, ESTABLISHED, &w->wire_key))
		return otherwise;
	answer_with_reset(w);
	w->verdict.dport = p->option.port;
	return REASON_client_resets;
}

/* Whether an answer without our option to an aware SYN lost it on the way, or the SYN did: only a translator
 * answers at a port that the server does not listen on, and it confirms when there is room. */
INLINE bool lost_its_option(struct work *w, const struct flow *f)
{
	const struct server_port *port;

	if (f->life.reason == REASON_client_syn_service || w->packet.option.flags & OPTION_CONFIRM)
		return false;
	port = server_port_of(w, &w->packet.src, w->key.peer_port, f->scope);
	return port && port->target != w->key.peer_port;
}

/* Whether the opening connection of `wire` is what a packet from the network belongs to: it acknowledges the
 * SYN. All else from there is a direct dial's, or one of kube-proxy's to the same server. */
INLINE bool answers_syn(const struct packet *p, const struct wire *wire)
{
	return p->tcp_flags & TCP_ACK && p->tcp_flags & (TCP_SYN | TCP_RST) && p->ack == wire->life.isn + 1;
}

/* w->flow, the connection of w->key that opened, is established at `port`. */
INLINE enum reason client_establishes(struct work *w, be16 port, u8 state, enum reason reason)
{
	struct flow_key used;

	w->flow.life.state = state;
	w->flow.life.reason = reason;
	w->flow.life.tries = 0;
	w->flow.wire_port = port;
	w->flow.seen = 0;
	w->flow.established_us = (u32)((now_exact(w) - w->flow.started_ns) / 1000) | 1;
	wire_key_of(&used, &w->key, &w->flow);
	const struct wire *taken = find_wire(w, ESTABLISHED, &used);
	if (taken && !leads_to(taken, &w->key))
		return REASON_client_other_answer;
	if (enter(w, ESTABLISHED))
		return REASON_client_no_room;
	forget(w, OPENING);
	return reason;
}

/* The answer to a SYN of ours, `f` its flow: the first that names a port of its sender's wins. */
INLINE enum reason client_answered(struct work *w, struct flow *f)
{
	const struct packet *p = &w->packet;
	const struct option *o = &p->option;
	enum reason reason;

	if (lost_its_option(w, f))
		return REASON_client_withheld;
	w->flow = *f;
	if (p->tcp_flags & TCP_RST) {
		w->flow.life.marks |= RESET;
		client_event(w, &w->flow, ROLE_CLIENT, EVENT_CLOSED);
		forget(w, OPENING);
		return REASON_client_receives;
	}
	if (!names_port(o) || o->port == w->key.peer_port) {
		reason = o->flags & OPTION_CONFIRM ? REASON_client_confirmed : REASON_client_unconfirmed;
		return client_establishes(w, w->key.peer_port, CLIENT_ESTABLISHED, reason);
	}
	const struct server_port *port = server_port_of(w, &p->src, o->port, 0);
	if (!port || port->count || port->scope != f->scope)
		return REASON_client_unsure;
	reason = client_establishes(w, o->port, CLIENT_JOINING, REASON_client_redirected);
	if (reason == REASON_client_no_room)
		set_tries(&f->life, 2); /* the next SYN is the one that goes unaware */
	return reason;
}

/* What comes to a connection that opens, from the port that it dialled: REASON_not_ours when it is
 * another's. */
INLINE enum reason client_opening_receives(struct work *w, const struct wire *wire)
{
	const struct packet *p = &w->packet;

	if (!answers_syn(p, wire))
		return REASON_not_ours;
	if (wire->life.state == CLIENT_UNAWARE)
		return p->option.flags & OPTION_CONFIRM ? REASON_client_late : REASON_not_ours;
	if (wire->life.state != CLIENT_OPENING)
		return REASON_not_ours;
	flow_key_of(&w->key, &w->wire_key, wire);
	struct flow *f = find_flow(w, OPENING, &w->key);
	if (!f || f->life.isn != wire->life.isn)
		return REASON_not_ours;
	reach_by(w, wire);
	return client_answered(w, f);
}

/* From the port in use: `wire` leads to the established connection. */
INLINE enum reason client_established_receives(frame *fr, struct work *w, struct wire *wire)
{
	const struct packet *p = &w->packet;

	reach_by(w, wire);
	if (plainly_receives(w, wire) && !(p->tcp_flags & (TCP_FIN | TCP_RST)) && !p->option_at)
		return REASON_client_receives;
	flow_key_of(&w->key, &w->wire_key, wire);
	struct flow *f = find_flow(w, ESTABLISHED, &w->key);
	if (!f || f->life.isn != wire->life.isn)
		return REASON_client_receives;
	if (f->life.state == CLIENT_JOINING &&
	    !(p->tcp_flags & TCP_SYN)) { /* Y answered: the hint need not be repeated */
		set_state(&f->life, CLIENT_ESTABLISHED);
		set_state(&wire->life, CLIENT_ESTABLISHED);
	}
	if (is_step_1(p))
		return client_asked(fr);
	enum reason reason = f->life.marks & CLOSING ? closing_receives(fr) : REASON_client_receives;
	if (reason == REASON_client_receives && p->tcp_flags & (TCP_FIN | TCP_RST) && wire_ends(fr, w, f))
		client_closes(w, f);
	return reason;
}

/* A SYN+ACK from a port that no wire has and that names another: the answer once more of a connection that is
 * there, from the port dialled; or of none, so that its sender is reset. */
INLINE enum reason client_answered_again(struct work *w)
{
	const struct packet *p = &w->packet;

	set_key(&w->wire_key, 0, v4_of(&p->dst), p->dport, v4_of(&p->src), p->option.port);
	const struct wire *wire = find_wire(w, ESTABLISHED, &w->wire_key);
	if (wire && is_client_state(wire->life.state) && p->ack == wire->life.isn + 1 &&
	    p->sport == wire->peer_port) {
		reach_by(w, wire);
		return REASON_client_receives;
	}
	return client_resets(w, wire ? REASON_client_other_answer : REASON_client_unsure);
}

/* To the pod: what a server sends to its client. The stack sees virtual address:X. */
INLINE enum reason client_receives(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;
	enum reason reason;

	struct wire *wire = find_wire(w, ESTABLISHED, &w->wire_key);
	if (wire && is_client_state(wire->life.state))
		return client_established_receives(fr, w, wire);
	wire = find_wire(w, OPENING, &w->wire_key);
	if (wire && is_client_state(wire->life.state)) {
		reason = client_opening_receives(w, wire);
		if (reason != REASON_not_ours)
			return reason;
	}
	if (is_syn_ack(p) && names_port(&p->option))
		return client_answered_again(w);
	wire = find_wire(w, CLOSED, &w->wire_key);
	if (!wire || !is_client_state(wire->life.state))
		return REASON_not_ours;
	if (is_step_1(p)) /* of one that is moved aside: its own stack's next packet takes it back */
		return REASON_client_busy;
	reach_by(w, wire);
	flow_key_of(&w->key, &w->wire_key, wire);
	return wire->life.marks & CLOSING ? closing_receives(fr) : REASON_client_receives;
}

#endif
