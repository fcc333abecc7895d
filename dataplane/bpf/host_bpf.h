/* The kernel as a host of the core: maps, clocks and packet access by BPF helpers. */
#ifndef WHARFINGER_HOST_BPF_H
#define WHARFINGER_HOST_BPF_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

typedef struct __sk_buff frame;

#include "work.h"

/* Every map is pinned by its name: an agent that restarts adopts what it finds. */
#define MAP_SPARSE(n) \
	__uint(type, BPF_MAP_TYPE_HASH); \
	__uint(map_flags, BPF_F_NO_PREALLOC)
#define MAP_BOUNDED(n) __uint(type, BPF_MAP_TYPE_LRU_HASH)
#define WHARFINGER_DEFINE_MAP(name, k, v, capacity, kind) \
	struct { \
		MAP_##kind(name); \
		__uint(max_entries, capacity); \
		__type(key, k); \
		__type(value, v); \
		__uint(pinning, LIBBPF_PIN_BY_NAME); \
	} name SEC(".maps"); \
	INLINE v *lookup_##name(struct work *w, const k *key_) { return bpf_map_lookup_elem(&name, key_); }
WHARFINGER_TABLES(WHARFINGER_DEFINE_MAP)

#define WHARFINGER_DEFINE_PUT(name, k, v, capacity, kind) \
	INLINE int update_##name(struct work *w, const k *key_, const v *value) \
	{ \
		return (int)bpf_map_update_elem(&name, key_, value, BPF_ANY); \
	} \
	INLINE void delete_##name(struct work *w, const k *key_) { bpf_map_delete_elem(&name, key_); }
WHARFINGER_CONNECTION_TABLES(WHARFINGER_DEFINE_PUT)

struct counter {
	u64 packets, bytes;
};
ASSERT_SIZE(struct counter, 16);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOOK_COUNT *COUNTER_REASONS);
	__type(key, u32);
	__type(value, struct counter);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, u32);
	__type(value, u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} turns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SETTING_COUNT);
	__type(key, u32);
	__type(value, u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} events SEC(".maps");

/* Events that found the ring full: counted, never waited for. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} events_lost SEC(".maps");

/* On older kernels a packet may interrupt a program that the agent runs: that has memory of its own. */
enum { WORK_OF_HOOKS = 0, WORK_OF_AGENT, WORKS };
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WORKS);
	__type(key, u32);
	__type(value, struct work);
} works SEC(".maps");

#define ALONE __attribute__((noinline))
INLINE struct work *work_at(u32 which) { return bpf_map_lookup_elem(&works, &which); }
INLINE struct work *work_of(frame *f) { return work_at(WORK_OF_HOOKS); }

INLINE enum socket_seen ask_stack(frame *f, const struct work *w, const struct flow_key *k, struct numbers *n)
{
	struct bpf_sock_tuple pair = {
		.ipv4 = { .saddr = k->peer,
			  .daddr = k->local,
			  .sport = k->peer_port,
			  .dport = k->local_port },
	};

	if (w->netns < 0)
		return SOCKET_NONE;
	struct bpf_sock *found = bpf_skc_lookup_tcp(f, &pair, sizeof pair.ipv4, (u32)w->netns, 0);
	if (!found)
		return SOCKET_NONE;
	enum socket_seen seen = found->state == BPF_TCP_LISTEN ? SOCKET_LISTENER : SOCKET_PART;
	struct bpf_tcp_sock *whole = seen == SOCKET_PART ? bpf_tcp_sock(found) : 0;
	if (whole) {
		*n = (struct numbers){ .expects = whole->rcv_nxt,
				       .unacknowledged = whole->snd_una,
				       .next = whole->snd_nxt };
		seen = SOCKET_WHOLE;
	}
	bpf_sk_release(found);
	return seen;
}

/* Of the kernel's own structures, what is read by their type information (BTF), wherever a kernel has it. */
struct tcp_options_received {
	u32 ts_recent, rcv_tsecr;
	u16 rcv_wscale : 4;
} __attribute__((preserve_access_index));
struct tcp_sock {
	u16 tcp_header_len;
	u32 write_seq, tsoffset, rcv_wup, rcv_wnd;
	struct tcp_options_received rx_opt;
} __attribute__((preserve_access_index));

/* What is left of the window that the socket has told of. */
INLINE u16 window_left(const struct tcp_sock *s, u32 expects)
{
	u32 left = s->rcv_wup + s->rcv_wnd - expects;
	u32 window = left > s->rcv_wnd ? 0 : left >> BPF_CORE_READ_BITFIELD(s, rx_opt.rcv_wscale);

	return window > 0xffff ? 0xffff : (u16)window;
}

INLINE bool ask_rest(frame *f, const struct work *w, const struct flow_key *k, struct rest *r)
{
	struct bpf_sock_tuple pair = {
		.ipv4 = { .saddr = k->peer,
			  .daddr = k->local,
			  .sport = k->peer_port,
			  .dport = k->local_port },
	};

	if (w->netns < 0)
		return false;
	struct bpf_sock *found = bpf_skc_lookup_tcp(f, &pair, sizeof pair.ipv4, (u32)w->netns, 0);
	if (!found)
		return false;
	struct bpf_tcp_sock *numbers = found->state == BPF_TCP_ESTABLISHED ? bpf_tcp_sock(found) : 0;
	struct tcp_sock *whole = numbers ? bpf_skc_to_tcp_sock(found) : 0;
	if (whole)
		*r = (struct rest){ .numbers = { .expects = numbers->rcv_nxt,
						 .unacknowledged = numbers->snd_una,
						 .next = numbers->snd_nxt },
				    .written = whole->write_seq,
				    .value = whole->rx_opt.rcv_tsecr + whole->tsoffset, /* as on the wire */
				    .echo = whole->rx_opt.ts_recent,
				    .window = window_left(whole, numbers->rcv_nxt),
				    .timestamps = whole->tcp_header_len > TCP_LEN };
	bpf_sk_release(found);
	return whole != 0;
}

INLINE u64 now_exact(struct work *w) { return bpf_ktime_get_ns(); }
INLINE u64 now_coarse(struct work *w) { return bpf_ktime_get_coarse_ns(); }
INLINE u32 draw_random(struct work *w) { return bpf_get_prandom_u32(); }
INLINE u64 setting(struct work *w, enum setting number)
{
	u32 at = number;
	u64 *value = bpf_map_lookup_elem(&settings, &at);

	return value ? *value : 0;
}

INLINE u32 next_turn(struct work *w, u32 set)
{
	u32 at = set & 0xffff, *turn = bpf_map_lookup_elem(&turns, &at);

	return turn ? __sync_fetch_and_add(turn, 1) : 0;
}

INLINE int pkt_store(frame *f, u32 at, const void *bytes, u32 len)
{
	return (int)bpf_skb_store_bytes(f, at, bytes, len, 0);
}

INLINE int pkt_sum(frame *f, u32 at, u32 difference, u32 flags)
{
	return (int)bpf_l4_csum_replace(f, at, 0, difference, flags);
}

INLINE int pkt_resize(frame *f, u32 len) { return (int)bpf_skb_change_tail(f, len, 0); }

#endif
