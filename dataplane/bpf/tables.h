/* The tables: what the agent compiles (a balancer's whole knowledge) and what the two ends of a connection
 * remember.
 *
 * Rules:
 * - A table is named once, here; a host gives each name a lookup_NAME(key) that answers the live value or 0.
 * - Tables that the agent writes change by one whole value: a packet sees the old or the new, nothing
 *   between.
 * - Only the tables of connections are written by packets, and only at the ends: the balancer has none.
 * - A connection has two records at each end: a flow, by what the stack sees, and a wire, by what the wire
 *   has. Each leads to the other, so that a packet needs one look-up, whichever way it goes.
 * - Established connections have tables of their own that do not forget. What opens and what is closed is
 *   kept in tables that forget the least recently used: neither takes an established connection's room.
 *   Among the closed are also open ones that found no room, or were moved aside (docs/architecture.md).
 * - A record is not believed for its addresses and ports alone: whether a packet is its connection's, its
 *   numbers, flags or state must say (docs/protocol.md, "State of the ends"). */
#ifndef WHARFINGER_TABLES_H
#define WHARFINGER_TABLES_H

#include "types.h"

/* TABLE(name, key type, value type, capacity, kind): SPARSE tables allocate as they fill; BOUNDED ones forget
 * the least recently used. The agent gives flows and wires a capacity by the node's memory (agent/room.py).
 */
#define WHARFINGER_CONNECTION_TABLES(TABLE) \
	TABLE(flows, struct flow_key, struct flow, 262144, SPARSE) \
	TABLE(wires, struct flow_key, struct wire, 262144, SPARSE) \
	TABLE(opening_flows, struct flow_key, struct flow, 65536, BOUNDED) \
	TABLE(opening_wires, struct flow_key, struct wire, 65536, BOUNDED) \
	TABLE(closed_flows, struct flow_key, struct flow, 65536, BOUNDED) \
	TABLE(closed_wires, struct flow_key, struct wire, 65536, BOUNDED)
#define WHARFINGER_TABLES(TABLE) \
	TABLE(interfaces, u32, struct interface, 8192, SPARSE) \
	TABLE(pods, struct addr, struct pod, 4096, SPARSE) \
	TABLE(addresses, struct address_key, struct address, 16384, SPARSE) \
	TABLE(pages, u32, struct page, 65536, SPARSE) \
	TABLE(sets, u32, struct redirect_set, 65536, SPARSE) \
	TABLE(servers, u32, struct server, 131072, SPARSE) \
	TABLE(server_ports, struct server_port_key, struct server_port, 524288, SPARSE) \
	WHARFINGER_CONNECTION_TABLES(TABLE)

/* DIRECT: packets may be sent to it past the stack: it bears wharf_from_net, or leads to this node's pods
 * alone, and nobody's queueing or filters are passed by. PODS: the latter, so to a pod that bears no program
 * of ours nothing is sent: what it sends back takes the stack. STRICT: what comes in by it must have a source
 * that a route by it leads to (rp_filter = 1). */
enum interface_bit { INTERFACE_DIRECT = 1, INTERFACE_STRICT = 2, INTERFACE_PODS = 4 };
/* An interface of the node, by its index; one that is not listed has none of these. */
struct interface {
	u32 bits;     /* enum interface_bit */
	u32 incoming; /* by which the stack takes what arrives here to come in: of a bridge's port the bridge;
			 0: by this one */
};
ASSERT_SIZE(struct interface, 8);

/* A pod whose connections in one direction a NetworkPolicy selects may be neither client nor server of
 * ours. */
enum pod_role { POD_CLIENT = 1, POD_SERVER = 2, POD_INGRESS_SELECTED = 4, POD_EGRESS_SELECTED = 8 };
/* An address of a pod on this node whose interface bears our programs. */
struct pod {
	u32 ifindex; /* the host's side of the pod's interface */
	u32 roles;   /* enum pod_role */
	__s32 netns; /* its network namespace, as the node numbers it; -1: not known, so its stack is not
			asked */
};
ASSERT_SIZE(struct pod, 12);

struct address_key {
	struct addr addr;
	u32 proto;
};
ASSERT_SIZE(struct address_key, 20);

#define PAGE_PORTS 256
/* A virtual address's 65,536 ports, as 256 pages of 256; page 0 means: none of its ports is declared. */
struct address {
	u32 page[65536 / PAGE_PORTS];
};
ASSERT_SIZE(struct address, 1024);

enum port_kind { PORT_UNKNOWN = 0, PORT_SERVER = 1, PORT_SET = 2 };
#define PORT_INDEX_BITS 28
/* A port: its kind above PORT_INDEX_BITS, the server's or the set's index below. */
struct page {
	u32 port[PAGE_PORTS];
};
ASSERT_SIZE(struct page, 1024);

enum balancing { BALANCE_HASH = 0, BALANCE_RANDOM = 1, BALANCE_ROUND_ROBIN = 2 };
#define SET_SLOTS 4093 /* prime, as Maglev's table asks */
/* A redirect port's servers in the order that its policy draws from: a Maglev table for BALANCE_HASH, else
 * each once. */
struct redirect_set {
	u32 scope;
	u32 policy;	     /* enum balancing */
	u32 size;	     /* slots in use; 0: no server is ready */
	u32 slot[SET_SLOTS]; /* server indexes */
};
ASSERT_SIZE(struct redirect_set, 12 + 4 * SET_SLOTS);

enum server_state { SERVER_READY = 1, SERVER_DRAINING = 2 };
/* A server as one pool's member: an address may serve in several. */
struct server {
	struct addr addr;
	u32 scope;
	u32 state; /* enum server_state */
};
ASSERT_SIZE(struct server, 24);

struct server_port_key {
	struct addr addr; /* the server's own */
	u32 scope;	  /* of a redirect port; 0 for a service port, which is unique per server address */
	be16 port;
	u8 proto, pad;
};
ASSERT_SIZE(struct server_port_key, 24);

#define SERVICE_PORTS_MAX 16
/* How a pool's established connections may be moved (moves.h). */
enum move_mode { MOVE_NEVER = 0, MOVE_CLOSE = 1 };
/* What a port of a server stands for: where its stack listens and, of a redirect port, the service ports it
 * may name. */
struct server_port {
	u32 scope;
	be16 target;
	u8 count; /* service ports below; 0: this is a service port itself */
	u8 moves; /* enum move_mode */
	be16 service[SERVICE_PORTS_MAX];
};
ASSERT_SIZE(struct server_port, 40);

/* A connection's addresses and ports, as its pod's stack sees them (flows) or as the wire has them
 * (wires). */
struct flow_key {
	u32 ifindex;	  /* flows: the host's side of the pod's interface, so that another pod's packet finds
			     nothing; wires: 0 */
	be32 local, peer; /* local: the pod's */
	be16 local_port, peer_port;
};
ASSERT_SIZE(struct flow_key, 16);

/* The life of a flow; docs/architecture.md has the table of all transitions. */
enum flow_state {
	CLIENT_CLAIMED = 1, /* a wire only: the service port that the server is to name, kept free for that */
	CLIENT_OPENING,	    /* an aware SYN went to the port dialled */
	CLIENT_UNAWARE, /* began aware and goes on unaware: late answers to the aware SYNs are not its own */
	CLIENT_JOINING, /* the server named its port and has not answered there yet */
	CLIENT_ESTABLISHED,
	CLIENT_CLOSED,
	SERVER_OPENING, /* a SYN went to the stack */
	SERVER_ESTABLISHED,
	SERVER_CLOSED,
	SERVER_FOUND, /* no SYN was seen; the stack has the connection: its next packet enters it */
	SERVER_STRAY, /* no SYN was seen, and nobody knows whose packet it was that left this */
};
/* What ended, by the pod's own stack: LOCAL_FIN, PEER_FIN, RESET. What the wire says and the stack has not
 * confirmed: FIN_SEEN, RESET_SEEN. AWARE: the SYN bore REDIRECT. BY_STACK: its packets take the node's stack,
 * both ways, as it is an unaware client's. CLOSING: the client's end has said FIN, and its stack has not
 * (moves.h). */
enum flow_mark {
	LOCAL_FIN = 1,
	PEER_FIN = 2,
	RESET = 4,
	ENDED = 7,
	FIN_SEEN = 8,
	RESET_SEEN = 16,
	AWARE = 32,
	BY_STACK = 64,
	CLOSING = 128
};

/* Whether it is known what a client's latest data acknowledged (flow.request_ack), in life.tries from the
 * moment that its stack has the SYN+ACK: nobody repeats a SYN then. */
enum following { NOT_FOLLOWED = 16, FOLLOWED };

/* What changes while packets of both directions flow on several processors, as one word. The ISN in it says
 * whose it is: a change by a packet whose record's memory was given to another connection meanwhile fails. */
union life {
	struct {
		u8 state;  /* enum flow_state */
		u8 marks;  /* bits of enum flow_mark */
		u8 tries;  /* client: SYNs repeated; then enum following, with CLOSING: enum closing
			      (moves.h); server: SYN+ACKs seen; at most 255 */
		u8 reason; /* enum reason, by which the connection came to be */
		u32 isn;   /* the client's initial sequence number */
	};
	u64 whole;
};

/* The next hop past the stack, as the routing table had it when the record was last `seen` for the first time
 * in its eighth of a second (clock.h). */
union way {
	struct {
		u32 ifindex;  /* 0: not known; WAY_IS_STACK (wharfinger.bpf.c): the stack's, by the reason in
				 `gateway` */
		be32 gateway; /* IPv4; a next hop of another family is looked up for each packet */
	};
	u64 whole;
};

/* What the stack's packets become. */
struct flow {
	union life life;
	u32 scope; /* the pool's; 0: a direct dial's */
	union {
		u32 peer_end;	      /* with FIN_SEEN: the number that acknowledges the peer's FIN */
		u32 server_isn;	      /* server, until then: once the SYN+ACK passed */
		struct {	      /* CLIENT_OPENING: */
			be16 claimed; /* the service port that the server is to name; 0: none */
			u16 pad;
		};
	};
	union {
		be32 server;		    /* client: the server's address */
		struct {		    /* server: */
			be16 client_port;   /* the client's port on the wire; the key's is the stack's */
			be16 redirect_port; /* X: the port that the client dialled */
		};
	};
	be16 wire_port; /* the server's port on the wire: Y, or X while and when that is used */
	u16 mtu;	/* of `way` */
	union way way;
	u32 seen; /* clock.h: when the stack sent last, and what tables it was checked against then */
	union {
		u32 established_us; /* after it started; 0: not yet */
		u32 syn_payload;    /* SERVER_OPENING: octets that came with the SYN (Fast Open) */
	};
	u64 started_ns;	 /* kernel's monotonic clock */
	u32 request_ack; /* client, FOLLOWED: what its latest data acknowledged */
	u32 spare;
};
ASSERT_SIZE(struct flow, 56);

/* What the wire's packets become, and where their flow is. */
struct wire {
	union life life; /* state, ISN, BY_STACK and CLOSING follow the flow's; other marks are not kept up */
	u32 ifindex;	 /* the host's side of the pod's interface */
	be32 peer;	 /* what the stack sees: the virtual address, or the client's own */
	be16 local_port, peer_port; /* likewise: the client's port and X, or the target port and the client's
				       port or its substitute */
	u16 pad;
	u16 mtu;	/* of `way` */
	union way way;	/* from the network to the pod */
	u32 seen;	/* clock.h: when a packet from the network was last sent on */
	u32 checked;	/* clock.h, server: when its port was last found to be the server's */
	u64 started_ns; /* as the flow's */
};
ASSERT_SIZE(struct wire, 48);

#endif
