/* Making the packet say what the verdict says. Written once over three primitives that each host gives:
 *   pkt_store(f, at, bytes, len)   pkt_sum(f, at, difference, flags)   pkt_resize(f, len)
 * each answers 0, or an error; `f` is the packet in its host's own form. Checksums change by the ones'
 * complement difference of what changed (RFC 1624), so partial (offloaded) ones stay right: SUM_PSEUDO marks
 * the pseudo-header's share, the only one that they have in them. The IP header is written as a whole, for
 * each call of a primitive costs more than the bytes that it carries. */
#ifndef WHARFINGER_REWRITE_H
#define WHARFINGER_REWRITE_H

#include "parse.h"
#include "work.h"

#define SUM_PSEUDO 0x10 /* BPF_F_PSEUDO_HDR */

/* `sum` with `to` in place of `from`: words as they lie in memory, as this sum does not care for byte
 * order. */
INLINE u32 sum_change(u32 sum, u32 from, u32 to)
{
	u64 wide = (u64)sum + (u32)~from + to;

	wide = (wide & 0xffffffff) + (wide >> 32);
	return (u32)((wide & 0xffffffff) + (wide >> 32));
}

INLINE u16 sum_fold(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)((sum & 0xffff) + (sum >> 16));
}

INLINE be32 raw_at(const struct headers *h, u32 at) { return to_be32(u32_at(h, at)); }

/* An IP header (without its options) with other addresses, `grown` bytes more in all, and `hops` fewer to
 * live. */
INLINE int rewrite_ip(frame *f, struct work *w, u32 at, be32 src, be32 dst, u32 grown, u32 hops)
{
	const struct headers *h = &w->headers;
	be32 was[5], is[5];

	for (u32 i = 0; i < 5; i++)
		is[i] = was[i] = raw_at(h, at + i * 4);
	is[0] = to_be32(from_be32(was[0]) + grown);
	is[2] = to_be32(from_be32(was[2]) - (hops << 24));
	is[3] = src;
	is[4] = dst;
	u32 sum = (u16)~to_be16(u16_at(h, at + IP_SUM));
	sum = sum_change(sum, was[0], is[0]);
	sum = sum_change(sum, was[2], is[2]);
	sum = sum_change(sum, was[3], is[3]);
	sum = sum_change(sum, was[4], is[4]);
	u16 checksum = from_be16((be16)(u16)~sum_fold(sum));
	is[2] = to_be32((from_be32(is[2]) & 0xffff0000) | checksum);
	return pkt_store(f, at, is, sizeof is);
}

INLINE be32 ports_of(be16 sport, be16 dport)
{
	return to_be32((u32)from_be16(sport) << 16 | from_be16(dport));
}

/* Our option becomes NOPs. `sum`: the TCP checksum's difference so far. */
INLINE int rewrite_blank(frame *f, struct work *w, u32 *sum)
{
	const struct packet *p = &w->packet;
	const be32 nops = to_be32(0x01010101);

	for (u32 i = 0; i < OPTION_LEN_ORIGIN; i += 4) {
		if (i >= p->option.len)
			break;
		*sum = sum_change(*sum, raw_at(&w->headers, p->option_at + i), nops);
		if (pkt_store(f, p->option_at + i, &nops, 4))
			return -1;
	}
	return 0;
}

/* Writes our option at `at`. `sum`: the TCP checksum's difference so far. */
INLINE int store_option(frame *f, u32 at, const struct option *o, u32 *sum)
{
	be32 word[4] = {
		to_be32((u32)OPTION_KIND << 24 | (u32)o->len << 16 | OPTION_EXID),
		to_be32((u32)o->flags << 24 | OPTION_VERSION << 16 | from_be16(o->port)),
		to_be32(o->scope),
		to_be32(o->origin),
	};

	for (u32 i = 0; i < OPTION_LEN_ORIGIN / 4; i++) {
		if (i * 4 >= o->len)
			break;
		*sum = sum_change(*sum, 0, word[i]);
		if (pkt_store(f, at + i * 4, &word[i], 4))
			return -1;
	}
	return 0;
}

/* Our option after the others, at the end of a packet without data. */
INLINE int rewrite_append(frame *f, struct work *w, u32 *sum)
{
	const struct packet *p = &w->packet;
	const struct option *o = &w->verdict.append;
	u32 end = p->l4 + p->tcp_len;
	be32 offset = raw_at(&w->headers, p->l4 + TCP_OFFSET),
	     longer = to_be32(from_be32(offset) + ((u32)o->len / 4 << 28));

	if (pkt_resize(f, end + o->len) || store_option(f, end, o, sum))
		return -1;
	*sum = sum_change(*sum, offset, longer);
	return pkt_store(f, p->l4 + TCP_OFFSET, &longer, 4);
}

/* The packet inside an ICMP error: its own checksum and its addresses change by opposite amounts, so the ICMP
 * checksum only feels the ports. */
INLINE int rewrite_embedded(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;
	const struct verdict *v = &w->verdict;
	be32 was = ports_of(p->sport, p->dport), is = ports_of(v->sport, v->dport);

	if (rewrite_ip(f, w, p->inner_l3, v->src.word[3], v->dst.word[3], 0, 0))
		return -1;
	return was != is && (pkt_sum(f, p->l4 + ICMP_SUM, sum_change(0, was, is), 0) ||
			     pkt_store(f, p->inner_l4 + TCP_SPORT, &is, 4));
}

/* The numbers become the verdict's. */
ALONE int rewrite_numbers(frame *f)
{
	struct work *w = work_of(f);

	if (!w)
		return -1;
	const struct packet *p = &w->packet;
	be32 was[2] = { to_be32(p->seq), to_be32(p->ack) },
	     is[2] = { to_be32(w->verdict.seq), to_be32(w->verdict.ack) };
	u32 sum = sum_change(sum_change(0, was[0], is[0]), was[1], is[1]);

	return pkt_store(f, p->l4 + TCP_SEQ, is, sizeof is) || pkt_sum(f, p->l4 + TCP_SUM, sum, 0) ? -1 : 0;
}

/* `hops`: 1 when it leaves as a router's packet would. 0, or not: the packet may be half changed and must not
 * go on. */
INLINE int rewrite(frame *f, struct work *w, u32 hops)
{
	const struct packet *p = &w->packet;
	const struct verdict *v = &w->verdict;
	be32 src = v->src.word[3], dst = v->dst.word[3], was = ports_of(p->sport, p->dport),
	     is = ports_of(v->sport, v->dport);
	u32 sum = 0, pseudo = 0;

	if (p->icmp_error) {
		if ((hops || v->error_to != p->error_to) &&
		    rewrite_ip(f, w, p->l3, p->error_from, v->error_to, 0, hops))
			return -1;
		return rewrite_embedded(f, w);
	}
	if (v->append.len && rewrite_append(f, w, &sum))
		return -1;
	if (v->blank && rewrite_blank(f, w, &sum))
		return -1;
	if (was != is) {
		sum = sum_change(sum, was, is);
		if (pkt_store(f, p->l4 + TCP_SPORT, &is, 4))
			return -1;
	}
	if ((v->seq != p->seq || v->ack != p->ack) && rewrite_numbers(f))
		return -1;
	pseudo = sum_change(pseudo, p->src.word[3], src);
	pseudo = sum_change(pseudo, p->dst.word[3], dst);
	pseudo = sum_change(pseudo, to_be16(p->tcp_len), to_be16((u16)(p->tcp_len + v->append.len)));
	if ((src != p->src.word[3] || dst != p->dst.word[3] || v->append.len) &&
	    pkt_sum(f, p->l4 + TCP_SUM, pseudo, SUM_PSEUDO))
		return -1;
	if ((was != is || v->append.len || v->blank) && pkt_sum(f, p->l4 + TCP_SUM, sum, 0))
		return -1;
	return rewrite_ip(f, w, p->l3, src, dst, v->append.len, hops);
}

/* Link addresses change places: the frame goes back the way it came. */
INLINE int rewrite_link(frame *f, struct work *w)
{
	u8 mac[12];

	for (int i = 0; i < ETH_SRC; i++) {
		mac[i] = w->headers.byte[ETH_SRC + i];
		mac[ETH_SRC + i] = w->headers.byte[i];
	}
	return pkt_store(f, 0, mac, sizeof mac);
}

#define MADE_TTL 64
/* The packet becomes verdict.answer, between the ends that the verdict names, with verdict.append. */
INLINE int rewrite_segment(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;
	const struct verdict *v = &w->verdict;
	const struct segment *a = &v->answer;
	u32 options = (a->timestamps ? TIMESTAMPS_ALIGNED : 0) + v->append.len, len = TCP_LEN + options;
	u32 total = p->l4 - p->l3 + len, sum = 0, pseudo = 0, at = p->l4 + TCP_LEN;
	be32 word[5] = { ports_of(v->sport, v->dport), to_be32(a->seq), to_be32(a->ack),
			 to_be32(len / 4 << 28 | (u32)a->flags << 16 | a->window), 0 };
	be32 stamps[3] = { to_be32(TIMESTAMPS_ONLY), to_be32(a->value), to_be32(a->echo) };

	if (pkt_resize(f, p->l4 + len) || pkt_store(f, p->l4, word, sizeof word))
		return -1;
	for (u32 i = 0; i < 5; i++)
		sum = sum_change(sum, 0, word[i]);
	if (a->timestamps) {
		for (u32 i = 0; i < 3; i++)
			sum = sum_change(sum, 0, stamps[i]);
		if (pkt_store(f, at, stamps, sizeof stamps))
			return -1;
		at += TIMESTAMPS_ALIGNED;
	}
	if (v->append.len && store_option(f, at, &v->append, &sum))
		return -1;
	pseudo = sum_change(pseudo, 0, v->src.word[3]);
	pseudo = sum_change(pseudo, 0, v->dst.word[3]);
	pseudo = sum_change(pseudo, 0, to_be32(PROTO_TCP << 16 | len));
	if (pkt_sum(f, p->l4 + TCP_SUM, pseudo, SUM_PSEUDO) || pkt_sum(f, p->l4 + TCP_SUM, sum, 0))
		return -1;
	return rewrite_ip(f, w, p->l3, v->src.word[3], v->dst.word[3],
			  total - u16_at(&w->headers, p->l3 + IP_TOTAL), p->ttl - MADE_TTL);
}

/* As rewrite_segment, back the way that the packet came. */
INLINE int rewrite_answer(frame *f, struct work *w) { return rewrite_link(f, w) || rewrite_segment(f, w); }

/* The start gate's probe goes back the way it came: both ends change places, which no checksum feels. */
INLINE int rewrite_turned(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;

	return rewrite_link(f, w) || pkt_store(f, p->l3 + IP_SRC, &p->dst.word[3], 4) ||
	       pkt_store(f, p->l3 + IP_DST, &p->src.word[3], 4) || pkt_store(f, p->l4, &p->dport, 2) ||
	       pkt_store(f, p->l4 + 2, &p->sport, 2);
}

#endif
