/* Making the packet say what the verdict says. Written once over four primitives that each host gives:
 *   pkt_store(f, at, bytes, len)   pkt_l3_sum(f, at, from, to, size)   pkt_l4_sum(f, at, from, to, size_and_flags)   pkt_resize(f, len)
 * each answers 0 or not; `f` is the packet in its host's own form. Checksums change by differences, so partial (offloaded) ones stay right: SUM_PSEUDO marks what the pseudo-header
 * covers, the only part a partial checksum has in it. */
#ifndef WHARFINGER_REWRITE_H
#define WHARFINGER_REWRITE_H

#include "parse.h"
#include "work.h"

#define SUM_PSEUDO 0x10 /* BPF_F_PSEUDO_HDR */

enum { IP_TOTAL = 2, IP_TTL = 8, IP_SUM = 10, IP_SRC = 12, IP_DST = 16, TCP_SPORT = 0, TCP_DPORT = 2, TCP_OFFSET = 12, TCP_SUM = 16 };

INLINE int rewrite_address(frame *f, struct work *w, u32 at, const struct addr *from, const struct addr *to)
{
	const struct packet *p = &w->packet;

	if (addr_equal(from, to))
		return 0;
	return pkt_l4_sum(f, p->l4 + TCP_SUM, from->word[3], to->word[3], 4 | SUM_PSEUDO) ||
	       pkt_l3_sum(f, p->l3 + IP_SUM, from->word[3], to->word[3], 4) || pkt_store(f, at, &to->word[3], 4);
}

INLINE int rewrite_port(frame *f, struct work *w, u32 at, be16 from, be16 to)
{
	if (from == to)
		return 0;
	return pkt_l4_sum(f, w->packet.l4 + TCP_SUM, from, to, 2) || pkt_store(f, at, &to, 2);
}

INLINE int rewrite_blank(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;
	const be32 nops = to_be32(0x01010101);

	for (u32 i = 0; i < OPTION_LEN_ORIGIN / 4; i++) {
		if (i * 4 >= p->option.len)
			break;
		u32 at = p->option_at + i * 4;
		be32 was = to_be32(u32_at(&w->headers, at));
		if (pkt_l4_sum(f, p->l4 + TCP_SUM, was, nops, 4) || pkt_store(f, at, &nops, 4))
			return -1;
	}
	return 0;
}

/* Our option after the others, at the end of a packet without data. */
INLINE int rewrite_append(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;
	const struct option *o = &w->verdict.append;
	u32 end = p->l4 + p->tcp_len;
	u16 total = u16_at(&w->headers, p->l3 + IP_TOTAL), flags = u16_at(&w->headers, p->l4 + TCP_OFFSET);
	be16 was, is;
	be32 word[4] = {
		to_be32((u32)OPTION_KIND << 24 | (u32)o->len << 16 | OPTION_EXID),
		to_be32((u32)o->flags << 24 | OPTION_VERSION << 16 | from_be16(o->port)),
		to_be32(o->scope),
		to_be32(o->origin),
	};

	if (pkt_resize(f, end + o->len))
		return -1;
	for (u32 i = 0; i < OPTION_LEN_ORIGIN / 4; i++) {
		if (i * 4 >= o->len)
			break;
		if (pkt_store(f, end + i * 4, &word[i], 4) || pkt_l4_sum(f, p->l4 + TCP_SUM, 0, word[i], 4))
			return -1;
	}
	was = to_be16(flags);
	is = to_be16((u16)(flags + (o->len / 4 << 12)));
	if (pkt_l4_sum(f, p->l4 + TCP_SUM, was, is, 2) || pkt_store(f, p->l4 + TCP_OFFSET, &is, 2))
		return -1;
	was = to_be16((u16)(p->tcp_len));
	is = to_be16((u16)(p->tcp_len + o->len));
	if (pkt_l4_sum(f, p->l4 + TCP_SUM, was, is, 2 | SUM_PSEUDO))
		return -1;
	was = to_be16(total);
	is = to_be16((u16)(total + o->len));
	return pkt_l3_sum(f, p->l3 + IP_SUM, was, is, 2) || pkt_store(f, p->l3 + IP_TOTAL, &is, 2);
}

/* The packet inside an ICMP error. An address and its IP header's checksum change by opposite amounts, so the ICMP checksum only feels the ports. */
INLINE int rewrite_embedded(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;
	const struct verdict *v = &w->verdict;
	u32 icmp_sum = p->l4 + 2;

	if (!addr_equal(&p->dst, &v->dst) && (pkt_l3_sum(f, p->inner_l3 + IP_SUM, p->dst.word[3], v->dst.word[3], 4) ||
					      pkt_store(f, p->inner_l3 + IP_DST, &v->dst.word[3], 4)))
		return -1;
	if (p->sport != v->sport && (pkt_l4_sum(f, icmp_sum, p->sport, v->sport, 2) || pkt_store(f, p->inner_l4 + TCP_SPORT, &v->sport, 2)))
		return -1;
	if (p->dport != v->dport && (pkt_l4_sum(f, icmp_sum, p->dport, v->dport, 2) || pkt_store(f, p->inner_l4 + TCP_DPORT, &v->dport, 2)))
		return -1;
	return 0;
}

/* 0, or not: the packet may be half changed and must not go on. */
INLINE int rewrite(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;
	const struct verdict *v = &w->verdict;

	if (p->icmp_error)
		return rewrite_embedded(f, w);
	if (v->append.len && rewrite_append(f, w))
		return -1;
	if (v->blank && rewrite_blank(f, w))
		return -1;
	return rewrite_address(f, w, p->l3 + IP_SRC, &p->src, &v->src) || rewrite_address(f, w, p->l3 + IP_DST, &p->dst, &v->dst) ||
	       rewrite_port(f, w, p->l4 + TCP_SPORT, p->sport, v->sport) || rewrite_port(f, w, p->l4 + TCP_DPORT, p->dport, v->dport);
}

/* The start gate's probe goes back the way it came: both ends change places, which no checksum feels. */
INLINE int rewrite_turned(frame *f, struct work *w)
{
	const struct packet *p = &w->packet;
	u8 mac[12];

	for (int i = 0; i < 6; i++) {
		mac[i] = w->headers.byte[6 + i];
		mac[6 + i] = w->headers.byte[i];
	}
	return pkt_store(f, 0, mac, sizeof mac) || pkt_store(f, p->l3 + IP_SRC, &p->dst.word[3], 4) ||
	       pkt_store(f, p->l3 + IP_DST, &p->src.word[3], 4) || pkt_store(f, p->l4, &p->dport, 2) || pkt_store(f, p->l4 + 2, &p->sport, 2);
}

INLINE int rewrite_ttl(frame *f, struct work *w)
{
	u16 was = u16_at(&w->headers, w->packet.l3 + IP_TTL), is = (u16)(was - 0x100);
	u8 ttl = (u8)(is >> 8);

	return pkt_l3_sum(f, w->packet.l3 + IP_SUM, to_be16(was), to_be16(is), 2) || pkt_store(f, w->packet.l3 + IP_TTL, &ttl, 1);
}

#endif
