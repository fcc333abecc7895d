/* The decision chains, one a hook. parse -> decide -> rewrite: a chain reads the tables, notes at the two ends what they must remember,
 * and answers with a reason; what the packet shall say stands in work.verdict. */
#ifndef WHARFINGER_DECIDE_H
#define WHARFINGER_DECIDE_H

#include "policy.h"

INLINE void start_verdict(struct work *w)
{
	const struct packet *p = &w->packet;

	w->event.kind = EVENT_NONE;
	w->verdict = (struct verdict){ .src = p->src, .dst = p->dst, .sport = p->sport, .dport = p->dport };
}

INLINE int is_gate_probe(const struct packet *p)
{
	return p->proto == PROTO_UDP && p->dst.word[3] == to_be32(GATE_ADDRESS) && p->dport == to_be16(GATE_PORT);
}

/* An ICMP error about a packet that a translator had rewritten, on its way to that packet's sender: `p` is the embedded packet. */
INLINE enum reason icmp_returns(struct work *w, u32 roles)
{
	const struct packet *p = &w->packet;

	if (roles & POD_SERVER) {
		const struct server_port *port = server_port_of(w, &p->src, p->sport, 0);
		be16 at = p->sport;
		if (!port && names_port(&p->option)) { /* a SYN+ACK from a redirect port: it names the service port */
			at = p->option.port;
			port = server_port_of(w, &p->src, at, 0);
		}
		be16 known = substitute_of(w, &p->src, at, port ? port->target : at, &p->dst, p->dport);
		if (known)
			w->verdict.dport = known;
		if (port)
			w->verdict.sport = port->target;
		if (port || known)
			return REASON_icmp_translated;
	}
	if (roles & POD_CLIENT) {
		set_key(&w->wire, SIDE_CLIENT_WIRE, &p->src, p->sport, &p->dst, p->dport);
		const struct flow *wire = find_flows(w, &w->wire);
		if (wire) {
			w->verdict.dst = wire->other;
			w->verdict.dport = wire->redirect_port;
			return REASON_icmp_translated;
		}
	}
	return REASON_not_ours;
}

INLINE enum reason decide_from_pod(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;

	start_verdict(w);
	if (p->icmp_error)
		return REASON_not_ours;
	if (p->option_at)
		return REASON_forged_option;
	const struct pod *pod = find_pods(w, &p->src);
	if (!pod)
		return REASON_not_attached;
	if (pod->ifindex != w->ifindex)
		return REASON_foreign_source;
	if (is_gate_probe(p))
		return REASON_gate_opened;
	if (p->proto != PROTO_TCP)
		return REASON_not_tcp;
	w->netns = pod->netns;
	if (pod->roles & POD_EGRESS_SELECTED) {
		enum reason reason = policed_sends(w, pod->roles);
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

INLINE enum reason decide_to_pod(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;
	const struct pod *pod = find_pods(w, p->icmp_error ? &p->src : &p->dst);

	start_verdict(w);
	if (!pod || pod->ifindex != w->ifindex)
		return REASON_not_attached;
	if (p->icmp_error)
		return icmp_returns(w, pod->roles);
	if (p->proto != PROTO_TCP)
		return REASON_not_tcp;
	w->netns = pod->netns;
	if (pod->roles & POD_SERVER) {
		enum reason reason = pod->roles & POD_INGRESS_SELECTED ? policed_receives(w) : REASON_none;
		if (reason != REASON_none)
			return reason;
		reason = server_receives(f, w);
		if (reason != REASON_not_ours)
			return reason;
	}
	return pod->roles & POD_CLIENT ? client_receives(f, w) : REASON_not_ours;
}

/* From the network: packets of aware connections go straight to the pod, so that connection tracking never sees half of one. */
INLINE enum reason decide_from_net(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;

	start_verdict(w);
	if (p->icmp_error) {
		const struct pod *sender = find_pods(w, &p->src);
		enum reason reason = sender ? icmp_returns(w, sender->roles) : REASON_not_attached;
		start_verdict(w); /* the pod's own hook translates */
		return reason == REASON_icmp_translated ? REASON_net_client : reason;
	}
	if (p->proto != PROTO_TCP)
		return REASON_not_tcp;
	const struct pod *pod = find_pods(w, &p->dst);
	if (!pod)
		return REASON_not_attached;
	if (pod->roles & POD_SERVER) {
		enum reason reason = pod->roles & POD_INGRESS_SELECTED ? policed_receives(w) : REASON_none;
		if (reason != REASON_none)
			return reason;
		if (server_port_of(w, &p->dst, p->dport, 0))
			return REASON_net_service_port;
		if (p->option.flags & OPTION_REDIRECT && p->option.scope && server_port_of(w, &p->dst, p->dport, p->option.scope))
			return REASON_net_redirect_port;
	}
	if (pod->roles & POD_CLIENT) {
		set_key(&w->wire, SIDE_CLIENT_WIRE, &p->dst, p->dport, &p->src, p->sport);
		if (find_flows(w, &w->wire) || ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && names_port(&p->option)))
			return REASON_net_client;
	}
	return REASON_not_ours;
}

#endif
