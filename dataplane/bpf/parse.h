/* Parsing: the first bytes of a frame to a struct packet, or the reason why not. Pure; no read outside struct headers, whatever the
 * packet claims: every offset is bounded by the lengths it was checked against, and masked where the verifier asks for it. */
#ifndef WHARFINGER_PARSE_H
#define WHARFINGER_PARSE_H

#include "packet.h"
#include "reasons.h"

INLINE u8 byte_at(const struct headers *h, u32 at) { return h->byte[at & HEADER_MASK]; }
INLINE u16 u16_at(const struct headers *h, u32 at) { return (u16)(byte_at(h, at) << 8 | byte_at(h, at + 1)); }
INLINE u32 u32_at(const struct headers *h, u32 at) { return (u32)u16_at(h, at) << 16 | u16_at(h, at + 2); }

/* Our option at `at`, `len` bytes long by its own word: 1 when it is well formed and of our version. */
INLINE int parse_option(const struct headers *h, u32 at, u8 len, struct option *out)
{
	if ((len != OPTION_LEN_BARE && len != OPTION_LEN_SCOPE && len != OPTION_LEN_ORIGIN) || byte_at(h, at + 5) != OPTION_VERSION)
		return 0;
	out->len = len;
	out->flags = byte_at(h, at + 4) & 0x0f;
	out->port = to_be16(u16_at(h, at + 6));
	out->scope = len >= OPTION_LEN_SCOPE ? u32_at(h, at + 8) : 0;
	out->origin = len >= OPTION_LEN_ORIGIN ? u32_at(h, at + 12) : 0;
	return 1;
}

enum { KIND_END = 0, KIND_NOP = 1, KIND_MD5 = 19, KIND_AO = 29, KIND_MPTCP = 30, KIND_FAST_OPEN = 34 };
#define OPTIONS_MAX 16        /* options walked; a header with more than that, padding included, is treated as having no room */

/* Of the TCP header at `l4` with p->tcp_len bytes. */
INLINE void parse_tcp_options(const struct headers *h, struct packet *p, u32 l4)
{
	u32 at = l4 + TCP_LEN, end = l4 + p->tcp_len;

	for (int i = 0; i < OPTIONS_MAX; i++) {
		if (at >= end)
			return;
		u8 kind = byte_at(h, at);
		if (kind == KIND_END)
			break;
		if (kind == KIND_NOP) {
			at++;
			continue;
		}
		u8 len = byte_at(h, at + 1);
		if (at + 2 > end || len < 2 || at + len > end) {
			p->malformed_option = 1;
			break;
		}
		if (kind == KIND_MPTCP)
			p->traits |= SYN_MPTCP;
		else if (kind == KIND_MD5 || kind == KIND_AO)
			p->traits |= SYN_SIGNED;
		else if (kind == KIND_FAST_OPEN && len > 2)
			p->traits |= SYN_FAST_OPEN;
		else if (kind == OPTION_KIND && len >= 4 && u16_at(h, at + 2) == OPTION_EXID) {
			/* We write it on a boundary of four; elsewhere it is not ours, and checksums need not learn odd offsets. */
			if (!p->option_at && ((at ^ l4) & 3) == 0 && parse_option(h, at, len, &p->option))
				p->option_at = (u16)at;
			else
				p->malformed_option = 1;
		}
		at += len;
	}
	if (at < end)
		p->traits |= SYN_ENDED;
}

INLINE enum reason parse_tcp(const struct headers *h, struct packet *p, u32 l3_end)
{
	u32 l4 = p->l4;

	if (l4 + TCP_LEN > l3_end || l4 + TCP_LEN > h->len)
		return REASON_truncated;
	p->sport = to_be16(u16_at(h, p->l4));
	p->dport = to_be16(u16_at(h, p->l4 + 2));
	p->seq = u32_at(h, p->l4 + 4);
	p->ack = u32_at(h, p->l4 + 8);
	p->tcp_len = (byte_at(h, p->l4 + 12) >> 4) * 4;
	p->tcp_flags = byte_at(h, p->l4 + 13) & 0x1f;
	if (p->tcp_len < TCP_LEN || l4 + p->tcp_len > l3_end || l4 + p->tcp_len > h->len)
		return REASON_truncated;
	p->payload = l3_end - l4 - p->tcp_len;
	parse_tcp_options(h, p, l4);
	return REASON_none;
}

/* An ICMP error's embedded packet: addresses and ports as its sender sent them (RFC 792: IP header and eight octets, at least), and our
 * option when the TCP header is there as a whole (RFC 1812 asks for as much as 576 bytes hold). */
INLINE enum reason parse_icmp(const struct headers *h, struct packet *p, u32 l3_end)
{
	u8 type = byte_at(h, p->l4);
	u32 inner = p->l4 + 8;

	if (type != 3 && type != 11 && type != 12)
		return REASON_not_tcp;
	if (inner + IPV4_LEN + 8 > l3_end || inner + IPV4_LEN + 8 > h->len)
		return REASON_truncated;
	u32 inner_len = (byte_at(h, inner) & 0x0f) * 4;
	if (byte_at(h, inner) >> 4 != 4 || inner_len < IPV4_LEN || byte_at(h, inner + 9) != PROTO_TCP)
		return REASON_not_tcp;
	if (inner + inner_len + 8 > l3_end || inner + inner_len + 8 > h->len)
		return REASON_truncated;
	p->icmp_error = 1;
	p->inner_l3 = (u16)inner;
	p->inner_l4 = (u16)(inner + inner_len);
	p->src = addr_from_v4(to_be32(u32_at(h, inner + 12)));
	p->dst = addr_from_v4(to_be32(u32_at(h, inner + 16)));
	p->sport = to_be16(u16_at(h, inner + inner_len));
	p->dport = to_be16(u16_at(h, inner + inner_len + 2));
	u32 l4 = inner + inner_len;
	if (l4 + TCP_LEN > l3_end || l4 + TCP_LEN > h->len)
		return REASON_none;
	p->tcp_len = (byte_at(h, l4 + 12) >> 4) * 4;
	if (p->tcp_len >= TCP_LEN && l4 + p->tcp_len <= l3_end && l4 + p->tcp_len <= h->len)
		parse_tcp_options(h, p, l4);
	return REASON_none;
}

/* `p` must be zeroed. REASON_none: parsed. */
INLINE enum reason parse(const struct headers *h, struct packet *p)
{
	p->l3 = ETH_LEN;
	if (h->len < ETH_LEN + IPV4_LEN || u16_at(h, 12) != ETHERTYPE_IPV4 || byte_at(h, ETH_LEN) >> 4 != 4)
		return REASON_not_ip;

	u32 l3_len = (byte_at(h, ETH_LEN) & 0x0f) * 4, total = u16_at(h, ETH_LEN + 2);
	/* Segmentation offload beyond 65,535 bytes says 0 (BIG TCP); from anything shorter that is a lie. */
	u32 l3_end = total || h->packet_len <= ETH_LEN + 0xffff ? ETH_LEN + total : h->packet_len;
	p->proto = byte_at(h, ETH_LEN + 9);
	p->ttl = byte_at(h, ETH_LEN + 8);
	p->src = addr_from_v4(to_be32(u32_at(h, ETH_LEN + 12)));
	p->dst = addr_from_v4(to_be32(u32_at(h, ETH_LEN + 16)));
	p->l4 = (u16)(ETH_LEN + l3_len);
	if (l3_len < IPV4_LEN || p->l4 > l3_end || p->l4 + 8u > h->len)
		return REASON_truncated;
	if (u16_at(h, ETH_LEN + 6) & 0x3fff)
		return REASON_fragment;
	if (l3_end > h->packet_len)
		return REASON_truncated;

	switch (p->proto) {
	case PROTO_TCP:
		return parse_tcp(h, p, l3_end);
	case PROTO_ICMP:
		return parse_icmp(h, p, l3_end);
	case PROTO_UDP:
		p->sport = to_be16(u16_at(h, p->l4));
		p->dport = to_be16(u16_at(h, p->l4 + 2));
		return REASON_none;
	default:
		return REASON_not_tcp;
	}
}

#endif
