/* What the wire carries: the redirection option (docs/protocol.md, "The option") and the headers around
 * it. */
#ifndef WHARFINGER_WIRE_H
#define WHARFINGER_WIRE_H

#include "types.h"

#define OPTION_KIND 253 /* experimental, RFC 4727; told apart by its experiment id, RFC 6994 */
#define OPTION_EXID 0x5746
#define OPTION_VERSION 1

#define OPTION_LEN_BARE 8    /* kind, len, ExID, flags, version, port */
#define OPTION_LEN_SCOPE 12  /* and the scope: every aware SYN */
#define OPTION_LEN_ORIGIN 16 /* and the origin ISN: a SYN that continues an earlier connection */

enum option_flag {
	OPTION_REDIRECT = 0x01,
	OPTION_CONFIRM = 0x02,
	OPTION_PORT = 0x04, /* the port field is valid: the message is a REDIRECT_OPT */
	OPTION_IMPERMISSIBLE = 0x08,
};

struct option {
	u8 flags; /* enum option_flag; 0 when the packet has no option */
	u8 len;	  /* OPTION_LEN_*; 0 when the packet has no option */
	be16 port;
	u32 scope;
	u32 origin;
};

/* Timestamps as Linux writes them on a connection: NOP, NOP, ten octets (RFC 7323); from the first NOP. */
#define TIMESTAMPS_ONLY 0x0101080a
enum { TIMESTAMPS_VALUE = 4, TIMESTAMPS_ECHO = 8, TIMESTAMPS_ALIGNED = 12 };

INLINE bool names_port(const struct option *o) { return o->flags & OPTION_CONFIRM && o->flags & OPTION_PORT; }

/* Where the fields of a header are, from its start: parse.h reads there and rewrite.h writes there. */
enum eth_field { ETH_SRC = 6, ETH_TYPE = 12, ETH_LEN = 14 };
enum ipv4_field {
	IP_VERSION = 0,
	IP_TOTAL = 2,
	IP_FRAGMENT = 6,
	IP_TTL = 8,
	IP_PROTO = 9,
	IP_SUM = 10,
	IP_SRC = 12,
	IP_DST = 16,
	IPV4_LEN = 20,
};
enum tcp_field {
	TCP_SPORT = 0,
	TCP_DPORT = 2,
	TCP_SEQ = 4,
	TCP_ACKS = 8,
	TCP_OFFSET = 12,
	TCP_FLAGS = 13,
	TCP_WINDOW = 14,
	TCP_SUM = 16,
	TCP_LEN = 20,
	TCP_LEN_MAX = 60,
};
enum icmp_field { ICMP_TYPE = 0, ICMP_SUM = 2, ICMP_LEN = 8 };
enum option_field {
	OPTION_EXID_AT = 2,
	OPTION_FLAGS_AT = 4,
	OPTION_VERSION_AT = 5,
	OPTION_PORT_AT = 6,
	OPTION_SCOPE_AT = 8,
	OPTION_ORIGIN_AT = 12
};

enum tcp_flag { TCP_FIN = 0x01, TCP_SYN = 0x02, TCP_RST = 0x04, TCP_ACK = 0x10, TCP_FLAGS_KNOWN = 0x1f };
enum fragment { IP_DONT_FRAGMENT = 0x4000, IP_IS_FRAGMENT = 0x3fff /* more to come, or an offset */ };

enum { ETHERTYPE_IPV4 = 0x0800, PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17 };

/* The start gate's probe: UDP to a link-local address that no host has, answered by the attached program. */
enum { GATE_ADDRESS = 0xa9fe5746 /* 169.254.87.70 */, GATE_PORT = 22342 };

#endif
