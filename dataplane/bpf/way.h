/* The way on without the stack, and so without connection tracking: the routing table names the interface and
 * the next hop. What a packet that skips the stack skips, and what is done about each, is in
 * docs/security.md. */
#ifndef WHARFINGER_WAY_H
#define WHARFINGER_WAY_H

#include "host_bpf.h"
#include "rewrite.h"

#define AF_INET 2
#define AF_INET6 10

/* Where to send a packet, and how big one may be. */
struct next_hop {
	u32 ifindex, mtu;
	struct bpf_redir_neigh neighbour;
};

/* Whether a packet to `dst` may be sent to an interface past the stack. */
INLINE bool is_direct_way(u32 ifindex, be32 dst)
{
	struct interface *found = bpf_map_lookup_elem(&interfaces, &ifindex);
	struct addr pod = addr_from_v4(dst);

	if (!found || !(found->bits & INTERFACE_DIRECT))
		return false;
	return !(found->bits & INTERFACE_PODS) || bpf_map_lookup_elem(&pods, &pod);
}

/* The bytes that the IP layer counts: of a segmentation-offload packet those of one segment. */
INLINE u32 ip_len(const struct __sk_buff *skb, u32 headers, u32 grown)
{
	return skb->gso_size ? headers + skb->gso_size : skb->len - ETH_LEN + grown;
}

/* The interface by which the stack takes the packet to come in: its settings and the rules that name it
 * count. One that is gone meanwhile has a look-up fail, and the stack take the packet. */
INLINE u32 incoming_interface(const struct __sk_buff *skb)
{
	u32 index = skb->ifindex;
	struct interface *found = bpf_map_lookup_elem(&interfaces, &index);

	return found && found->incoming ? found->incoming : index;
}

/* REASON_none, with `hop`; or why the stack is to take the packet. `len`: ip_len. An unknown neighbour is no
 * obstacle: sending to it makes the kernel ask. */
INLINE enum reason find_next_hop(struct __sk_buff *skb, be32 src, be32 dst, u32 len, struct next_hop *hop)
{
	struct bpf_fib_lookup fib = { .family = AF_INET,
				      .l4_protocol = PROTO_TCP,
				      .ifindex = incoming_interface(skb),
				      .tot_len = (u16)len,
				      .ipv4_src = src,
				      .ipv4_dst = dst };

	if (setting(0, SETTING_LEFT_TO_STACK))
		return REASON_stack_by_rule;
	if (len > 0xffff)
		return REASON_stack_too_big;
	long found = bpf_fib_lookup(skb, &fib, sizeof fib, 0);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return REASON_stack_too_big;
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return REASON_stack_no_route;
	if (!is_direct_way(fib.ifindex, dst))
		return REASON_stack_no_hook;
	hop->ifindex = fib.ifindex;
	hop->mtu = found == BPF_FIB_LKUP_RET_SUCCESS ? fib.mtu_result : 0; /* else it was not told */
	hop->neighbour.nh_family = fib.family;
	if (fib.family == AF_INET)
		hop->neighbour.ipv4_nh = fib.ipv4_dst;
	else /* an IPv4 route by an IPv6 next hop (RFC 8950) */
		__builtin_memcpy(hop->neighbour.ipv6_nh, fib.ipv6_dst, sizeof fib.ipv6_dst);
	return REASON_none;
}

/* Whether an address can be a host's: not this network's, loopback, multicast or broadcast (RFC 6890). */
INLINE bool is_host_address(be32 v4)
{
	u32 first = from_be32(v4) >> 24;

	return first && first != 127 && first < 224;
}

/* Whether a packet may come from its source as the stack judges it: the source is no address of this node, a
 * route leads back to it, and by the interface that the packet came in by where that matters (rp_filter
 * = 1). */
INLINE bool has_reverse_path(struct __sk_buff *skb, be32 src, be32 dst)
{
	u32 index = skb->ifindex;
	struct interface *from = bpf_map_lookup_elem(&interfaces, &index);
	struct bpf_fib_lookup fib = { .family = AF_INET,
				      .l4_protocol = PROTO_TCP,
				      .ifindex = skb->ifindex,
				      .ipv4_src = dst,
				      .ipv4_dst = src };

	long found =
		is_host_address(src) ? bpf_fib_lookup(skb, &fib, sizeof fib, 0) : BPF_FIB_LKUP_RET_NOT_FWDED;
	bool leads_back = found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH ||
			  found == BPF_FIB_LKUP_RET_FRAG_NEEDED;

	return leads_back && (!from || !(from->bits & INTERFACE_STRICT) || fib.ifindex == index);
}

#endif
