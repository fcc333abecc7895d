"""A model of SipHash-2-4 in its form of 128 bits, as its authors' paper describes it, and their program's first digests."""

import struct

MASK = (1 << 64) - 1
PUBLISHED = {0: "a3817f04ba25a8e66df67214c7550293", 1: "da87c1d86b99af44347659119b22fc45", 15: "5493e99933b0a8117e08ec0f97cfc3d9"}
"""vectors_sip128 of the reference implementation: size of the message 00 01 02 ... -> digest, under the key 00 01 ... 0f."""


def rotated(word, bits):
    return (word << bits | word >> 64 - bits) & MASK


def after_rounds(count, a, b, c, d):
    for _ in range(count):
        a, c = (a + b) & MASK, (c + d) & MASK
        b, d = rotated(b, 13) ^ a, rotated(d, 16) ^ c
        a = rotated(a, 32)
        c, a = (c + b) & MASK, (a + d) & MASK
        b, d = rotated(b, 17) ^ c, rotated(d, 21) ^ a
        c = rotated(c, 32)
    return a, b, c, d


def siphash(key, message):
    """The 16 bytes of the digest."""
    low, high = struct.unpack("<2Q", key)
    a, b, c, d = (word ^ int.from_bytes(text) for word, text in zip(
        (low, high, low, high), (b"somepseu", b"dorandom", b"lygenera", b"tedbytes"), strict=True))
    b ^= 0xEE
    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for (word,) in struct.iter_unpack("<Q", padded):
        a, b, c, d = after_rounds(2, a, b, c, d ^ word)
        a ^= word
    a, b, c, d = after_rounds(4, a, b, c ^ 0xEE, d)
    first = a ^ b ^ c ^ d
    a, b, c, d = after_rounds(4, a, b ^ 0xDD, c, d)
    return struct.pack("<2Q", first, a ^ b ^ c ^ d)
