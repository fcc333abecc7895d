/* The programs: one for each hook, every one of them load -> parse -> decide -> rewrite -> send on. */
#include "host_bpf.h"
#include "decide.h"
#include "rewrite.h"
#include "trace.h"

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

INLINE u64 setting(u32 number)
{
	u64 *value = bpf_map_lookup_elem(&settings, &number);

	return value ? *value : 0;
}

/* Decided here, so that a connection that is not traced costs a hash and no more. */
INLINE void tell(struct work *w)
{
	struct trace_id key = { .low = setting(SETTING_TRACE_KEY_LOW), .high = setting(SETTING_TRACE_KEY_HIGH) };
	u32 zero = 0;

	if (!is_told(&key, &w->event, setting(SETTING_TRACED)) || !bpf_ringbuf_output(&events, &w->event, sizeof w->event, BPF_RB_NO_WAKEUP))
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
 * address. What has no direct way, or is too big for it, is left to the stack, which knows how to say so: the reason, else REASON_none. */
INLINE enum reason find_way(struct __sk_buff *skb, struct work *w, struct bpf_fib_lookup *fib)
{
	const struct verdict *v = &w->verdict;
	u32 mtu = 0;

	if (w->packet.ttl <= 1)
		return REASON_stack_ttl;
	fib->family = AF_INET;
	fib->l4_protocol = w->packet.proto;
	fib->ifindex = skb->ifindex;
	fib->tot_len = skb->gso_size ? 0 : (u16)(skb->len - ETH_LEN + v->append.len);
	if (w->packet.icmp_error) { /* the addresses of the outer header are the ones to route by */
		fib->ipv4_src = raw_at(&w->headers, w->packet.l3 + IP_SRC);
		fib->ipv4_dst = raw_at(&w->headers, w->packet.l3 + IP_DST);
	} else {
		fib->ipv4_src = v->src.word[3];
		fib->ipv4_dst = v->dst.word[3];
	}
	long found = bpf_fib_lookup(skb, fib, sizeof *fib, BPF_FIB_LOOKUP_SKIP_NEIGH);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED || (!found && skb->gso_size && bpf_check_mtu(skb, fib->ifindex, &mtu, 0, BPF_MTU_CHK_SEGS)))
		return REASON_stack_too_big;
	return found ? REASON_stack_no_route : REASON_none;
}

INLINE int finish(struct __sk_buff *skb, struct work *w, enum hook hook, enum reason reason)
{
	u8 outcome = outcomes[reason & (COUNTER_REASONS - 1)];
	struct bpf_fib_lookup fib = {};
	int direct = 0;

	count(skb, hook, reason);
	if (w->packet.malformed_option)
		count(skb, hook, REASON_option_malformed);
	if (outcome == OUTCOME_PASS)
		return NEXT;
	if (outcome == OUTCOME_DROP)
		return TC_ACT_SHOT;
	if (outcome == OUTCOME_REFLECT)
		return rewrite_turned(skb, w) ? TC_ACT_SHOT : bpf_redirect(skb->ifindex, 0);
	if (w->event.kind)
		tell(w);
	if (outcome == OUTCOME_RESET && hook == HOOK_FROM_POD)
		return rewrite_reset(skb, w) ? TC_ACT_SHOT : bpf_redirect(skb->ifindex, 0);
	if (outcome == OUTCOME_FORWARD || outcome == OUTCOME_RESET) {
		reason = find_way(skb, w, &fib);
		direct = reason == REASON_none;
		if (!direct)
			count(skb, hook, reason);
	}
	if (outcome == OUTCOME_RESET ? rewrite_reset(skb, w) : rewrite(skb, w, direct)) {
		count(skb, hook, REASON_rewrite_failed);
		return TC_ACT_SHOT;
	}
	if (!direct) /* what answers a packet to the pod goes as if the pod had sent it */
		return outcome == OUTCOME_RESET ? bpf_redirect(skb->ifindex, BPF_F_INGRESS) : NEXT;
	struct bpf_redir_neigh hop = { .nh_family = AF_INET, .ipv4_nh = fib.ipv4_dst };
	return bpf_redirect_neigh(fib.ifindex, &hop, sizeof hop, 0);
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
			reason = decide(skb, w); \
		return finish(skb, w, hook, reason); \
	}

SEC("tcx/ingress") PROGRAM(wharf_from_pod, HOOK_FROM_POD, decide_from_pod)
SEC("tcx/egress") PROGRAM(wharf_to_pod, HOOK_TO_POD, decide_to_pod)
SEC("tcx/ingress") PROGRAM(wharf_from_net, HOOK_FROM_NET, decide_from_net)

/* Before the others, while the records of connections go from a former release's tables to this one's (kernel.py): what a packet changed
 * meanwhile would be lost, and TCP repeats the packet. The hold ends by itself, should the agent. */
#define HOLD(name, hook) \
	int name(struct __sk_buff *skb) \
	{ \
		struct work *w = bpf_ktime_get_ns() < setting(SETTING_HELD_UNTIL) ? load(skb) : 0; \
		if (!w || parse(&w->headers, &w->packet) != REASON_none || w->packet.icmp_error || w->packet.proto != PROTO_TCP) \
			return NEXT; \
		count(skb, hook, REASON_held); \
		return TC_ACT_SHOT; \
	}

SEC("tcx/ingress") HOLD(wharf_hold_from_pod, HOOK_FROM_POD)
SEC("tcx/egress") HOLD(wharf_hold_to_pod, HOOK_TO_POD)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
