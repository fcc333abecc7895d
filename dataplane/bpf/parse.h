/* Parsing: the first bytes of a frame to a struct packet, or the reason why not. Pure; no read outside struct
 * headers, whatever the packet claims: every offset is bounded by the lengths it was checked against, and
 * masked where the verifier asks for it. This is the one place that knows how long headers are. */
#ifndef WHARFINGER_PARSE_H
#define WHARFINGER_PARSE_H

#include "packet.h"
#include "reasons.h"

INLINE u8 byte_at(const struct headers *h, u32 at) { return h->byte[at & HEADER_MASK]; }
INLINE u16 u16_at(const struct headers *h, u32 at) { return (u16)(byte_at(h, at) << 8 | byte_at(h, at + 1)); }
INLINE u32 u32_at(const struct headers *h, u32 at) { return (u32)u16_at(h, at) << 16 | u16_at(h, at + 2); }

INLINE struct addr address_at(const struct headers *h, u32 at)
{
	return addr_from_v4(to_be32(u32_at(h, at)));
}

/* Our option at `at`, `len` bytes long by its own word. Returns: whether it is well formed and of our
 * version. */
INLINE bool parse_option(const struct headers *h, u32 at, u8 len, struct option *out)
{
	bool known = len == OPTION_LEN_BARE || len == OPTION_LEN_SCOPE || len == OPTION_LEN_ORIGIN;

	if (!known || byte_at(h, at + OPTION_VERSION_AT) != OPTION_VERSION)
		return false;
	out->len = len;
	out->flags = byte_at(h, at + OPTION_FLAGS_AT) & 0x0f;
	out->port = to_be16(u16_at(h, at + OPTION_PORT_AT));
	out->scope = len >= OPTION_LEN_SCOPE ? u32_at(h, at + OPTION_SCOPE_AT) : 0;
	out->origin = len >= OPTION_LEN_ORIGIN ? u32_at(h, at + OPTION_ORIGIN_AT) : 0;
	return true;
}

enum { KIND_END = 0, KIND_NOP = 1, KIND_MD5 = 19, KIND_AO = 29, KIND_MPTCP = 30, KIND_FAST_OPEN = 34 };
#define OPTIONS_MAX \
	16 /* options walked; a header with more, padding included, is treated as having no room */

/* Notes one option of `len` bytes at `at` of the TCP header at `l4`. */
INLINE void note_option(const struct headers *h, struct packet *p, u32 l4, u32 at, u8 len)
{
	u8 kind = byte_at(h, at);

	if (kind == KIND_MPTCP)
		p->traits |= SYN_MPTCP;
	else if (kind == KIND_MD5 || kind == KIND_AO)
		p->traits |= SYN_SIGNED;
	else if (kind == KIND_FAST_OPEN && len > 2)
		p->traits |= SYN_FAST_OPEN;
	else if (kind == OPTION_KIND && len >= 4 && u16_at(h, at + OPTION_EXID_AT) == OPTION_EXID) {
		/* We write it on a boundary of four; elsewhere it is not ours, and checksums need not learn
		 * odd offsets. */
		if (!p->option_at && ((at ^ l4) & 3) == 0 && parse_option(h, at, len, &p->option))
			p->option_at = (u16)at;
		else
			p->malformed_option = true;
	}
}

/* Of the TCP header at `l4` with p->tcp_len bytes. */
INLINE void parse_tcp_options(const struct headers *h, struct packet *p, u32 l4)
{
	u32 end = l4 + p->tcp_len;

	p->walked = (u16)(l4 + TCP_LEN);
	for (int i = 0; i < OPTIONS_MAX; i++) {
		u32 at = p->walked;
		u8 kind = byte_at(h, at), len = kind == KIND_NOP ? 1 : byte_at(h, at + 1);
		if (at >= end)
			return;
		if (kind == KIND_END)
			break;
		if (kind != KIND_NOP && (at + 2 > end || len < 2 || at + len > end)) {
			p->malformed_option = true;
			break;
		}
		if (kind != KIND_NOP)
			note_option(h, p, l4, at, len);
		p->walked = (u16)(at + len);
	}
	if (p->walked < end)
		p->traits |= SYN_ENDED;
}

/* Bytes of the TCP header at `l4`, by its own word. */
INLINE u16 tcp_len_at(const struct headers *h, u32 l4) { return (byte_at(h, l4 + TCP_OFFSET) >> 4) * 4; }

INLINE enum reason parse_tcp(const struct headers *h, struct packet *p, u32 l3_end)
{
	u32 l4 = p->l4;

	if (l4 + TCP_LEN > l3_end || l4 + TCP_LEN > h->len)
		return REASON_truncated;
	p->sport = to_be16(u16_at(h, l4 + TCP_SPORT));
	p->dport = to_be16(u16_at(h, l4 + TCP_DPORT));
	p->seq = u32_at(h, l4 + TCP_SEQ);
	p->ack = u32_at(h, l4 + TCP_ACKS);
	p->tcp_len = tcp_len_at(h, l4);
	p->tcp_flags = byte_at(h, l4 + TCP_FLAGS) & TCP_FLAGS_KNOWN;
	if (p->tcp_len < TCP_LEN || l4 + p->tcp_len > l3_end || l4 + p->tcp_len > h->len)
		return REASON_truncated;
	p->payload = l3_end - l4 - p->tcp_len;
	parse_tcp_options(h, p, l4);
	return REASON_none;
}

enum {
	ICMP_UNREACHABLE = 3,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER = 12,
	ICMP_EMBEDS = 8 /* octets behind the IP header, at least */
};

enum { KIND_LOOSE_ROUTE = 131, KIND_STRICT_ROUTE = 137, IP_OPTIONS_MAX = 40 };

/* Whether the IP header's options have a source route, or are malformed (RFC 791): most stacks drop both.
 * Changes p->walked. */
INLINE bool has_source_route(const struct headers *h, struct packet *p)
{
	u32 end = p->l4;

	p->walked = p->l3 + IPV4_LEN;
	for (int i = 0; i < IP_OPTIONS_MAX; i++) {
		u32 at = p->walked;
		u8 kind = byte_at(h, at), len = kind == KIND_NOP ? 1 : byte_at(h, at + 1);
		if (at >= end || kind == KIND_END)
			return false;
		bool malformed = kind != KIND_NOP && (at + 2 > end || len < 2 || at + len > end);
		if (malformed || kind == KIND_LOOSE_ROUTE || kind == KIND_STRICT_ROUTE)
			return true;
		p->walked = (u16)(at + len);
	}
	return false;
}

/* An ICMP error's embedded packet: addresses, ports and sequence number as its sender sent them (RFC 792: IP
 * header and eight octets, at least), and our option when the TCP header is there as a whole (RFC 1812 asks
 * for as much as 576 bytes hold). */
INLINE enum reason parse_icmp(const struct headers *h, struct packet *p, u32 l3_end)
{
	u8 type = byte_at(h, p->l4 + ICMP_TYPE);
	u32 inner = p->l4 + ICMP_LEN;

	if (type != ICMP_UNREACHABLE && type != ICMP_TIME_EXCEEDED && type != ICMP_PARAMETER)
		return REASON_not_tcp;
	if (inner + IPV4_LEN + ICMP_EMBEDS > l3_end || inner + IPV4_LEN + ICMP_EMBEDS > h->len)
		return REASON_truncated;
	u32 inner_len = (byte_at(h, inner + IP_VERSION) & 0x0f) * 4;
	if (byte_at(h, inner + IP_VERSION) >> 4 != 4 || inner_len < IPV4_LEN ||
	    byte_at(h, inner + IP_PROTO) != PROTO_TCP)
		return REASON_not_tcp;
	u32 l4 = inner + inner_len;
	if (l4 + ICMP_EMBEDS > l3_end || l4 + ICMP_EMBEDS > h->len)
		return REASON_truncated;
	p->icmp_error = true;
	p->error_from = v4_of(&p->src);
	p->error_to = v4_of(&p->dst);
	p->inner_l3 = (u16)inner;
	p->inner_l4 = (u16)l4;
	p->src = address_at(h, inner + IP_SRC);
	p->dst = address_at(h, inner + IP_DST);
	p->sport = to_be16(u16_at(h, l4 + TCP_SPORT));
	p->dport = to_be16(u16_at(h, l4 + TCP_DPORT));
	p->seq = u32_at(h, l4 + TCP_SEQ);
	if (l4 + TCP_LEN > l3_end || l4 + TCP_LEN > h->len)
		return REASON_none;
	p->tcp_len = tcp_len_at(h, l4);
	if (p->tcp_len >= TCP_LEN && l4 + p->tcp_len <= l3_end && l4 + p->tcp_len <= h->len)
		parse_tcp_options(h, p, l4);
	return REASON_none;
}

/* `p` must be zeroed. REASON_none: parsed. */
INLINE enum reason parse(const struct headers *h, struct packet *p)
{
	const u32 l3 = ETH_LEN;

	p->l3 = l3;
	if (h->len < ETH_LEN + IPV4_LEN || u16_at(h, ETH_TYPE) != ETHERTYPE_IPV4 ||
	    byte_at(h, l3 + IP_VERSION) >> 4 != 4)
		return REASON_not_ip;

	u32 l3_len = (byte_at(h, l3 + IP_VERSION) & 0x0f) * 4, total = u16_at(h, l3 + IP_TOTAL);
	/* Segmentation offload beyond 65,535 bytes says 0 (BIG TCP); from anything shorter that is a lie. */
	u32 l3_end = total || h->packet_len <= ETH_LEN + 0xffff ? ETH_LEN + total : h->packet_len;
	u32 fragment = u16_at(h, l3 + IP_FRAGMENT);
	p->proto = byte_at(h, l3 + IP_PROTO);
	p->ttl = byte_at(h, l3 + IP_TTL);
	p->src = address_at(h, l3 + IP_SRC);
	p->dst = address_at(h, l3 + IP_DST);
	p->may_fragment = !(fragment & IP_DONT_FRAGMENT);
	p->l4 = (u16)(ETH_LEN + l3_len);
	if (l3_len < IPV4_LEN || p->l4 > l3_end || p->l4 + 8u > h->len)
		return REASON_truncated;
	if (fragment & IP_IS_FRAGMENT)
		return REASON_fragment;
	if (l3_end > h->packet_len)
		return REASON_truncated;

	switch (p->proto) {
	case PROTO_TCP:
		return parse_tcp(h, p, l3_end);
	case PROTO_ICMP:
		return parse_icmp(h, p, l3_end);
	case PROTO_UDP:
		p->sport = to_be16(u16_at(h, p->l4 + TCP_SPORT));
		p->dport = to_be16(u16_at(h, p->l4 + TCP_DPORT));
		return REASON_none;
	default:
		return REASON_not_tcp;
	}
}

#endif
