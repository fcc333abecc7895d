/* BLAKE2b (RFC 7693) of messages of at most one block, with a key and a personalization or without: what trace identity asks for. */
#ifndef WHARFINGER_BLAKE2B_H
#define WHARFINGER_BLAKE2B_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define BLAKE2B_BLOCK 128
#define BLAKE2B_KEY_MAX 64
#define BLAKE2B_PERSON 16

/* The chained value: between a key and its message it can be kept, so that a key costs nothing a message. */
struct blake2b {
	uint64_t h[8];
	uint64_t count;           /* bytes of the blocks taken */
};

static const uint64_t blake2b_iv[8] = {
	0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
	0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

static const uint8_t blake2b_sigma[10][16] = {
	{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
	{ 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3 },
	{ 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4 },
	{ 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8 },
	{ 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13 },
	{ 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9 },
	{ 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11 },
	{ 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10 },
	{ 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5 },
	{ 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0 },
};

static inline uint64_t blake2b_rotate(uint64_t word, int bits) { return word >> bits | word << (64 - bits); }

static inline __attribute__((always_inline)) void blake2b_mix(uint64_t v[16], int a, int b, int c, int d, uint64_t x, uint64_t y)
{
	v[a] += v[b] + x;
	v[d] = blake2b_rotate(v[d] ^ v[a], 32);
	v[c] += v[d];
	v[b] = blake2b_rotate(v[b] ^ v[c], 24);
	v[a] += v[b] + y;
	v[d] = blake2b_rotate(v[d] ^ v[a], 16);
	v[c] += v[d];
	v[b] = blake2b_rotate(v[b] ^ v[c], 63);
}

/* `size` bytes, which end the message when `last`; the rest of the block is zeros. */
static inline void blake2b_block(struct blake2b *b, const uint8_t *bytes, size_t size, size_t counted, int last)
{
	uint64_t m[16] = { 0 }, v[16];

	memcpy(m, bytes, size);
	b->count += counted;
	for (int i = 0; i < 8; i++) {
		v[i] = b->h[i];
		v[i + 8] = blake2b_iv[i];
	}
	for (int i = 0; i < 16; i++)
		m[i] = le64toh(m[i]);
	v[12] ^= b->count;
	v[14] = last ? ~v[14] : v[14];
#pragma GCC unroll 12
	for (int round = 0; round < 12; round++) {
		const uint8_t *s = blake2b_sigma[round % 10];

		blake2b_mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]]);
		blake2b_mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
		blake2b_mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]]);
		blake2b_mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
		blake2b_mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]]);
		blake2b_mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
		blake2b_mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]]);
		blake2b_mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
	}
	for (int i = 0; i < 8; i++)
		b->h[i] ^= v[i] ^ v[i + 8];
}

/* For a digest of `digest` bytes (64 at most), with a key of `key_size` bytes (BLAKE2B_KEY_MAX at most; 0: none). */
static inline void blake2b_start(struct blake2b *b, uint8_t digest, const uint8_t *key, uint8_t key_size, const uint8_t person[BLAKE2B_PERSON])
{
	uint8_t parameters[64] = { digest, key_size, 1, 1 };
	uint64_t word[8];

	memcpy(parameters + 48, person, BLAKE2B_PERSON);
	memcpy(word, parameters, sizeof word);
	for (int i = 0; i < 8; i++)
		b->h[i] = blake2b_iv[i] ^ le64toh(word[i]);
	b->count = 0;
	if (key_size)
		blake2b_block(b, key, key_size, BLAKE2B_BLOCK, 0);
}

/* The digest of `message` (1 to BLAKE2B_BLOCK bytes) under what was started, which stays as it is: its first 64 bytes. */
static inline void blake2b_digest(const struct blake2b *started, const uint8_t *message, size_t size, uint8_t out[64])
{
	struct blake2b b = *started;

	blake2b_block(&b, message, size, size, 1);
	for (int i = 0; i < 8; i++) {
		uint64_t word = htole64(b.h[i]);
		memcpy(out + 8 * i, &word, 8);
	}
}

#endif
