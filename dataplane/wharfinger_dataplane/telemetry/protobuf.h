/* The little of protobuf's encoding that a span is made of, appended to a buffer. What finds no room is left out whole and counted. */
#ifndef WHARFINGER_PROTOBUF_H
#define WHARFINGER_PROTOBUF_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

/* enum wire: a field's tag is its number << 3 | its wire type. */
#define PB_VARINT 0
#define PB_FIXED64 1
#define PB_BYTES 2
#define PB_FIXED32 5
#define PB_TAG(field, wire) ((field) << 3 | (wire))

struct protobuf {
	uint8_t *at, *end;
	uint32_t left_out;
};

static inline size_t pb_varint_size(uint64_t n)
{
	size_t size = 1;

	for (; n > 127; n >>= 7)
		size++;
	return size;
}

static inline uint8_t *pb_put_varint(uint8_t *at, uint64_t n)
{
	for (; n > 127; n >>= 7)
		*at++ = (uint8_t)n | 128;
	*at++ = (uint8_t)n;
	return at;
}

static inline size_t pb_bytes_size(size_t size) { return 1 + pb_varint_size(size) + size; } /* of a field below 16 */

static inline int pb_has_room(struct protobuf *b, size_t size)
{
	if ((size_t)(b->end - b->at) >= size)
		return 1;
	b->left_out++;
	return 0;
}

static inline uint8_t *pb_put_bytes(uint8_t *at, int field, const void *bytes, size_t size)
{
	*at = PB_TAG(field, PB_BYTES);
	at = pb_put_varint(at + 1, size);
	memcpy(at, bytes, size);
	return at + size;
}

static inline void pb_bytes(struct protobuf *b, int field, const void *bytes, size_t size)
{
	if (pb_has_room(b, pb_bytes_size(size)))
		b->at = pb_put_bytes(b->at, field, bytes, size);
}

/* Fields that are encoded already. */
static inline void pb_fields(struct protobuf *b, const void *fields, size_t size)
{
	if (pb_has_room(b, size)) {
		memcpy(b->at, fields, size);
		b->at += size;
	}
}

static inline void pb_varint(struct protobuf *b, int field, uint64_t n)
{
	if (!pb_has_room(b, 1 + pb_varint_size(n)))
		return;
	*b->at = PB_TAG(field, PB_VARINT);
	b->at = pb_put_varint(b->at + 1, n);
}

static inline void pb_fixed64(struct protobuf *b, int field, uint64_t n)
{
	if (!pb_has_room(b, 9))
		return;
	n = htole64(n);
	*b->at = PB_TAG(field, PB_FIXED64);
	memcpy(b->at + 1, &n, 8);
	b->at += 9;
}

static inline void pb_fixed32(struct protobuf *b, int field, uint32_t n)
{
	if (!pb_has_room(b, 2 + 4))
		return;
	n = htole32(n);
	b->at = pb_put_varint(b->at, PB_TAG(field, PB_FIXED32));
	memcpy(b->at, &n, 4);
	b->at += 4;
}

/* Opens a KeyValue (key 1, value 2) with an AnyValue of `value` bytes. 0: no room. */
static inline int pb_open_attribute(struct protobuf *b, int field, const char *key, size_t value)
{
	size_t name = strlen(key), pair = pb_bytes_size(name) + pb_bytes_size(value);

	if (!pb_has_room(b, pb_bytes_size(pair)))
		return 0;
	*b->at = PB_TAG(field, PB_BYTES);
	b->at = pb_put_varint(b->at + 1, pair);
	b->at = pb_put_bytes(b->at, 1, key, name);
	*b->at = PB_TAG(2, PB_BYTES);
	b->at = pb_put_varint(b->at + 1, value);
	return 1;
}

/* An attribute of text (AnyValue 1); none when it is empty. */
static inline void pb_text(struct protobuf *b, int field, const char *key, const char *text, size_t size)
{
	if (size && pb_open_attribute(b, field, key, pb_bytes_size(size)))
		b->at = pb_put_bytes(b->at, 1, text, size);
}

/* An attribute of a number (AnyValue 3); none when it is 0. */
static inline void pb_number(struct protobuf *b, int field, const char *key, uint64_t n)
{
	if (!n || !pb_open_attribute(b, field, key, 1 + pb_varint_size(n)))
		return;
	*b->at = PB_TAG(3, PB_VARINT);
	b->at = pb_put_varint(b->at + 1, n);
}

#endif
