/* The decision chains, one a hook. parse -> decide -> rewrite: a chain reads the tables, notes at the two
 * ends what they must remember, and answers with a reason; what the packet is to say stands in work.verdict.
 *
 * Here comes what the fast path (fast.h) does not take. Whether a packet of an established connection goes
 * on, and how, both ask of the same functions: sends_reason, plainly_receives, plainly_passes_node,
 * leave_stack, reach_stack. */
#ifndef WHARFINGER_DECIDE_H
#define WHARFINGER_DECIDE_H

#include "icmp.h"
#include "netpolicy.h"

INLINE void start_verdict(struct work *w)
{
	const struct packet *p = &w->packet;

	w->event.kind = EVENT_NONE;
	w->verdict = (struct verdict){ .src = p->src,
				       .dst = p->dst,
				       .sport = p->sport,
				       .dport = p->dport,
				       .seq = p->seq,
				       .ack = p->ack,
				       .error_to = p->error_to };
}

INLINE bool is_gate_probe(const struct packet *p)
{
	return p->proto == PROTO_UDP && v4_of(&p->dst) == to_be32(GATE_ADDRESS) &&
	       p->dport == to_be16(GATE_PORT);
}

/* Makes w->wire_key that of a packet which went from (`local`) a pod's end of a connection or to it. */
INLINE void set_wire_key(struct work *w, const struct addr *local, be16 local_port, const struct addr *peer,
			 be16 peer_port)
{
	set_key(&w->wire_key, 0, v4_of(local), local_port, v4_of(peer), peer_port);
}

INLINE enum reason decide_from_pod(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;

	start_verdict(w);
	if (w->is_made)
		return step_1_leaves(w);
	if (p->option_at && !p->icmp_error)
		return REASON_forged_option;
	const struct addr sender = p->icmp_error ? addr_from_v4(p->error_from) : p->src;
	const struct pod *pod = lookup_pods(w, &sender);
	if (!pod)
		return REASON_not_attached;
	if (pod->ifindex != w->ifindex)
		return REASON_foreign_source;
	if (p->icmp_error)
		return icmp_leaves(w);
	if (is_gate_probe(p))
		return REASON_gate_opened;
	if (p->proto != PROTO_TCP)
		return REASON_not_tcp;
	w->netns = pod->netns;
	set_key(&w->key, w->ifindex, v4_of(&p->src), p->sport, v4_of(&p->dst), p->dport);
	if (pod->roles & POD_EGRESS_SELECTED) {
		enum reason reason = selected_sends(w, pod->roles);
		if (reason != REASON_none)
			return reason;
	}
	if (pod->roles & POD_SERVER) {
		enum reason reason = server_sends(f, w);
		if (reason != REASON_not_ours)
			return reason;
		start_verdict(w);
	}
	return pod->roles & POD_CLIENT ? client_sends(f, w) : REASON_not_ours;
}

/* Whether a SYN comes to a port by which the pod itself has or opens a connection with the sender. */
INLINE bool is_to_own_dial(struct work *w, u32 roles)
{
	if (!(roles & POD_CLIENT) || !is_syn(&w->packet))
		return false;
	const struct wire *wire = find_any_wire(w);
	return wire && is_client_state(wire->life.state);
}

INLINE enum reason decide_to_pod(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;
	const struct pod *pod = lookup_pods(w, p->icmp_error ? &p->src : &p->dst);

	start_verdict(w);
	if (!pod || pod->ifindex != w->ifindex)
		return REASON_not_attached;
	if (p->icmp_error)
		return icmp_returns(w, pod->roles);
	if (p->proto != PROTO_TCP)
		return REASON_not_tcp;
	w->netns = pod->netns;
	set_wire_key(w, &p->dst, p->dport, &p->src, p->sport);
	if (pod->roles & POD_SERVER && !is_to_own_dial(w, pod->roles)) {
		enum reason reason = pod->roles & POD_INGRESS_SELECTED ? selected_receives(w) : REASON_none;
		if (reason != REASON_none)
			return reason;
		reason = server_receives(f, w);
		if (reason != REASON_not_ours)
			return reason;
		start_verdict(w);
		set_wire_key(w, &p->dst, p->dport, &p->src, p->sport);
	}
	return pod->roles & POD_CLIENT ? client_receives(f, w) : REASON_not_ours;
}

/* Whether a SYN from the network begins an aware connection at a server of this node. */
INLINE enum reason net_begins(struct work *w)
{
	const struct packet *p = &w->packet;

	if (!is_aware(p)) /* the stack's, both ways */
		return REASON_not_ours;
	if (server_port_of(w, &p->dst, p->dport, 0))
		return REASON_net_service_port;
	if (p->option.scope && server_port_of(w, &p->dst, p->dport, p->option.scope))
		return REASON_net_redirect_port;
	return REASON_not_ours;
}

/* Whether a packet from the network is a connection's that a pod of this node has or opens. */
INLINE enum reason net_continues(struct work *w)
{
	const struct packet *p = &w->packet;
	const struct wire *wire = find_any_wire(w);

	if (!wire || wire->life.marks & BY_STACK)
		return REASON_not_ours;
	if (is_syn(p) && !is_aware(p) && !is_client_state(wire->life.state))
		return REASON_not_ours; /* what it begins takes the stack */
	enum reason plain = plainly_passes_node(wire);
	if (plain)
		return plain;
	switch (wire->life.state) {
	case CLIENT_OPENING:
		return answers_syn(p, wire) ? REASON_net_client : REASON_not_ours;
	case CLIENT_CLOSED:
		return REASON_net_client;
	case SERVER_OPENING:
	case SERVER_CLOSED:
	case SERVER_FOUND:
		return REASON_net_service_port;
	default: /* an unaware connection's, or nobody knows whose: the stack's */
		return REASON_not_ours;
	}
}

/* From the network: packets of aware connections go straight to the pod, so that connection tracking never
 * sees half of one. What no record confirms is the stack's to hand on; the pod's own hook translates it all
 * the same. */
INLINE enum reason decide_from_net(struct work *w)
{
	const struct packet *p = &w->packet;

	start_verdict(w);
	if (p->icmp_error) {
		const struct pod *sender = lookup_pods(w, &p->src);
		enum reason reason = sender ? icmp_returns(w, sender->roles) : REASON_not_attached;
		start_verdict(w); /* the pod's own hook translates */
		if (reason != REASON_icmp_translated)
			return reason;
		const struct wire *wire = find_any_wire(w); /* without one its packets may be the stack's */
		return wire && !(wire->life.marks & BY_STACK) ? REASON_net_client : REASON_not_ours;
	}
	if (p->proto != PROTO_TCP)
		return REASON_not_tcp;
	const struct pod *pod = lookup_pods(w, &p->dst);
	if (!pod)
		return REASON_not_attached;
	set_wire_key(w, &p->dst, p->dport, &p->src, p->sport);
	if (pod->roles & POD_SERVER) {
		enum reason reason = pod->roles & POD_INGRESS_SELECTED ? selected_receives(w) : REASON_none;
		if (reason == REASON_none && is_syn(p))
			reason = net_begins(w);
		if (reason != REASON_none && reason != REASON_not_ours)
			return reason;
	}
	enum reason reason = net_continues(w);
	if (reason == REASON_not_ours && pod->roles & POD_CLIENT && is_syn_ack(p) && names_port(&p->option))
		return REASON_net_client;
	return reason;
}

#endif
