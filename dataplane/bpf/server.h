/* The server translator: the stack listens on its target port P, the wire has X while a connection opens and Y from then on
 * (docs/protocol.md, "Establishing" and "State of the ends"). A SYN makes a half-open record, which only step 3 turns into an entry,
 * so a flood of SYNs evicts nothing but its like. */
#ifndef WHARFINGER_SERVER_H
#define WHARFINGER_SERVER_H

#include "select.h"
#include "work.h"

INLINE void server_event(struct work *w, const struct flow *f, enum event_kind kind)
{
	const struct flow_key *k = &w->key; /* SERVER_STACK */

	w->event = (struct event){
		.time_ns = now_exact(w), .started_ns = f->started_ns, .established_ns = f->established_ns,
		.client = k->peer, .server = k->local, .scope = f->scope, .isn = f->isn, .ifindex = w->ifindex,
		.client_port = k->peer_port, .redirect_port = f->redirect_port, .service_port = f->service_port, .target_port = k->local_port,
		.kind = kind, .role = ROLE_SERVER, .reason = f->reason, .ends = f->ends, .proto = PROTO_TCP, .aware = f->aware,
	};
}

/* A SYN: to a service port by the port alone, to a redirect port by its scope. */
INLINE enum reason server_opens(struct work *w)
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
	if (!port) { /* a SYN to the stack itself: what we remembered of this pair of ports is over */
		set_key(&w->key, SIDE_SERVER_STACK, &p->dst, p->dport, &p->src, p->sport);
		drop_half_open(w, &w->key);
		return REASON_not_ours;
	}

	set_key(&w->key, SIDE_SERVER_STACK, &p->dst, port->target, &p->src, p->sport);
	/* A SYN that comes twice does not undo the SYN+ACK between: the stack may not repeat that before step 3. */
	const struct flow *half = find_half_open(w, &w->key);
	int again = half && half->state == FLOW_OPENING && half->isn == p->seq;
	w->flow = (struct flow){ .scope = port->scope, .isn = p->seq, .server_isn = again ? half->server_isn : 0, .redirect_port = p->dport,
				 .service_port = service_port, .state = FLOW_OPENING, .tries = again ? half->tries : 0, .aware = aware,
				 .reason = reason };
	w->flow.started_ns = w->flow.seen_ns = now_exact(w);
	put_half_open(w, &w->key, &w->flow);
	w->verdict.dport = port->target;
	w->verdict.blank = p->option_at != 0;
	return reason;
}

/* A packet to a service port of which no entry speaks. Step 3 makes the entry: any packet that acknowledges the SYN+ACK and no more, as
 * the stack has sent nothing else by then. Anything else leaves a record, and only if the stack answers it as its own does an entry come
 * of it; so does step 3 when the table is full: the connection then lives by its record. */
INLINE enum reason server_joins(struct work *w, u32 scope)
{
	const struct packet *p = &w->packet;
	struct flow *half = find_half_open(w, &w->key);

	if (half && half->state == FLOW_OPENING && half->service_port == p->dport && p->tcp_flags & TCP_ACK &&
	    !(p->tcp_flags & TCP_RST) && half->tries && p->ack == half->server_isn + 1) {
		w->flow = *half;
		w->flow.state = FLOW_ESTABLISHED;
		w->flow.established_ns = w->flow.seen_ns = now_exact(w);
		if (!put_flows(w, &w->key, &w->flow, PUT_ANY)) {
			drop_half_open(w, &w->key);
			return REASON_server_joined;
		}
		half->state = FLOW_UNENTERED;
	}
	if (!half) {
		w->flow = (struct flow){ .scope = scope, .redirect_port = p->dport, .service_port = p->dport, .state = FLOW_UNENTERED };
		w->flow.started_ns = w->flow.seen_ns = now_exact(w);
		put_half_open(w, &w->key, &w->flow);
	}
	return REASON_server_unentered;
}

/* To the pod: service port, or redirect port and scope, to the target port. */
INLINE enum reason server_receives(struct work *w)
{
	const struct packet *p = &w->packet;

	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return server_opens(w);
	const struct server_port *port = server_port_of(w, &p->dst, p->dport, 0);
	if (!port)
		return REASON_not_ours;
	w->verdict.dport = port->target;
	w->verdict.blank = p->option_at != 0;

	set_key(&w->key, SIDE_SERVER_STACK, &p->dst, port->target, &p->src, p->sport);
	struct flow *f = find_flows(w, &w->key);
	if (!f || f->service_port != p->dport || f->state == FLOW_CLOSING) {
		enum reason joined = server_joins(w, port->scope);
		if (!f || joined == REASON_server_joined)
			return joined;
	}
	f->seen_ns = now_coarse(w);
	if (p->tcp_flags & (TCP_FIN | TCP_RST) && note_end(p, f, END_PEER_FIN))
		server_event(w, f, EVENT_CLOSED);
	return REASON_server_receives;
}

INLINE enum reason server_answers(struct work *w)
{
	const struct packet *p = &w->packet;
	struct flow *half = find_half_open(w, &w->key);

	if (!half || half->state != FLOW_OPENING || p->ack != half->isn + 1)
		return REASON_not_ours;
	half->server_isn = p->seq;
	half->tries += half->tries < 255;
	w->verdict.sport = half->redirect_port;
	if (!half->aware)
		return REASON_server_answers;
	if (!has_room(p, OPTION_LEN_BARE))
		return REASON_no_room;
	w->verdict.append = (struct option){ .flags = OPTION_CONFIRM, .len = OPTION_LEN_BARE };
	if (half->service_port != half->redirect_port) {
		w->verdict.append.flags |= OPTION_PORT;
		w->verdict.append.port = half->service_port;
	}
	return REASON_server_answers;
}

/* From the pod: the target port to the port that the wire uses. Without entry or record it is nobody's business. */
INLINE enum reason server_sends(struct work *w)
{
	const struct packet *p = &w->packet;

	set_key(&w->key, SIDE_SERVER_STACK, &p->src, p->sport, &p->dst, p->dport);
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK))
		return server_answers(w);

	struct flow *f = find_flows(w, &w->key);
	if (!f) {
		const struct flow *half = find_half_open(w, &w->key);
		if (!half)
			return REASON_not_ours;
		w->verdict.sport = half->state == FLOW_UNENTERED ? half->service_port : half->redirect_port;
		if (p->tcp_flags & TCP_RST)
			return REASON_server_refuses;
		if (half->state != FLOW_UNENTERED)
			return REASON_not_ours;
		w->flow = *half;
		w->flow.state = FLOW_ESTABLISHED;
		w->flow.reason = REASON_server_rebuilt;
		if (!put_flows(w, &w->key, &w->flow, PUT_ANY))
			drop_half_open(w, &w->key);
		return REASON_server_rebuilt;
	}
	w->verdict.sport = f->service_port;
	f->seen_ns = now_coarse(w);
	if (p->tcp_flags & (TCP_FIN | TCP_RST) && note_end(p, f, END_LOCAL_FIN))
		server_event(w, f, EVENT_CLOSED);
	return REASON_server_sends;
}

#endif
