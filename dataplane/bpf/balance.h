/* The balancer: virtual address and port to a server, by table alone. It has no memory. */
#ifndef WHARFINGER_BALANCE_H
#define WHARFINGER_BALANCE_H

#include "select.h"
#include "work.h"

struct choice {
	struct addr server;
	u32 scope;
	enum reason reason; /* client_syn or client_syn_service: chosen; anything else says why not */
};

INLINE u32 port_entry(struct work *w, const struct addr *addr, be16 port, enum reason *why)
{
	struct address_key k = { .addr = *addr, .proto = w->packet.proto };
	u32 number = from_be16(port);

	const struct address *address = lookup_addresses(w, &k);
	if (!address) {
		*why = REASON_not_virtual;
		return 0;
	}
	*why = REASON_unknown_port;
	u32 index = address->page[(number >> 8) & 0xff];
	if (!index)
		return 0;
	const struct page *page = lookup_pages(w, &index);
	return page ? page->port[number & 0xff] : 0;
}

/* A server of this node that a NetworkPolicy selects is none to go to from hook to hook: the operator takes
 * it from the sets, but may be late. */
INLINE bool is_server_selected(struct work *w, const struct addr *server)
{
	const struct pod *pod = lookup_pods(w, server);

	return pod && pod->roles & POD_INGRESS_SELECTED;
}

#define CHOICE_TRIES \
	32 /* a Maglev table repeats its members at random: of two, one is missed by 32 slots once in 2^32 \
	    */
/* A ready server that is not the client itself: the drawn slot's, or the next in the table. */
INLINE void choose_from_set(struct work *w, u32 index, struct choice *c)
{
	const struct packet *p = &w->packet;
	const struct redirect_set *set = lookup_sets(w, &index);

	c->reason = REASON_no_server;
	if (!set || !set->size || set->size > SET_SLOTS)
		return;
	u32 turn = set->policy == BALANCE_ROUND_ROBIN ? next_turn(w, index) : 0;
	u32 random = set->policy == BALANCE_RANDOM ? draw_random(w) : 0;
	u32 first = select_slot(set, connection_hash(p, &p->dst, set->scope), random, turn);

	c->scope = set->scope;
	for (u32 i = 0; i < CHOICE_TRIES; i++) {
		u32 at = (first + i) % set->size;
		if (at >= SET_SLOTS)
			return;
		u32 server_index = set->slot[at];
		const struct server *server = lookup_servers(w, &server_index);
		if (server && server->state == SERVER_READY && !is_server_selected(w, &server->addr)) {
			if (!addr_equal(&server->addr, &p->src)) {
				c->server = server->addr;
				c->reason = REASON_client_syn;
				return;
			}
			c->reason = REASON_own_server;
		}
	}
}

INLINE void choose(struct work *w, struct choice *c)
{
	const struct packet *p = &w->packet;
	u32 entry = port_entry(w, &p->dst, p->dport, &c->reason);
	u32 index = entry & ((1u << PORT_INDEX_BITS) - 1);

	switch (entry >> PORT_INDEX_BITS) {
	case PORT_SET:
		choose_from_set(w, index, c);
		return;
	case PORT_SERVER: {
		const struct server *server = lookup_servers(w, &index);
		c->reason = REASON_no_server;
		if (!server || is_server_selected(w, &server->addr))
			return;
		c->server = server->addr;
		c->scope = server->scope;
		c->reason =
			addr_equal(&server->addr, &p->src) ? REASON_own_server : REASON_client_syn_service;
		return;
	}
	default:
		return;
	}
}

#endif
