/* Programs of somebody else at an interface: each counts the packets of TCP that it sees, and lets them pass on. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#define NEXT (-1)
#define PROTO_AT (14 + 9)
#define TCP 6

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

static __always_inline int count(struct __sk_buff *skb, __u32 which)
{
	__u8 proto = 0;
	__u64 *packets = bpf_map_lookup_elem(&seen, &which);

	if (packets && !bpf_skb_load_bytes(skb, PROTO_AT, &proto, 1) && proto == TCP)
		++*packets;
	return NEXT;
}

SEC("tcx/ingress") int before(struct __sk_buff *skb) { return count(skb, 0); }
SEC("tcx/ingress") int after(struct __sk_buff *skb) { return count(skb, 1); }

char LICENSE[] SEC("license") = "Dual BSD/GPL";
