/* SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012), its form of 128 bits, a word of
 * 8 bytes at a time: little-endian, the last one with the message's length in its highest byte. It is made
 * for short messages, and cheap enough for a packet. */
#ifndef WHARFINGER_SIPHASH_H
#define WHARFINGER_SIPHASH_H

#include "types.h"

struct siphash {
	u64 v[4];
};

INLINE u64 siphash_rotate(u64 word, int bits) { return word << bits | word >> (64 - bits); }

INLINE void siphash_round(struct siphash *s)
{
	s->v[0] += s->v[1];
	s->v[2] += s->v[3];
	s->v[1] = siphash_rotate(s->v[1], 13) ^ s->v[0];
	s->v[3] = siphash_rotate(s->v[3], 16) ^ s->v[2];
	s->v[0] = siphash_rotate(s->v[0], 32) + s->v[3];
	s->v[2] += s->v[1];
	s->v[1] = siphash_rotate(s->v[1], 17) ^ s->v[2];
	s->v[3] = siphash_rotate(s->v[3], 21) ^ s->v[0];
	s->v[2] = siphash_rotate(s->v[2], 32);
}

INLINE struct siphash siphash_start(u64 key0, u64 key1)
{
	return (struct siphash){ .v = { key0 ^ 0x736f6d6570736575, key1 ^ 0x646f72616e646f6d ^ 0xee,
					key0 ^ 0x6c7967656e657261, key1 ^ 0x7465646279746573 } };
}

INLINE void siphash_word(struct siphash *s, u64 word)
{
	s->v[3] ^= word;
	siphash_round(s);
	siphash_round(s);
	s->v[0] ^= word;
}

INLINE u64 siphash_end(struct siphash *s)
{
	for (int n = 0; n < 4; n++)
		siphash_round(s);
	return s->v[0] ^ s->v[1] ^ s->v[2] ^ s->v[3];
}

/* The digest's first 8 bytes, after the last word; then its others. */
INLINE u64 siphash_low(struct siphash *s)
{
	s->v[2] ^= 0xee;
	return siphash_end(s);
}

INLINE u64 siphash_high(struct siphash *s)
{
	s->v[1] ^= 0xdd;
	return siphash_end(s);
}

#endif
