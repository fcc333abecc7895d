/* A packet as the chains see it: parsed once from its first bytes, every offset from the frame's start. */
#ifndef WHARFINGER_PACKET_H
#define WHARFINGER_PACKET_H

#include "wire.h"

/* Bytes that a host makes readable for parsing: Ethernet, IPv4 without options, ICMP, and an embedded IPv4
 * header, or a whole TCP header: 14 + 60 + 60, rounded up to a power of two so that a masked offset is a
 * checked offset. */
#define HEADER_BYTES 256
#define HEADER_MASK (HEADER_BYTES - 1)

struct headers {
	u8 byte[HEADER_BYTES];
	u32 len;	/* how many are valid, at most 134 */
	u32 packet_len; /* of the whole frame, link header included */
};
#define HEADER_LOAD 134

enum syn_trait { /* what makes a SYN unaware by rule (docs/protocol.md, "The option") */
		 SYN_FAST_OPEN = 0x01,
		 SYN_MPTCP = 0x02,
		 SYN_SIGNED = 0x04,
		 SYN_ENDED = 0x08, /* an end-of-list octet: nothing can follow */
};

struct packet {
	struct addr src, dst;
	be16 sport, dport;
	u32 seq, ack;
	u32 payload;	     /* bytes after the transport header, by the IP header's total length */
	u16 l3, l4;	     /* offsets */
	u16 option_at;	     /* offset of our option, 0 if there is none */
	u16 tcp_len;	     /* bytes of the TCP header with options */
	volatile u16 walked; /* how far its options were walked: in memory, so that the verifier takes it for
				any number */
	u8 proto, tcp_flags, ttl;
	u8 traits; /* bits of enum syn_trait */
	bool malformed_option;
	bool may_fragment; /* routers may fragment it: "don't fragment" is not set */
	bool icmp_error;   /* addresses, ports and seq above are those of the embedded packet, as its sender
			      sent it */
	u16 inner_l3, inner_l4;	   /* offsets of the embedded headers, when icmp_error */
	be32 error_from, error_to; /* the outer header's addresses, when icmp_error */
	struct option option;
};

INLINE bool is_syn(const struct packet *p) { return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN; }
INLINE bool is_syn_ack(const struct packet *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK);
}

/* Whether a SYN is an aware client's. */
INLINE bool is_aware(const struct packet *p)
{
	return p->option.flags & OPTION_REDIRECT && p->option.len >= OPTION_LEN_SCOPE;
}

INLINE bool has_room(const struct packet *p, u8 option_len)
{
	return !(p->traits & SYN_ENDED) && p->tcp_len + option_len <= TCP_LEN_MAX;
}

#endif
