/* A process as a host of the core: tables in memory, the clock and the dice given as arguments, packets as
 * bytes. The other side of host_bpf.h; _engine.pyx gives it to Python. */
#ifndef WHARFINGER_HOST_ENGINE_H
#define WHARFINGER_HOST_ENGINE_H

#include <stdlib.h>
#include <string.h>

struct engine;
typedef struct engine frame;

#include "work.h"

/* A chained hash table whose values stay where they are while others come and go, as the kernel's do. */
struct engine_node {
	struct engine_node *next;
	u32 hash;
	u8 bytes[] __attribute__((aligned(8))); /* the value, then the key */
};

struct engine_table {
	u32 key_size, value_size, capacity, bounded;
	u32 count, buckets; /* buckets: a power of two */
	struct engine_node **bucket;
};

#define WHARFINGER_TABLE_ID(name, key, value, capacity, kind) TABLE_##name,
enum engine_table_id { WHARFINGER_TABLES(WHARFINGER_TABLE_ID) TABLE_COUNT };

struct held {
	struct rest rest;
	u32 seen; /* enum socket_seen */
};

#define ENGINE_PACKET_MAX 65536
struct engine {
	struct engine_table table[TABLE_COUNT];
	struct engine_table sockets; /* of struct held: the pods', by the keys of flows */
	u32 turns[65536];
	u64 setting[SETTING_COUNT];
	u32 whole_chain; /* not 0: every packet takes the whole chain */
	u64 now_ns;
	u32 random;
	u32 packet_len;
	u8 packet[ENGINE_PACKET_MAX];
	struct work work;
};

static u32 engine_hash(const u8 *key, u32 len)
{
	u32 h = 2166136261u; /* FNV-1a */

	for (u32 i = 0; i < len; i++)
		h = (h ^ key[i]) * 16777619u;
	return h;
}

static struct engine_node **engine_slot(struct engine_table *t, const void *key, u32 hash)
{
	struct engine_node **at = &t->bucket[hash & (t->buckets - 1)];

	while (*at && ((*at)->hash != hash || memcmp((*at)->bytes + t->value_size, key, t->key_size)))
		at = &(*at)->next;
	return at;
}

static void *engine_find(struct engine_table *t, const void *key)
{
	struct engine_node *node = *engine_slot(t, key, engine_hash(key, t->key_size));

	return node ? node->bytes : 0;
}

static int engine_drop(struct engine_table *t, const void *key)
{
	struct engine_node **at = engine_slot(t, key, engine_hash(key, t->key_size)), *node = *at;

	if (!node)
		return 0;
	*at = node->next;
	free(node);
	t->count--;
	return 1;
}

static void engine_evict(struct engine_table *t)
{
	for (u32 i = 0; i < t->buckets; i++)
		if (t->bucket[i]) {
			struct engine_node *node = t->bucket[i];
			t->bucket[i] = node->next;
			free(node);
			t->count--;
			return;
		}
}

static int engine_grow(struct engine_table *t)
{
	u32 buckets = t->buckets * 2;
	struct engine_node **bucket = calloc(buckets, sizeof *bucket);

	if (!bucket)
		return -1;
	for (u32 i = 0; i < t->buckets; i++)
		for (struct engine_node *node = t->bucket[i], *next; node; node = next) {
			next = node->next;
			node->next = bucket[node->hash & (buckets - 1)];
			bucket[node->hash & (buckets - 1)] = node;
		}
	free(t->bucket);
	t->bucket = bucket;
	t->buckets = buckets;
	return 0;
}

/* 0; -1: full, or no memory. */
static int engine_put(struct engine_table *t, const void *key, const void *value)
{
	u32 hash = engine_hash(key, t->key_size);
	struct engine_node *node = *engine_slot(t, key, hash);

	if (node) {
		memcpy(node->bytes, value, t->value_size);
		return 0;
	}
	if (t->count >= t->capacity && t->bounded)
		engine_evict(t);
	if (t->count >= t->capacity || (t->count >= t->buckets && engine_grow(t)))
		return -1;
	node = malloc(sizeof *node + t->value_size + t->key_size);
	if (!node)
		return -1;
	node->hash = hash;
	memcpy(node->bytes, value, t->value_size);
	memcpy(node->bytes + t->value_size, key, t->key_size);
	node->next = t->bucket[hash & (t->buckets - 1)];
	t->bucket[hash & (t->buckets - 1)] = node;
	t->count++;
	return 0;
}

#define ENGINE_BOUNDED_SPARSE 0
#define ENGINE_BOUNDED_BOUNDED 1
static struct engine_table engine_table_of(u32 key_size, u32 value_size, u32 capacity, u32 bounded)
{
	return (struct engine_table){ .key_size = key_size,
				      .value_size = value_size,
				      .capacity = capacity,
				      .bounded = bounded,
				      .buckets = 64,
				      .bucket = calloc(64, sizeof(void *)) };
}

static struct engine *engine_new(void)
{
	struct engine *e = calloc(1, sizeof *e);

	if (!e)
		return 0;
#define ENGINE_TABLE(name, key, value, size, kind) \
	e->table[TABLE_##name] = engine_table_of(sizeof(key), sizeof(value), size, ENGINE_BOUNDED_##kind);
	WHARFINGER_TABLES(ENGINE_TABLE)
#undef ENGINE_TABLE
	e->sockets = engine_table_of(sizeof(struct flow_key), sizeof(struct held), 65536, 0);
	for (int i = 0; i < TABLE_COUNT; i++)
		if (!e->table[i].bucket)
			return 0;
	return e->sockets.bucket ? e : 0;
}

static void engine_empty(struct engine_table *t)
{
	while (t->count)
		engine_evict(t);
	free(t->bucket);
}

static void engine_free(struct engine *e)
{
	for (int i = 0; i < TABLE_COUNT; i++)
		engine_empty(&e->table[i]);
	engine_empty(&e->sockets);
	free(e);
}

INLINE struct engine *engine_of(struct work *w) { return w->host; }
#define ENGINE_FIND(name, key, value, capacity, kind) \
	INLINE value *lookup_##name(struct work *w, const key *k) \
	{ \
		return engine_find(&engine_of(w)->table[TABLE_##name], k); \
	}
WHARFINGER_TABLES(ENGINE_FIND)
#undef ENGINE_FIND
#define ENGINE_PUT(name, key, value, capacity, kind) \
	INLINE int update_##name(struct work *w, const key *k, const value *v) \
	{ \
		return engine_put(&engine_of(w)->table[TABLE_##name], k, v); \
	} \
	INLINE void delete_##name(struct work *w, const key *k) \
	{ \
		engine_drop(&engine_of(w)->table[TABLE_##name], k); \
	}
WHARFINGER_CONNECTION_TABLES(ENGINE_PUT)
#undef ENGINE_PUT
#define ALONE static
INLINE struct work *work_of(frame *f) { return &f->work; }
INLINE enum socket_seen ask_stack(frame *f, const struct work *w, const struct flow_key *k, struct numbers *n)
{
	struct flow_key pair = *k;

	pair.ifindex = 0;
	const struct held *found = w->netns < 0 ? 0 : engine_find(&f->sockets, &pair);
	if (found && found->seen == SOCKET_WHOLE)
		*n = found->rest.numbers;
	return found ? found->seen : SOCKET_NONE;
}
INLINE bool ask_rest(frame *f, const struct work *w, const struct flow_key *k, struct rest *r)
{
	struct flow_key pair = *k;

	pair.ifindex = 0;
	const struct held *found = w->netns < 0 ? 0 : engine_find(&f->sockets, &pair);
	if (!found || found->seen != SOCKET_WHOLE)
		return false;
	*r = found->rest;
	return true;
}
INLINE u64 setting(struct work *w, enum setting number) { return engine_of(w)->setting[number]; }
INLINE u64 now_exact(struct work *w) { return engine_of(w)->now_ns; }
INLINE u64 now_coarse(struct work *w) { return engine_of(w)->now_ns; }
INLINE u32 draw_random(struct work *w) { return engine_of(w)->random; }
INLINE u32 next_turn(struct work *w, u32 set) { return engine_of(w)->turns[set & 0xffff]++; }

INLINE int pkt_store(frame *e, u32 at, const void *bytes, u32 len)
{
	if (at + len > e->packet_len)
		return -1;
	memcpy(e->packet + at, bytes, len);
	return 0;
}

/* Here checksums are always whole, so the pseudo-header's share needs no telling apart. */
INLINE int pkt_sum(frame *e, u32 at, u32 difference, u32 flags)
{
	u32 sum;
	u16 was;

	if (at + 2 > e->packet_len)
		return -1;
	memcpy(&was, e->packet + at, 2);
	sum = (u16)~was + (difference & 0xffff) + (difference >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	was = (u16) ~((sum & 0xffff) + (sum >> 16));
	memcpy(e->packet + at, &was, 2);
	return 0;
}
INLINE int pkt_resize(frame *e, u32 len)
{
	if (len > ENGINE_PACKET_MAX)
		return -1;
	if (len > e->packet_len)
		memset(e->packet + e->packet_len, 0, len - e->packet_len);
	e->packet_len = len;
	return 0;
}

#include "decide.h"
#include "fast.h"
#include "rewrite.h"

#define ENGINE_OUTCOME(name, outcome, words) OUTCOME_##outcome,
static const u8 engine_outcome[] = { WHARFINGER_REASONS(ENGINE_OUTCOME) };
#define ENGINE_NAME(name, outcome, words) #name,
static const char *const engine_reason_name[] = { WHARFINGER_REASONS(ENGINE_NAME) };
#define ENGINE_WORDS(name, outcome, words) words,
static const char *const engine_reason_words[] = { WHARFINGER_REASONS(ENGINE_WORDS) };
#define ENGINE_TABLE_NAME(name, key, value, capacity, kind) #name,
static const char *const engine_table_name[] = { WHARFINGER_TABLES(ENGINE_TABLE_NAME) };

static int engine_whole_chain(struct engine *e, enum hook hook)
{
	struct work *w = &e->work;

	w->headers.packet_len = e->packet_len;
	w->headers.len = e->packet_len < HEADER_LOAD ? e->packet_len : HEADER_LOAD;
	memcpy(w->headers.byte, e->packet, w->headers.len);
	if (e->packet_len < ETH_LEN + IPV4_LEN)
		return REASON_not_ip;
	enum reason reason = parse(&w->headers, &w->packet);
	if (reason == REASON_none)
		reason = hook == HOOK_FROM_POD ? decide_from_pod(e, w)
			 : hook == HOOK_TO_POD ? decide_to_pod(e, w)
					       : decide_from_net(w);
	u8 outcome = engine_outcome[reason];
	bool made = w->verdict.answer.flags != 0;
	int failed = outcome == OUTCOME_DELIVER || outcome == OUTCOME_FORWARD
			     ? (made ? rewrite_segment(e, w) : rewrite(e, w, 0))
		     : outcome == OUTCOME_REFLECT ? rewrite_turned(e, w)
		     : outcome == OUTCOME_ANSWER  ? rewrite_answer(e, w)
						  : 0;
	return failed ? REASON_rewrite_failed : reason;
}

/* As the programs' fast paths, but for the way on, which a process has none of. */
static int engine_fast_path(struct engine *e, enum hook hook, u32 ifindex)
{
	struct work *w = &e->work;
	struct fast_headers *h = (struct fast_headers *)e->packet;
	struct fast_verdict v = {};
	struct flow_key k;
	be32 options = 0;

	if (e->packet_len >= sizeof *h + sizeof options)
		memcpy(&options, e->packet + sizeof *h, sizeof options);
	if (e->packet_len < sizeof *h || !is_fast(h, options, e->packet_len) ||
	    (hook != HOOK_TO_POD && h->ttl <= 1))
		return REASON_none;
	if (hook == HOOK_FROM_POD) {
		struct flow *f = fast_flow(w, ifindex, h, &k);
		u32 now = stamp_now(w);
		bool gone = f && f->seen != now && is_client_state(f->life.state) && server_is_gone(w, &k, f);
		if (f && !gone)
			v = fast_sends(h, f);
		if (v.reason != REASON_none)
			f->seen = now;
	} else {
		struct wire *wire = fast_wire(w, h);
		if (wire && hook == HOOK_FROM_NET)
			v = fast_passes_node(h, wire);
		else if (wire && wire->ifindex == ifindex)
			v = fast_receives(w, h, wire);
	}
	return v.reason != REASON_none && fast_write(e, h, &v, 0) ? REASON_rewrite_failed : v.reason;
}

/* One packet, in engine.packet and packet_len, through a hook: its reason; the packet is changed in place as
 * the programs would change it, except what sending on adds (the link header, the time to live). */
static int engine_run(struct engine *e, enum hook hook, u32 ifindex)
{
	struct work *w = &e->work;

	w->host = e;
	w->ifindex = ifindex;
	w->event.kind = EVENT_NONE;
	memset(&w->packet, 0, sizeof w->packet);
	int reason = e->whole_chain ? REASON_none : engine_fast_path(e, hook, ifindex);
	return reason != REASON_none ? reason : engine_whole_chain(e, hook);
}

#endif
