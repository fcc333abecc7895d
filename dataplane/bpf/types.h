/* Base types of the core, for both of its hosts: clang's BPF target and the C compiler of the Cython engine.
 * Byte order is in the type: be16 and be32 are as on the wire, u16 and u32 are numbers.
 * `bool` answers a question; `int` is 0 for success or an error, unless a comment says otherwise. */
#ifndef WHARFINGER_TYPES_H
#define WHARFINGER_TYPES_H

#include <linux/types.h>
#include <stdbool.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __be16 be16;
typedef __be32 be32;

#define INLINE static inline __attribute__((always_inline))
#define ASSERT_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " is not " #bytes " bytes")

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
INLINE be16 to_be16(u16 n) { return (be16)__builtin_bswap16(n); }
INLINE be32 to_be32(u32 n) { return (be32)__builtin_bswap32(n); }
#else
INLINE be16 to_be16(u16 n) { return (be16)n; }
INLINE be32 to_be32(u32 n) { return (be32)n; }
#endif
/* The empty statement keeps clang from dropping the mask as superfluous: the verifiers of 6.1 and 6.12 take
 * the result of a byte swap for any number of 64 bits. */
INLINE u16 from_be16(be16 n)
{
	u32 number = to_be16((u16)n);

	__asm__ volatile("" : "+r"(number));
	return number & 0xffff;
}
INLINE u32 from_be32(be32 n) { return (u32)to_be32((u32)n); }

/* An IPv6 address, or an IPv4 address mapped into it (::ffff:a.b.c.d): one shape for both families. */
struct addr {
	union {
		be32 word[4];
		u8 byte[16];
	};
};
ASSERT_SIZE(struct addr, 16);

INLINE struct addr addr_from_v4(be32 v4) { return (struct addr){ .word = { 0, 0, to_be32(0xffff), v4 } }; }

INLINE be32 v4_of(const struct addr *a) { return a->word[3]; }

INLINE bool addr_equal(const struct addr *a, const struct addr *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

#endif
