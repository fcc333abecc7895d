/* The programs, one for each hook: the fast path for established connections, else the whole chain,
 * load -> parse -> decide -> rewrite -> send on. */
#include "host_bpf.h"
#include "decide.h"
#include "fast.h"
#include "rewrite.h"
#include "trace.h"
#include "way.h"

#define NEXT (-1) /* TCX_NEXT; TC_ACT_UNSPEC for a classic filter: other programs go on */
#define PACKET_HOST 0
#define WHOLE (-2) /* the fast path's answer: the whole chain decides */

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

/* The trace id decides, so that a connection that is not sampled costs a hash and no more. */
INLINE void report(struct work *w)
{
	struct trace_id key = { .low = setting(w, SETTING_TRACE_KEY_LOW),
				.high = setting(w, SETTING_TRACE_KEY_HIGH) };
	u32 zero = 0;

	if (!is_told(&key, &w->event, setting(w, SETTING_TRACED)) ||
	    !bpf_ringbuf_output(&events, &w->event, sizeof w->event, BPF_RB_NO_WAKEUP))
		return;
	u64 *lost = bpf_map_lookup_elem(&events_lost, &zero);
	if (lost)
		(*lost)++;
}

/* The first bytes of the frame, where they can be read and parsed; 0: too short. */
INLINE struct work *load(struct __sk_buff *skb, u32 which)
{
	u32 len = skb->len;
	struct work *w = work_at(which);

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

/* Frames that are the stack's whatever they carry: REASON_none for all others. Frames that leave a pod go to
 * the bridge's address, which at the pod's interface is another's. */
INLINE enum reason stack_reason(const struct __sk_buff *skb, enum hook hook)
{
	if (skb->vlan_present)
		return REASON_vlan;
	return hook == HOOK_FROM_NET && skb->pkt_type != PACKET_HOST ? REASON_other_host : REASON_none;
}

/* As find_next_hop, of the packet that the verdict makes of this one. */
INLINE enum reason find_way(struct __sk_buff *skb, struct work *w, struct next_hop *hop)
{
	const struct packet *p = &w->packet;
	const struct verdict *v = &w->verdict;
	be32 src = v4_of(&v->src), dst = v4_of(&v->dst);

	if (p->ttl <= 1)
		return REASON_stack_ttl;
	if (p->l4 - p->l3 > IPV4_LEN && has_source_route(&w->headers, &w->packet))
		return REASON_stack_source_route;
	if (p->icmp_error) { /* the addresses of the outer header are the ones to route by */
		src = p->error_from;
		dst = v->error_to;
	}
	return find_next_hop(skb, src, dst, ip_len(skb, p->l4 - p->l3 + p->tcp_len, v->append.len), hop);
}

/* The packet becomes verdict.answer of the memory `which`; `back`: on the way that it came. */
ALONE int write_segment(struct __sk_buff *skb, u32 back, u32 which)
{
	struct work *w = work_at(which);

	if (!w)
		return -1;
	return back ? rewrite_answer(skb, w) : rewrite_segment(skb, w);
}

INLINE int answer(struct __sk_buff *skb, struct work *w, enum hook hook, struct next_hop *hop)
{

	if (hook == HOOK_FROM_POD)
		return write_segment(skb, true, WORK_OF_HOOKS) ? TC_ACT_SHOT : bpf_redirect(skb->ifindex, 0);
	enum reason way = find_way(skb, w, hop);
	if (way)
		count(skb, hook, way);
	if (write_segment(skb, true, WORK_OF_HOOKS)) {
		count(skb, hook, REASON_rewrite_failed);
		return TC_ACT_SHOT;
	}
	if (way) /* what answers a packet to the pod goes as if the pod had sent it */
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return bpf_redirect_neigh(hop->ifindex, &hop->neighbour, sizeof hop->neighbour, 0);
}

/* What the chain decided, done: the program's answer to the kernel. */
ALONE int finish(struct __sk_buff *skb, enum hook hook, enum reason reason)
{
	struct work *w = work_of(skb);
	u8 outcome = outcomes[reason & (COUNTER_REASONS - 1)];
	struct next_hop hop = {};
	enum reason way = REASON_none;

	if (!w)
		return TC_ACT_SHOT;

	count(skb, hook, reason);
	if (outcome == OUTCOME_PASS)
		return NEXT;
	if (w->event.kind)
		report(w);
	if (outcome == OUTCOME_DROP)
		return TC_ACT_SHOT;
	if (outcome == OUTCOME_REFLECT)
		return rewrite_turned(skb, w) ? TC_ACT_SHOT : bpf_redirect(skb->ifindex, 0);
	bool at_pod = hook != HOOK_FROM_NET; /* where alone segments are made */
	if (at_pod && outcome == OUTCOME_ANSWER)
		return answer(skb, w, hook, &hop);
	if (outcome == OUTCOME_FORWARD) {
		way = find_way(skb, w, &hop);
		if (way)
			count(skb, hook, way);
	}
	bool direct = outcome == OUTCOME_FORWARD && !way;
	bool made = at_pod && w->verdict.answer.flags,
	     failed = made ? write_segment(skb, false, WORK_OF_HOOKS) : rewrite(skb, w, direct);
	if (failed) {
		count(skb, hook, REASON_rewrite_failed);
		return TC_ACT_SHOT;
	}
	return direct ? (int)bpf_redirect_neigh(hop.ifindex, &hop.neighbour, sizeof hop.neighbour, 0) : NEXT;
}

/* The whole chain of a hook: it and `finish` are what the verifier looks at by itself, so that neither what
 * may be decided nor the fast path multiplies with what may be done. */
#define WHOLE_CHAIN(name, hook, decide) \
	ALONE int name(struct __sk_buff *skb) \
	{ \
		enum reason reason = stack_reason(skb, hook); \
		if (reason != REASON_none) \
			return reason; \
		struct work *w = load(skb, WORK_OF_HOOKS); \
		if (!w) \
			return REASON_not_ip; \
		w->event.kind = EVENT_NONE; \
		w->is_made = skb->mark && skb->mark == (u32)setting(w, SETTING_MADE); \
		if (w->is_made) \
			skb->mark = 0; \
		reason = parse(&w->headers, &w->packet); \
		if (reason == REASON_none) \
			reason = decide(skb, w); \
		if (w->packet.malformed_option) \
			count(skb, hook, REASON_option_malformed); \
		return reason; \
	}

/* What a stranger can send past the stack without an answer to it must have a source that the stack would
 * take: a SYN, an ICMP error, or a SYN+ACK of which no record speaks. */
INLINE enum reason decide_from_uplink(struct __sk_buff *skb, struct work *w)
{
	const struct packet *p = &w->packet;
	enum reason reason = decide_from_net(w);
	bool begins = is_syn(p) && (reason == REASON_net_service_port || reason == REASON_net_redirect_port);
	bool strays = reason == REASON_net_client && is_syn_ack(p) && !find_any_wire(w);
	bool is_judged = p->icmp_error ? reason == REASON_net_client : begins || strays;
	be32 src = p->icmp_error ? p->error_from : v4_of(&p->src),
	     dst = p->icmp_error ? p->error_to : v4_of(&p->dst);

	return !is_judged || has_reverse_path(skb, src, dst) ? reason : REASON_reverse_path;
}

WHOLE_CHAIN(whole_from_pod, HOOK_FROM_POD, decide_from_pod)
WHOLE_CHAIN(whole_to_pod, HOOK_TO_POD, decide_to_pod)
WHOLE_CHAIN(whole_from_net, HOOK_FROM_NET, decide_from_uplink)

/* The headers of a packet that the fast path may take; 0: the whole chain is to look at it. */
INLINE struct fast_headers *fast_headers_of(struct __sk_buff *skb)
{
	struct fast_headers *h = (void *)(long)skb->data;
	be32 *options = (be32 *)(h + 1);
	bool has_options = (void *)(options + 1) <= (void *)(long)skb->data_end;

	if ((void *)options > (void *)(long)skb->data_end || skb->vlan_present)
		return 0;
	return is_fast(h, has_options ? *options : 0, skb->len) ? h : 0;
}

#define WAY_IS_STACK \
	0xffffffff /* in place of a way's interface: the stack is to take it, by the reason in `gateway` */

/* Notes that what a record remembers of its way is of `now`. If its memory became another connection's since
 * its life was `was`, by another processor, what was written there does not count. */
INLINE void stamp(u32 *seen, u32 now, union life *life, u64 was)
{
	*seen = now;
	if (!swap_if_same(&life->whole, was, was))
		*seen = 0;
}

/* The next hop that a record remembers, or that the routing table has now, which it then remembers:
 * REASON_none, or why the stack is to take the packet. The hop of another family than IPv4's, and one whose
 * MTU was not told, are not remembered. */
INLINE enum reason remembered_way(struct __sk_buff *skb, const struct fast_verdict *v, u32 len,
				  union way *way, u16 *mtu, bool fresh, struct next_hop *hop)
{
	union way known = { .whole = way->whole };

	if (fresh && known.ifindex == WAY_IS_STACK)
		return known.gateway & (COUNTER_REASONS - 1);
	if (fresh && known.ifindex && len <= *mtu) {
		hop->ifindex = known.ifindex;
		hop->neighbour.nh_family = AF_INET;
		hop->neighbour.ipv4_nh = known.gateway;
		return REASON_none;
	}
	enum reason left = find_next_hop(skb, v->src, v->dst, len, hop);
	if (left == REASON_stack_too_big) { /* this packet alone; but what an earlier eighth knew ends here */
		if (!fresh)
			way->whole = 0;
		return left;
	}
	known = (union way){};
	if (left)
		known = (union way){ .ifindex = WAY_IS_STACK, .gateway = left };
	else if (hop->mtu && hop->neighbour.nh_family == AF_INET)
		known = (union way){ .ifindex = hop->ifindex, .gateway = hop->neighbour.ipv4_nh };
	*mtu = (u16)hop->mtu;
	way->whole = known.whole;
	return left;
}

/* Writes the packet and sends it by `hop`, or leaves it to the stack. */
INLINE int fast_leaves(struct __sk_buff *skb, struct fast_headers *h, enum hook hook,
		       const struct fast_verdict *v, enum reason left, struct next_hop *hop)
{
	count(skb, hook, v->reason);
	if (fast_write(skb, h, v, left ? 0 : 1)) {
		count(skb, hook, REASON_rewrite_failed);
		return TC_ACT_SHOT;
	}
	if (!left)
		return (int)bpf_redirect_neigh(hop->ifindex, &hop->neighbour, sizeof hop->neighbour, 0);
	count(skb, hook, left);
	return NEXT;
}

/* There is no struct work on the fast paths: the kernel's tables, settings and clocks ask for none, so they
 * get 0. */
ALONE int fast_from_pod(struct __sk_buff *skb)
{
	struct fast_headers *h = fast_headers_of(skb);
	struct next_hop hop = {};
	struct flow_key k;

	if (!h || h->ttl <= 1)
		return WHOLE;
	struct flow *f = fast_flow(0, skb->ifindex, h, &k);
	if (!f)
		return WHOLE;
	u64 life = f->life.whole;
	struct fast_verdict v = fast_sends(h, f);
	u32 now = stamp_now(0), len = ip_len(skb, IPV4_LEN + (h->offset >> 4) * 4, 0);
	bool fresh = f->seen == now;
	if (v.reason == REASON_none || (!fresh && is_client_state(f->life.state) && server_is_gone(0, &k, f)))
		return WHOLE;
	enum reason left = remembered_way(skb, &v, len, &f->way, &f->mtu, fresh, &hop);
	if (!fresh)
		stamp(&f->seen, now, &f->life, life);
	return fast_leaves(skb, h, HOOK_FROM_POD, &v, left, &hop);
}

ALONE int fast_to_pod(struct __sk_buff *skb)
{
	struct fast_headers *h = fast_headers_of(skb);

	if (!h)
		return WHOLE;
	struct wire *wire = fast_wire(0, h);
	if (!wire || wire->ifindex != skb->ifindex)
		return WHOLE;
	struct fast_verdict v = fast_receives(0, h, wire);
	if (v.reason == REASON_none)
		return WHOLE;
	count(skb, HOOK_TO_POD, v.reason);
	if (fast_write(skb, h, &v, 0)) {
		count(skb, HOOK_TO_POD, REASON_rewrite_failed);
		return TC_ACT_SHOT;
	}
	return NEXT;
}

ALONE int fast_from_net(struct __sk_buff *skb)
{
	struct fast_headers *h = fast_headers_of(skb);
	struct next_hop hop = {};

	if (!h || h->ttl <= 1 || skb->pkt_type != PACKET_HOST)
		return WHOLE;
	struct wire *wire = fast_wire(0, h);
	if (!wire)
		return WHOLE;
	u64 life = wire->life.whole;
	struct fast_verdict v = fast_passes_node(h, wire);
	if (v.reason == REASON_none)
		return WHOLE;
	u32 now = stamp_now(0), len = ip_len(skb, IPV4_LEN + (h->offset >> 4) * 4, 0);
	bool fresh = wire->seen == now;
	enum reason left = remembered_way(skb, &v, len, &wire->way, &wire->mtu, fresh, &hop);
	if (!fresh)
		stamp(&wire->seen, now, &wire->life, life);
	return fast_leaves(skb, h, HOOK_FROM_NET, &v, left, &hop);
}

#define PROGRAM(name, section, hook, fast, whole) \
	SEC(section) int name(struct __sk_buff *skb) \
	{ \
		int done = fast(skb); \
		return done == WHOLE ? finish(skb, hook, whole(skb)) : done; \
	}

PROGRAM(wharf_from_pod, "tcx/ingress", HOOK_FROM_POD, fast_from_pod, whole_from_pod)
PROGRAM(wharf_to_pod, "tcx/egress", HOOK_TO_POD, fast_to_pod, whole_to_pod)
PROGRAM(wharf_from_net, "tcx/ingress", HOOK_FROM_NET, fast_from_net, whole_from_net)

/* Before the others, while the records of connections go from a former release's tables to this one's
 * (kernel.py): what a packet changed meanwhile would be lost, and TCP repeats the packet. The hold ends by
 * itself, should the agent. */
#define HOLD(name, section, hook) \
	SEC(section) int name(struct __sk_buff *skb) \
	{ \
		struct work *w = \
			bpf_ktime_get_ns() < setting(0, SETTING_HELD_UNTIL) ? load(skb, WORK_OF_HOOKS) : 0; \
		if (!w || parse(&w->headers, &w->packet) != REASON_none || w->packet.icmp_error || \
		    w->packet.proto != PROTO_TCP) \
			return NEXT; \
		count(skb, hook, REASON_held); \
		return TC_ACT_SHOT; \
	}

HOLD(wharf_hold_from_pod, "tcx/ingress", HOOK_FROM_POD)
HOLD(wharf_hold_to_pod, "tcx/egress", HOOK_TO_POD)

/* Run by the agent (BPF_PROG_RUN) with the headers of a packet of a server of this node, as its stack would
 * write them to the client: step 1 leaves the pod's interface as if the stack had sent it. Its result is the
 * run's (enum asked). */
SEC("tcx/ingress") int wharf_ask(struct __sk_buff *skb)
{
	struct work *w = load(skb, WORK_OF_AGENT);

	if (!w || parse(&w->headers, &w->packet) != REASON_none)
		return ASKED_FAILED;
	start_verdict(w);
	const struct pod *pod = lookup_pods(w, &w->packet.src);
	if (!pod)
		return ASKED_NOBODY;
	enum asked asked = server_asks(skb, w, pod);
	if (asked != ASKED)
		return asked;
	u32 ifindex = pod->ifindex, mark = (u32)setting(w, SETTING_MADE);
	if (!mark || write_segment(skb, false, WORK_OF_AGENT))
		return ASKED_FAILED;
	skb->mark = mark;
	return bpf_clone_redirect(skb, ifindex, BPF_F_INGRESS) ? ASKED_FAILED : ASKED;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
