/* What a NetworkPolicy changes (docs/protocol.md, "NetworkPolicy"). A policy engine judges the packets that
 * it sees on the node, and does not see those that go from hook to hook, nor the ports that a translator
 * gives them. So what begins at a pod that a policy selects begins unaware, and what a translator would do
 * for a pod that dials past its policy is not done. Connections that began before go on. */
#ifndef WHARFINGER_NETPOLICY_H
#define WHARFINGER_NETPOLICY_H

#include "client.h"
#include "server.h"

/* What is remembered of a SYN's pair of ports, before it goes unaware by rule. */
INLINE void netpolicy_forgets(struct work *w)
{
	const struct flow *f = find_flow(w, OPENING, &w->key);

	if (!f)
		f = find_flow(w, ESTABLISHED, &w->key);
	if (f && f->life.isn == w->packet.seq && f->life.state == CLIENT_UNAWARE)
		return;
	if (f && f->life.isn == w->packet.seq) {
		w->flow = *f;
		client_gives_up(w);
	} else { /* another connection's */
		client_forgets(w);
	}
}

/* From a pod whose egress a policy selects: REASON_none when it is none of this chain's. Its engine knows a
 * service port as a number that may be allowed, not as the target port behind it. */
INLINE enum reason selected_sends(struct work *w, u32 roles)
{
	const struct packet *p = &w->packet;
	struct choice c = {};

	if (!is_syn(p))
		return REASON_none;
	if (server_port_of(w, &p->dst, p->dport, 0))
		return REASON_policy_service_port;
	if (!(roles & POD_CLIENT))
		return REASON_not_ours;
	netpolicy_forgets(w);
	choose(w, &c);
	return c.reason == REASON_client_syn || c.reason == REASON_client_syn_service ? REASON_policy_client
										      : c.reason;
}

/* Whether a packet to a service port is of a connection that began before a policy selected the server. */
INLINE bool server_knows(struct work *w)
{
	const struct wire *wire = find_any_wire(w);

	return wire && wire->life.state != SERVER_STRAY;
}

/* To a server whose ingress a policy selects: REASON_none when it is none of this chain's. An aware SYN is
 * dropped and not passed, for what came from hook to hook was judged by no engine, and a refusal would end a
 * connection that the third SYN brings up unaware. */
INLINE enum reason selected_receives(struct work *w)
{
	const struct packet *p = &w->packet;
	const struct server_port *port = server_port_of(w, &p->dst, p->dport, 0);

	if (is_syn(p)) {
		const struct option *o = &p->option;
		if (o->flags & OPTION_REDIRECT &&
		    (port || (o->scope && server_port_of(w, &p->dst, p->dport, o->scope))))
			return REASON_policy_server;
		return port ? REASON_policy_untranslated : REASON_none;
	}
	return !port || server_knows(w) ? REASON_none : REASON_policy_untranslated;
}

#endif
