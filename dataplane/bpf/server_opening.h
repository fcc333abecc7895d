/* The server translator until step 3: a SYN makes an opening flow and wire, which only step 3 makes
 * established, so a flood of SYNs evicts nothing but its like.
 *
 * A claim is an opening flow: a connection wants this place, a pair of ports in the stack (substitute.h). A
 * place has two at most: the first SYN's, find_claim(w, 0), and beside it the latest other's, find_claim(w,
 * BESIDE): another SYN's (SERVER_OPENING), or what a packet without a SYN left (SERVER_FOUND, SERVER_STRAY).
 * Numbers tell whose a packet is:
 *   the stack's SYN+ACK      acknowledges_syn
 *   the client's ACK         is_step_3: it acknowledges the SYN+ACK that the claim noted
 *   all else of the stack    speaks_for
 * The one that becomes established drops both (server_enters). The first may be the pod's own dial, as both
 * roles share the tables: then it is no claim. What a client has "claimed" is another thing (tables.h). */
#ifndef WHARFINGER_SERVER_OPENING_H
#define WHARFINGER_SERVER_OPENING_H

#include "ends.h"
#include "substitute.h"

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

INLINE bool is_syns_claim(const struct flow *claim, u32 isn)
{
	return claim && claim->life.state == SERVER_OPENING && claim->life.isn == isn;
}

/* Whether a number acknowledges the SYN of a claim that opens, with its data or without. */
INLINE bool acknowledges_syn(const struct flow *claim, u32 ack)
{
	u32 beyond = ack - claim->life.isn - 1;

	return claim->life.state == SERVER_OPENING && (!beyond || beyond == claim->syn_payload);
}

INLINE void drop_other_claim(struct work *w)
{
	if (!find_claim(w, BESIDE)) /* as nearly always; a look-up takes no lock */
		return;
	w->key.ifindex |= BESIDE;
	drop_flow(w, OPENING, &w->key);
	w->key.ifindex &= ~BESIDE;
}

/* Notes that a connection opens at the place w->key, as w->flow has it, and lets the stack see it so. */
INLINE void server_notes_opening(struct work *w, u32 beside)
{
	const struct packet *p = &w->packet;

	w->flow.client_port = p->sport;
	w->flow.seen = stamp_now(w);
	w->flow.started_ns = now_exact(w);
	wire_key_of(&w->wire_key, &w->key, &w->flow);
	const struct wire *first = beside ? find_wire(w, OPENING, &w->wire_key) : 0;
	if (!first || !leads_to(first, &w->key)) {
		w->wire = wire_to(&w->key, &w->flow);
		put_wire(w, OPENING, &w->wire_key, &w->wire);
	}
	w->key.ifindex |= beside;
	put_flow(w, OPENING, &w->key, &w->flow);
	w->key.ifindex &= ~BESIDE;
	w->verdict.dport = w->key.local_port;
	w->verdict.sport = w->key.peer_port;
	w->verdict.blank = p->option_at != 0;
}

/* Notes what a SYN at the place w->key began, as w->flow has it. One that comes twice does not undo the
 * SYN+ACK between: the stack may not repeat that before step 3. */
INLINE void server_notes_syn(struct work *w)
{
	u32 isn = w->packet.seq;
	const struct flow *first = find_claim(w, 0);

	w->flow.syn_payload = w->packet.payload;
	bool other = first && first->life.state == SERVER_OPENING && first->life.isn != isn;
	const struct flow *same = other ? find_claim(w, BESIDE) : first;

	if (is_syns_claim(same, isn)) {
		w->flow.server_isn = same->server_isn;
		w->flow.life.tries = same->life.tries;
		if (same->syn_payload) /* which does not come again */
			w->flow.syn_payload = same->syn_payload;
	}
	server_notes_opening(w, other ? BESIDE : 0);
}

/* A SYN to the stack itself. Its pair of ports may be a connection's of ours, which the dialler cannot know,
 * so it gets a substitute as ours would. That the stack is not seen to have an established connection does
 * not say that it has none; what only opened, or is closed, and is not there is over. */
INLINE enum reason server_dialled(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;
	be16 target = p->dport;

	if (!find_former_place(fr, w, target)) {
		set_place(w, target, p->sport);
		const struct flow *f = find_flow(w, ESTABLISHED, &w->key), *claim = find_claim(w, 0);
		if ((f && is_client_state(f->life.state)) || (claim && is_client_state(claim->life.state)))
			return REASON_not_ours; /* where the pod itself dials */
		/* The client tries unaware what it began aware: to the stack it is the same connection. */
		bool again = is_syns_claim(claim, p->seq) || is_syns_claim(find_claim(w, BESIDE), p->seq);
		bool was = (claim && claim->life.state == SERVER_OPENING) || find_flow(w, CLOSED, &w->key);
		if (again || !(f || (was && stack_has(fr, w, &w->key)))) {
			forget(w, OPENING);
			drop_other_claim(w);
			return REASON_not_ours;
		}
		if (!find_substitute(fr, w))
			return REASON_not_ours;
	}
	w->flow = (struct flow){ .life = { .state = SERVER_OPENING,
					   .marks = BY_STACK,
					   .reason = REASON_server_direct,
					   .isn = p->seq },
				 .redirect_port = p->dport,
				 .wire_port = p->dport };
	server_notes_syn(w);
	return REASON_server_direct;
}

/* A SYN: to a redirect port by its scope, to a service port by the port alone. The scope comes first: the
 * number may be another pool's service port. */
INLINE enum reason server_opens(frame *fr, struct work *w)
{
	const struct packet *p = &w->packet;
	bool aware = is_aware(p);
	const struct server_port *port =
		aware && p->option.scope ? server_port_of(w, &p->dst, p->dport, p->option.scope) : 0;
	enum reason reason = REASON_server_syn;
	be16 service_port = p->dport;
	u8 marks = aware ? AWARE : BY_STACK; /* as this SYN came */

	if (port) {
		service_port = select_service_port(port, p, &p->dst);
		if (!service_port)
			return REASON_not_ours;
	} else {
		port = server_port_of(w, &p->dst, p->dport, 0);
		reason = REASON_server_syn_service;
	}
	if (!port)
		return server_dialled(fr, w);
	set_place(w, p->dport, p->sport);
	if (!aware && port->target != p->dport && ask_stack(fr, w, &w->key, &w->numbers) != SOCKET_NONE)
		return REASON_not_ours; /* an application of the pod's own is at that number */

	w->wire_key.local_port = service_port;
	if (!find_place(fr, w, port->target))
		return REASON_server_no_substitute;
	w->flow = (struct flow){
		.life = { .state = SERVER_OPENING, .marks = marks, .reason = reason, .isn = p->seq },
		.scope = port->scope,
		.redirect_port = p->dport,
		.wire_port = service_port
	};
	if (aware && setting(w, SETTING_FULL) && !find_claim(w, 0))
		return REASON_server_full;
	server_notes_syn(w);
	return reason;
}

/* Makes the connection of w->key, whose claim this is, an established one: when there is no room it
 * lives among the closed ones. Returns: `reason`, or that there was no room. */
INLINE enum reason server_enters(struct work *w, const struct flow *claim, enum reason reason)
{
	w->flow = *claim;
	w->flow.life.state = SERVER_ESTABLISHED;
	w->flow.seen = 0;
	if (enter(w, ESTABLISHED)) {
		enter(w, CLOSED);
		reason = REASON_server_no_room;
	}
	drop_flow(w, OPENING, &w->key);
	drop_other_claim(w);
	drop_wire(w, OPENING, &w->wire_key);
	return reason;
}

/* Whether a whole socket would take this packet as one of its peer's: the next in order, or one that it has
 * had, which it answers with an acknowledgement (RFC 9293, RFC 5961). */
INLINE bool is_acceptable(const struct packet *p, const struct numbers *n)
{
	if (p->tcp_flags & TCP_RST)
		return p->seq == n->expects;
	return p->tcp_flags & TCP_ACK && p->ack - n->unacknowledged <= n->next - n->unacknowledged &&
	       n->expects - p->seq < NEAR;
}

/* A packet to a service port of which no record speaks, for the place w->key. One that the stack's connection
 * takes leaves a record, by which that is entered when the stack answers. One that it does not take is
 * dropped, for the connection may be none of ours. If the stack has none yet it may be the end of a handshake
 * whose record was evicted, or of a SYN cookie's: the record keeps its number. `marks`: BY_STACK, or none. */
INLINE enum reason server_meets(frame *fr, struct work *w, u32 scope, u8 marks)
{
	const struct packet *p = &w->packet;
	enum socket_seen seen = ask_stack(fr, w, &w->key, &w->numbers);

	if (seen == SOCKET_WHOLE && !is_acceptable(p, &w->numbers))
		return REASON_server_stray;
	w->flow = (struct flow){
		.scope = scope, .server_isn = p->ack - 1, .redirect_port = p->dport, .wire_port = p->dport
	};
	w->flow.life.state = seen == SOCKET_WHOLE ? SERVER_FOUND : SERVER_STRAY;
	w->flow.life.marks = marks;
	server_notes_opening(w, BESIDE);
	return REASON_server_unentered;
}

/* Whether a packet is step 3 of a claim: it acknowledges the SYN+ACK and no more, as the stack has sent
 * nothing else by then. */
INLINE bool is_step_3(const struct packet *p, const struct flow *claim)
{
	return claim && claim->life.state == SERVER_OPENING && claim->wire_port == p->dport &&
	       claim->life.tries && (p->tcp_flags & (TCP_ACK | TCP_RST | TCP_SYN)) == TCP_ACK &&
	       p->ack == claim->server_isn + 1;
}

/* A packet that is step 3 of `claim`, which it establishes. It may be the client's last as well. */
INLINE enum reason server_joins(frame *fr, struct work *w, struct flow *claim)
{
	claim->established_us = (u32)((now_exact(w) - claim->started_ns) / 1000) | 1;
	enum reason reason = server_enters(w, claim, REASON_server_joined);
	struct flow *f = w->packet.tcp_flags & TCP_FIN ? find_flow(w, ESTABLISHED, &w->key) : 0;
	if (f)
		wire_ends(fr, w, f);
	return reason;
}

/* A packet to a service port, of a connection that opens: `wire` leads to its place. What is no claim's step
 * 3 may be that of a SYN cookie, which the stack makes anew from time to time. */
INLINE enum reason server_opening_receives(frame *fr, struct work *w, const struct wire *wire)
{
	const struct packet *p = &w->packet;

	flow_key_of(&w->key, &w->wire_key, wire);
	struct flow *first = find_claim(w, 0), *other = find_claim(w, BESIDE);
	const struct flow *claim = first && is_of_wire(first, &w->wire_key) ? first : other;
	if (!claim || !is_of_wire(claim, &w->wire_key)) {
		drop_wire(w, OPENING, &w->wire_key);
		return REASON_not_ours;
	}
	reach_by(w, wire);
	struct flow *joins = is_step_3(p, first) ? first : is_step_3(p, other) ? other : 0;
	if (joins)
		return server_joins(fr, w, joins);
	if ((p->tcp_flags & (TCP_ACK | TCP_RST | TCP_SYN)) != TCP_ACK)
		return REASON_server_unentered;
	if (find_wire(w, CLOSED, &w->wire_key))
		return REASON_not_ours; /* of the one before, which lives among the closed ones */
	return server_meets(fr, w, claim->scope, claim->life.marks & BY_STACK);
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
	union life life = f->life;

	set_tries(&f->life, life.tries + (life.tries < 255));
	if (!(life.marks & FIN_SEEN)) /* else its place is taken, and nobody asks for it any more */
		f->server_isn = p->seq;
	note_sending(w, f);
	server_speaks(w, f, f->redirect_port);
	if (life.marks & BY_STACK)
		return sends_by(f, REASON_none);
	if (!(life.marks & AWARE) || p->payload || !has_room(p, OPTION_LEN_BARE))
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

/* The claim that a SYN+ACK of the stack's is for; 0: for none. The stack has taken that one up: it is the
 * first from now on, so that no other SYN takes its record. */
INLINE struct flow *claim_taken_up(struct work *w)
{
	u32 ack = w->packet.ack;
	struct flow *first = find_claim(w, 0), *other = find_claim(w, BESIDE);

	if (first && acknowledges_syn(first, ack))
		return first;
	if (!other || !acknowledges_syn(other, ack))
		return 0;
	w->flow = *other;
	put_flow(w, OPENING, &w->key, &w->flow);
	drop_other_claim(w);
	return find_claim(w, 0);
}

/* A SYN+ACK: of a claim that the stack takes up, or once more of one that step 3 has made established, when
 * the stack could not take step 3. Any other says that the stack has given the pair of ports to a connection
 * that is none of ours. */
INLINE enum reason server_answers(struct work *w)
{
	struct flow *f = claim_taken_up(w);
	bool opens = f;

	if (!opens) {
		f = find_flow(w, ESTABLISHED, &w->key);
		if (!f)
			f = find_flow(w, CLOSED, &w->key);
	}
	bool again = !opens && f && f->life.state == SERVER_ESTABLISHED && f->life.isn == w->packet.ack - 1;
	if (!again) { /* the stack has opened this pair of ports once more */
		forget(w, ESTABLISHED);
		forget(w, CLOSED);
	}
	return opens || again ? server_names_port(w, f) : REASON_not_ours;
}

/* Whether the RST of a stack answers the SYN of this claim. */
INLINE bool refuses_syn(const struct packet *p, const struct flow *claim)
{
	return p->tcp_flags & TCP_ACK && !p->seq && acknowledges_syn(claim, p->ack);
}

/* Whether what the stack sends is of this claim: its numbers go on from the claim's. What is found needs no
 * numbers, for the stack took its packet. */
INLINE bool speaks_for(const struct packet *p, const struct flow *claim)
{
	if (!claim || is_client_state(claim->life.state))
		return false;
	u32 beyond = p->seq - claim->server_isn - 1;
	bool next = !beyond;
	if (claim->life.state == SERVER_STRAY)
		return next;
	if (claim->life.state == SERVER_FOUND)
		return true;
	if (claim->syn_payload) /* whose server may send before step 3 */
		next = beyond < NEAR;
	next &= claim->life.tries != 0;
	return p->tcp_flags & TCP_RST ? next || refuses_syn(p, claim)
				      : next && acknowledges_syn(claim, p->ack);
}

/* What the stack sends, and `claim` speaks for. What is entered by a stray packet goes on from the number
 * that it acknowledged. */
INLINE enum reason server_opening_sends(frame *fr, struct work *w, const struct flow *claim)
{
	const struct packet *p = &w->packet;
	bool opening = claim->life.state == SERVER_OPENING;

	if (p->tcp_flags & TCP_RST) {
		bool refuses = opening && refuses_syn(p, claim);
		server_speaks(w, claim, refuses ? claim->redirect_port : claim->wire_port);
		if (refuses && claim->life.marks & AWARE && !p->payload && has_room(p, OPTION_LEN_BARE))
			w->verdict.append =
				(struct option){ .flags = OPTION_CONFIRM, .len = OPTION_LEN_BARE };
		return sends_by(claim, REASON_server_refuses);
	}
	/* From where the client is by now. One that dials anew refuses it there, and so ends the old try. */
	server_speaks(w, claim, claim->wire_port);
	if (opening)
		return sends_by(claim, REASON_server_opening);
	/* TIME_WAIT repeats its last word; that is no connection to enter. */
	if (ask_stack(fr, w, &w->key, &w->numbers) == SOCKET_PART)
		return sends_by(claim, REASON_server_sends);
	w->flow = *claim;
	w->flow.life.reason = REASON_server_rebuilt;
	enum reason reason = sends_by(claim, REASON_server_rebuilt);
	server_enters(w, &w->flow, reason);
	struct flow *f = p->tcp_flags & TCP_FIN ? find_flow(w, ESTABLISHED, &w->key) : 0;
	if (f)
		own_stack_ends(fr, w, f);
	return reason;
}

#endif
