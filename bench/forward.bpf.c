/* What the programs are measured against: looks the way up and sends the packet on, and does nothing else. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct ipv4 {
	__u8 skipped[2];
	__be16 total;
	__u8 more[8];
	__be32 src, dst;
};

static inline __attribute__((always_inline)) int forward(struct __sk_buff *skb)
{
	struct ipv4 ip;

	if (skb->protocol != (__be16)__builtin_bswap16(0x0800) || bpf_skb_load_bytes(skb, 14, &ip, sizeof ip))
		return -1;
	struct bpf_fib_lookup fib = { .family = 2, .l4_protocol = 6, .ifindex = skb->ifindex, .ipv4_src = ip.src, .ipv4_dst = ip.dst };
	if (bpf_fib_lookup(skb, &fib, sizeof fib, BPF_FIB_LOOKUP_SKIP_NEIGH))
		return -1;
	struct bpf_redir_neigh hop = { .nh_family = 2, .ipv4_nh = fib.ipv4_dst };
	return bpf_redirect_neigh(fib.ifindex, &hop, sizeof hop, 0);
}

SEC("tcx/ingress") int plain_from_pod(struct __sk_buff *skb) { return forward(skb); }
SEC("tcx/ingress") int plain_from_net(struct __sk_buff *skb) { return forward(skb); }
/* To a pod there is nothing to send on: the same look at the packet, and the bridge's delivery goes on. */
SEC("tcx/egress") int plain_to_pod(struct __sk_buff *skb)
{
	struct ipv4 ip;

	bpf_skb_load_bytes(skb, 14, &ip, sizeof ip);
	return -1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
