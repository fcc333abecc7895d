/* A bad wire: what its rules say happens to the n-th packet that matches, and to no other. At the ports of the lab's switch, outside of
 * everything that is under test. And, of a pod's own interface, a stack that fills its SYNs' option space. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#define RULES 8
#define FRAME_MAX 2048
#define NEXT (-1)

enum deed { LOSE = 1, REPEAT = 2, HOLD = 3, STRIP = 4 };
enum load { ANY = 0, WITHOUT = 1, WITH = 2 };

/* Zero means any. Network byte order where the type says so. */
struct rule {
	__be32 src, dst;
	__be16 sport, dport;
	__u8 mask, flags;         /* TCP flags: those looked at, and what they must be */
	__u8 load, deed;
	__u32 first, count;       /* the first match that it happens to, from 1, and to how many */
	__u32 percent;            /* of those, at random */
	__u32 seen, done;
	__u32 held;               /* bytes in `frame`: it goes on after the next packet of its direction */
	__u8 frame[FRAME_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RULES);
	__type(key, __u32);
	__type(value, struct rule);
} rules SEC(".maps");

/* Interface index at which a packet arrives -> that by which it leaves. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u32);
} ways SEC(".maps");

struct segment {
	__be32 src, dst;
	__be16 sport, dport;
	__u32 l4, header, payload;
	__u8 flags;
};

static __always_inline int read_segment(struct __sk_buff *skb, struct segment *s)
{
	__u8 ip[20], tcp[14];

	if (skb->protocol != (__be16)__builtin_bswap16(0x0800) || bpf_skb_load_bytes(skb, 14, ip, sizeof ip) || ip[9] != 6)
		return 0;
	s->l4 = 14 + (ip[0] & 15) * 4;
	if (bpf_skb_load_bytes(skb, s->l4, tcp, sizeof tcp))
		return 0;
	__builtin_memcpy(&s->src, ip + 12, 4);
	__builtin_memcpy(&s->dst, ip + 16, 4);
	__builtin_memcpy(&s->sport, tcp, 2);
	__builtin_memcpy(&s->dport, tcp + 2, 2);
	s->header = (tcp[12] >> 4) * 4;
	s->flags = tcp[13] & 0x1f;
	s->payload = (ip[2] << 8 | ip[3]) - (s->l4 - 14) - s->header;
	return 1;
}

static __always_inline int same_direction(const struct rule *r, const struct segment *s)
{
	return (!r->src || r->src == s->src) && (!r->dst || r->dst == s->dst) && (!r->sport || r->sport == s->sport) &&
	       (!r->dport || r->dport == s->dport);
}

static __always_inline int matches(const struct rule *r, const struct segment *s)
{
	return same_direction(r, s) && (s->flags & r->mask) == r->flags && (r->load != WITHOUT || !s->payload) && (r->load != WITH || s->payload);
}

/* The redirection option becomes NOPs, as some firewalls have it. */
static __always_inline int strip(struct __sk_buff *skb, const struct segment *s)
{
	const __be32 nops = 0x01010101;
	__u32 left = 0;
	__be32 word;

	for (__u32 i = 0; i < 10; i++) {
		__u32 at = 20 + i * 4;
		if (at + 4 > s->header || bpf_skb_load_bytes(skb, s->l4 + at, &word, 4))
			break;
		__u32 number = __builtin_bswap32(word);
		if (!left && number >> 24 == 253 && (number & 0xffff) == 0x5746)
			left = (number >> 16 & 0xff) / 4;
		if (!left)
			continue;
		left--;
		if (bpf_l4_csum_replace(skb, s->l4 + 16, word, nops, 4) || bpf_skb_store_bytes(skb, s->l4 + at, &nops, 4, 0))
			return TC_ACT_SHOT;
	}
	return NEXT;
}

static __always_inline int hold(struct __sk_buff *skb, struct rule *r)
{
	__u32 len = skb->len;

	if (len < 54 || len > FRAME_MAX || bpf_skb_load_bytes(skb, 0, r->frame, len))
		return NEXT;
	r->held = len;
	return TC_ACT_SHOT;
}

/* The packet goes on, and what was held goes on in its place, behind it. */
static __always_inline int let_go(struct __sk_buff *skb, struct rule *r, __u32 way)
{
	__u32 len = r->held;

	r->held = 0;
	if (len < 54 || len > FRAME_MAX || bpf_clone_redirect(skb, way, 0) || bpf_skb_change_tail(skb, len, 0))
		return TC_ACT_SHOT;
	return bpf_skb_store_bytes(skb, 0, r->frame, len, 0) ? TC_ACT_SHOT : NEXT;
}

SEC("tcx/ingress") int bad_wire(struct __sk_buff *skb)
{
	__u32 at = skb->ifindex, *way = bpf_map_lookup_elem(&ways, &at);
	struct segment s = {};

	if (!way || !read_segment(skb, &s))
		return NEXT;
	for (int i = 0; i < RULES; i++) {
		__u32 number = i;
		struct rule *r = bpf_map_lookup_elem(&rules, &number);
		if (!r || !r->deed)
			return NEXT;
		if (r->held && same_direction(r, &s))
			return let_go(skb, r, *way);
		if (!matches(r, &s))
			continue;
		__u32 seen = __sync_fetch_and_add(&r->seen, 1) + 1;
		if (seen < r->first || seen - r->first >= r->count || bpf_get_prandom_u32() % 100 >= r->percent)
			continue;
		__sync_fetch_and_add(&r->done, 1);
		switch (r->deed) {
		case LOSE:
			return TC_ACT_SHOT;
		case REPEAT:
			bpf_clone_redirect(skb, *way, 0);
			return NEXT;
		case HOLD:
			return hold(skb, r);
		case STRIP:
			return strip(skb, &s);
		}
	}
	return NEXT;
}

#define TCP_LEN_MAX 60
#define FOREIGN 0xfd /* with the experiment id 0xf00d, which is nobody's (RFC 6994) */

/* SYNs leave with a TCP header that is full, by an option that no stack knows. */
SEC("tcx/egress") int full_options(struct __sk_buff *skb)
{
	struct segment s = {};
	__u32 was, is, option;
	__be16 total, longer, length, full = __builtin_bswap16(TCP_LEN_MAX);

	if (!read_segment(skb, &s) || (s.flags & 0x12) != 0x02 || s.payload || s.header > TCP_LEN_MAX - 4)
		return NEXT;
	__u32 grown = TCP_LEN_MAX - s.header;
	if (bpf_skb_load_bytes(skb, 16, &total, 2) || bpf_skb_load_bytes(skb, s.l4 + 12, &was, 4) || bpf_skb_change_tail(skb, skb->len + grown, 0))
		return TC_ACT_SHOT;
	longer = __builtin_bswap16(__builtin_bswap16(total) + grown);
	length = __builtin_bswap16(s.header);
	is = was | 0xf0;
	option = __builtin_bswap32((__u32)FOREIGN << 24 | grown << 16 | 0xf00d);
	if (bpf_l3_csum_replace(skb, 24, total, longer, 2) || bpf_skb_store_bytes(skb, 16, &longer, 2, 0) ||
	    bpf_l4_csum_replace(skb, s.l4 + 16, length, full, BPF_F_PSEUDO_HDR | 2) ||
	    bpf_l4_csum_replace(skb, s.l4 + 16, was, is, 4) || bpf_skb_store_bytes(skb, s.l4 + 12, &is, 4, 0) ||
	    bpf_l4_csum_replace(skb, s.l4 + 16, 0, option, 4) || bpf_skb_store_bytes(skb, s.l4 + s.header, &option, 4, 0))
		return TC_ACT_SHOT;
	return NEXT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
