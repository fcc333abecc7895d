/* The fast path: a packet with data or acknowledgements of an established connection, read and written where
 * it lies.
 *
 * What it decides and writes, it decides and writes by the functions that the chains use (flows.h,
 * rewrite.h); what it does not know it leaves to the chains, untouched. tests/vectors runs both on every
 * vector and on random packets. */
#ifndef WHARFINGER_FAST_H
#define WHARFINGER_FAST_H

#include "flows.h"
#include "rewrite.h"

/* The headers of a packet that the fast path takes, as they lie in the frame: no IP options, and of TCP's
 * options none, or first what Linux writes on a connection with timestamps. */
struct fast_headers {
	u8 link[ETH_TYPE];
	be16 ethertype;
	u8 version, service;
	be16 total, id, fragment;
	u8 ttl, proto;
	be16 sum;
	be32 src, dst;
	be16 sport, dport;
	be32 seq, acks;
	u8 offset, flags;
	be16 window, tcp_sum, urgent;
} __attribute__((packed));
ASSERT_SIZE(struct fast_headers, ETH_LEN + IPV4_LEN + TCP_LEN);

enum { OFFSET_BARE = 5 << 4, OFFSET_TIMESTAMPS = 8 << 4 }; /* bare, or with TIMESTAMPS_ONLY */

/* Whether the fast path may take it. `options`: the first word behind the headers, `len`: of the whole
 * frame. */
INLINE bool is_fast(const struct fast_headers *h, be32 options, u32 len)
{
	u32 total = from_be16(h->total);
	bool bare = h->offset == OFFSET_BARE;

	return h->ethertype == to_be16(ETHERTYPE_IPV4) && h->version == 0x45 && h->proto == PROTO_TCP &&
	       !(h->fragment & to_be16(IP_IS_FRAGMENT)) &&
	       (h->flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK)) == TCP_ACK &&
	       (bare || (h->offset == OFFSET_TIMESTAMPS && options == to_be32(TIMESTAMPS_ONLY))) &&
	       total >= IPV4_LEN + (bare ? TCP_LEN : TCP_LEN + TIMESTAMPS_ALIGNED) && total + ETH_LEN <= len;
}

/* What becomes of a packet on the fast path. `reason` REASON_none: the chains decide. */
struct fast_verdict {
	be32 src, dst;
	be16 sport, dport;
	enum reason reason;
};

INLINE struct fast_verdict fast_unchanged(const struct fast_headers *h)
{
	return (struct fast_verdict){ .src = h->src, .dst = h->dst, .sport = h->sport, .dport = h->dport };
}

INLINE bool has_payload(const struct fast_headers *h)
{
	return from_be16(h->total) > IPV4_LEN + (h->offset >> 4) * 4;
}

/* Notes what a client's data acknowledges, as follow (flows.h) does. */
INLINE struct fast_verdict fast_sends(const struct fast_headers *h, struct flow *f)
{
	struct fast_verdict v = fast_unchanged(h);

	v.reason = plainly_sends(f);
	if (f->life.state == CLIENT_ESTABLISHED && has_payload(h)) {
		if (f->life.tries == NOT_FOLLOWED)
			v.reason = REASON_none;
		else
			f->request_ack = from_be32(h->acks);
	}
	leave_stack(f, &v.dst, &v.sport, &v.dport);
	return v;
}

INLINE struct fast_verdict fast_receives(struct work *w, const struct fast_headers *h,
					 const struct wire *wire)
{
	struct fast_verdict v = fast_unchanged(h);

	v.reason = plainly_receives(w, wire);
	reach_stack(wire, &v.src, &v.sport, &v.dport);
	return v;
}

/* On its way to a pod of this node: unchanged, for the pod's own hook translates. */
INLINE struct fast_verdict fast_passes_node(const struct fast_headers *h, const struct wire *wire)
{
	struct fast_verdict v = fast_unchanged(h);

	v.reason = plainly_passes_node(wire);
	return v;
}

/* Makes the packet say what the verdict says; `hops`: 1 when it leaves as a router's packet would. 0, or an
 * error: it must not go on. */
INLINE int fast_write(frame *f, struct fast_headers *h, const struct fast_verdict *v, u8 hops)
{
	const u32 tcp_sum = ETH_LEN + IPV4_LEN + TCP_SUM;
	be32 was = ports_of(h->sport, h->dport), is = ports_of(v->sport, v->dport);
	bool moved = h->src != v->src || h->dst != v->dst;
	u32 addresses = sum_change(sum_change(0, h->src, v->src), h->dst, v->dst);
	u32 sum = sum_change((u16)~h->sum, to_be32((u32)hops << 24), addresses);

	h->sum = (be16)(u16)~sum_fold(sum);
	h->ttl -= hops;
	h->src = v->src;
	h->dst = v->dst;
	h->sport = v->sport;
	h->dport = v->dport;
	if (moved && pkt_sum(f, tcp_sum, addresses, SUM_PSEUDO))
		return -1;
	return was != is ? pkt_sum(f, tcp_sum, sum_change(0, was, is), 0) : 0;
}

/* The flow of what a pod's stack sends, of the established ones alone (lookup_NAME: tables.h); 0: not for the
 * fast path. */
INLINE struct flow *fast_flow(struct work *w, u32 ifindex, const struct fast_headers *h, struct flow_key *k)
{
	set_key(k, ifindex, h->src, h->sport, h->dst, h->dport);
	return lookup_flows(w, k);
}

/* The wire of what goes to a pod, likewise; 0: not for the fast path. */
INLINE struct wire *fast_wire(struct work *w, const struct fast_headers *h)
{
	struct flow_key k;

	set_key(&k, 0, h->dst, h->dport, h->src, h->sport);
	return lookup_wires(w, &k);
}

#endif
