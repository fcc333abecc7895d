/* The programs: one for each hook, every one of them load -> parse -> decide -> rewrite -> send on. */
#include "host_bpf.h"
#include "decide.h"
#include "rewrite.h"

#define NEXT (-1) /* TCX_NEXT; TC_ACT_UNSPEC for a classic filter: other programs go on */
#define AF_INET 2

#define OUTCOME(name, outcome, words) OUTCOME_##outcome,
static const u8 outcomes[COUNTER_REASONS] = { WHARFINGER_REASONS(OUTCOME) };
#undef OUTCOME

INLINE void count(struct __sk_buff *skb, enum hook hook, enum reason reason)
{
	u32 at = hook * COUNTER_REASONS + reason;
	struct counter *c = bpf_map_lookup_elem(&counters, &at);

	if (c) {
		c->packets++;
		c->bytes += skb->len;
	}
}

INLINE void tell(struct work *w)
{
	u32 zero = 0, *wanted = bpf_map_lookup_elem(&settings, &zero);

	if (!wanted || !*wanted || !bpf_ringbuf_output(&events, &w->event, sizeof w->event, BPF_RB_NO_WAKEUP))
		return;
	u64 *lost = bpf_map_lookup_elem(&events_lost, &zero);
	if (lost)
		(*lost)++;
}

INLINE struct work *load(struct __sk_buff *skb)
{
	u32 zero = 0, len = skb->len;
	struct work *w = bpf_map_lookup_elem(&works, &zero);

	if (!w || len < ETH_LEN + IPV4_LEN)
		return 0;
	w->headers.packet_len = len;
	if (len > HEADER_LOAD)
		len = HEADER_LOAD;
	if (bpf_skb_load_bytes(skb, 0, w->headers.byte, len))
		return 0;
	w->headers.len = len;
	w->ifindex = skb->ifindex;
	__builtin_memset(&w->packet, 0, sizeof w->packet);
	return w;
}

/* The way on without the stack, and so without connection tracking: the routing table names the interface, its neighbour table the link
 * address. What has no direct way, or is too big for it, is left to the stack, which knows how to say so. */
INLINE int send_on(struct __sk_buff *skb, struct work *w, enum hook hook)
{
	const struct verdict *v = &w->verdict;
	struct bpf_fib_lookup fib = {
		.family = AF_INET, .l4_protocol = PROTO_TCP, .ifindex = skb->ifindex, .tos = 0,
		.tot_len = skb->gso_size ? 0 : (u16)(skb->len - ETH_LEN),
		.ipv4_src = v->src.word[3], .ipv4_dst = v->dst.word[3],
	};
	u32 mtu = 0;

	if (w->packet.icmp_error) { /* the addresses of the outer header are the ones to route by */
		fib.ipv4_src = to_be32(u32_at(&w->headers, w->packet.l3 + IP_SRC));
		fib.ipv4_dst = to_be32(u32_at(&w->headers, w->packet.l3 + IP_DST));
		fib.l4_protocol = PROTO_ICMP;
	}
	if (w->packet.ttl <= 1) {
		count(skb, hook, REASON_stack_ttl);
		return NEXT;
	}
	long found = bpf_fib_lookup(skb, &fib, sizeof fib, BPF_FIB_LOOKUP_SKIP_NEIGH);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED || (!found && skb->gso_size && bpf_check_mtu(skb, fib.ifindex, &mtu, 0, BPF_MTU_CHK_SEGS))) {
		count(skb, hook, REASON_stack_too_big);
		return NEXT;
	}
	if (found) {
		count(skb, hook, REASON_stack_no_route);
		return NEXT;
	}
	if (rewrite_ttl(skb, w)) {
		count(skb, hook, REASON_rewrite_failed);
		return TC_ACT_SHOT;
	}
	struct bpf_redir_neigh hop = { .nh_family = AF_INET, .ipv4_nh = fib.ipv4_dst };
	return bpf_redirect_neigh(fib.ifindex, &hop, sizeof hop, 0);
}

INLINE int finish(struct __sk_buff *skb, struct work *w, enum hook hook, enum reason reason)
{
	count(skb, hook, reason);
	if (w->packet.malformed_option)
		count(skb, hook, REASON_option_malformed);
	u8 outcome = outcomes[reason & (COUNTER_REASONS - 1)];

	if (outcome == OUTCOME_PASS)
		return NEXT;
	if (outcome == OUTCOME_DROP)
		return TC_ACT_SHOT;
	if (outcome == OUTCOME_REFLECT)
		return rewrite_turned(skb, w) ? TC_ACT_SHOT : bpf_redirect(skb->ifindex, 0);
	if (w->event.kind)
		tell(w);
	if (rewrite(skb, w)) {
		count(skb, hook, REASON_rewrite_failed);
		return TC_ACT_SHOT;
	}
	return outcome == OUTCOME_FORWARD ? send_on(skb, w, hook) : NEXT;
}

#define PROGRAM(name, hook, decide) \
	int name(struct __sk_buff *skb) \
	{ \
		struct work *w = load(skb); \
		if (!w) { \
			count(skb, hook, REASON_not_ip); \
			return NEXT; \
		} \
		enum reason reason = parse(&w->headers, &w->packet); \
		if (reason == REASON_none) \
			reason = decide(w); \
		return finish(skb, w, hook, reason); \
	}

SEC("tcx/ingress") PROGRAM(wharf_from_pod, HOOK_FROM_POD, decide_from_pod)
SEC("tcx/egress") PROGRAM(wharf_to_pod, HOOK_TO_POD, decide_to_pod)
SEC("tcx/ingress") PROGRAM(wharf_from_net, HOOK_FROM_NET, decide_from_net)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
