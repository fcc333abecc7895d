/* Choosing a server from a redirect set: the policy turns a connection into a slot, the set's table turns the
 * slot into a server. And of a server one of its service ports. */
#ifndef WHARFINGER_SELECT_H
#define WHARFINGER_SELECT_H

#include "packet.h"
#include "tables.h"

/* Bob Jenkins' final mix (lookup3, public domain): spreads three words over 32 bits. */
INLINE u32 mix3(u32 a, u32 b, u32 c)
{
#define ROTATE(x, k) ((x) << (k) | (x) >> (32 - (k)))
	c ^= b;
	c -= ROTATE(b, 14);
	a ^= c;
	a -= ROTATE(c, 11);
	b ^= a;
	b -= ROTATE(a, 25);
	c ^= b;
	c -= ROTATE(b, 16);
	a ^= c;
	a -= ROTATE(c, 4);
	b ^= a;
	b -= ROTATE(a, 14);
	c ^= b;
	c -= ROTATE(b, 24);
#undef ROTATE
	return c;
}

/* Of a packet that goes to `dst`: the same on every node and in every host. */
INLINE u32 connection_hash(const struct packet *p, const struct addr *dst, u32 scope)
{
	u32 ports = (u32)from_be16(p->sport) << 16 | from_be16(p->dport);
	u32 high = mix3(p->src.word[0] ^ dst->word[0], p->src.word[1] ^ dst->word[1], p->src.word[2]);

	return mix3(mix3(p->src.word[3], dst->word[3], ports), high, scope ^ p->proto);
}

/* The service port that a server names to the SYN of `p` at one of its redirect ports, 0 if it has none:
 * computed by the server, which names it, and beforehand by the client, which claims it. */
INLINE be16 select_service_port(const struct server_port *port, const struct packet *p,
				const struct addr *server)
{
	if (!port->count || port->count > SERVICE_PORTS_MAX)
		return 0;
	return port->service[connection_hash(p, server, port->scope) % port->count & (SERVICE_PORTS_MAX - 1)];
}

INLINE u32 select_slot(const struct redirect_set *set, u32 hash, u32 random, u32 turn)
{
	u32 draw = set->policy == BALANCE_HASH ? hash : set->policy == BALANCE_RANDOM ? random : turn;

	return set->size ? draw % set->size : 0;
}

#endif
