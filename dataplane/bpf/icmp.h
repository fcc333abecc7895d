/* ICMP errors about packets of our connections: each comes to the stack that sent what it is about, and
 * speaks of that as that stack knows it.
 *
 * Rules:
 * - Of an error, `p` is the embedded packet; the error's own addresses are p->error_from and p->error_to.
 * - An error goes to the sender of what it embeds. One that goes elsewhere is judged as any packet, or a
 *   stranger could send it past the stack to whom he likes. */
#ifndef WHARFINGER_ICMP_H
#define WHARFINGER_ICMP_H

#include "client.h"
#include "server.h"

INLINE bool goes_to_sender(const struct packet *p) { return p->error_to == v4_of(&p->src); }

/* Whether an ICMP error about the packet of a client that opens is about its SYN: all else has the same
 * addresses and ports by chance. */
INLINE bool is_about(const struct packet *p, const struct wire *wire)
{
	u8 state = wire->life.state;

	return state == CLIENT_OPENING ? p->seq == wire->life.isn
				       : state != CLIENT_UNAWARE && state != CLIENT_CLAIMED;
}

/* An ICMP error about a packet that a translator had rewritten, on its way to that packet's sender: `p` is
 * the embedded packet. */
INLINE enum reason icmp_returns(struct work *w, u32 roles)
{
	const struct packet *p = &w->packet;

	if (!goes_to_sender(p))
		return REASON_not_ours;
	set_key(&w->wire_key, 0, v4_of(&p->src), p->sport, v4_of(&p->dst), p->dport);
	const struct wire *wire = find_any_wire(w);
	if (roles & POD_SERVER) {
		const struct server_port *port = server_port_of(w, &p->src, p->sport, 0);
		if (names_port(&p->option)) { /* a SYN+ACK from a redirect port: it names the service port */
			port = server_port_of(w, &p->src, p->option.port, 0);
			w->wire_key.local_port = p->option.port;
			wire = find_any_wire(w);
		}
		bool known = wire && !is_client_state(wire->life.state);
		if (known)
			w->verdict.dport = wire->peer_port;
		if (port)
			w->verdict.sport = port->target;
		if (port || known)
			return REASON_icmp_translated;
	}
	if (roles & POD_CLIENT && wire && is_client_state(wire->life.state) && is_about(p, wire)) {
		w->verdict.dst = addr_from_v4(wire->peer);
		w->verdict.dport = wire->peer_port;
		return REASON_icmp_translated;
	}
	return REASON_not_ours;
}

/* Whether `f` is of a connection to a server that opens, and the error about its SYN, which went to the port
 * dialled. */
INLINE bool is_about_syn(const struct packet *p, const struct flow *f)
{
	return f->life.state == SERVER_OPENING && f->life.isn == p->seq;
}

/* The flow of the packet that an error of the pod's is about; 0: none, as for another pod's. */
INLINE const struct flow *flow_of_error(struct work *w)
{
	const struct packet *p = &w->packet;

	set_key(&w->key, w->ifindex, v4_of(&p->dst), p->dport, v4_of(&p->src), p->sport);
	const struct flow *first = find_claim(w, 0), *other = find_claim(w, BESIDE);
	if (first && is_about_syn(p, first))
		return first;
	if (other && is_about_syn(p, other))
		return other;
	const struct flow *f = find_flow(w, ESTABLISHED, &w->key);
	if (!f)
		f = first ? first : other;
	return f ? f : find_flow(w, CLOSED, &w->key);
}

/* An ICMP error of the pod's about a packet that its stack was handed: it goes where an answer would, and
 * embeds what the wire had. */
INLINE enum reason icmp_leaves(struct work *w)
{
	const struct packet *p = &w->packet;
	struct verdict *v = &w->verdict;

	if (!goes_to_sender(p))
		return REASON_not_ours;
	const struct flow *f = flow_of_error(w);
	if (!f || f->life.state == CLIENT_UNAWARE)
		return REASON_not_ours;
	leave_stack(f, &v->src.word[3], &v->dport, &v->sport);
	v->error_to = v4_of(&v->src);
	if (is_about_syn(p, f))
		v->dport = f->redirect_port;
	return sends_by(f, REASON_icmp_sent);
}

#endif
