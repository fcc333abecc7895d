# distutils: language = c
"""Maglev's look-up table (Eisenbud et al., NSDI 2016, section 3.4): even shares, and little disruption when members come and go."""

from hashlib import blake2b

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc


def maglev(members: list[bytes], int size) -> list:
    """`size` slots (a prime, greater than the number of members), each the position in `members` of its owner.

    The members' names alone decide, and not their order: sort them the same way everywhere and every node draws the same table.
    """
    cdef int count = len(members), filled = 0, n
    cdef uint64_t slot
    if count == 0:
        return []
    if count > size:
        raise ValueError(f"{count} members in a table of {size} slots")
    cdef uint64_t *offset = <uint64_t *>malloc(count * sizeof(uint64_t))
    cdef uint64_t *skip = <uint64_t *>malloc(count * sizeof(uint64_t))
    cdef int32_t *owner = <int32_t *>calloc(size, sizeof(int32_t))
    if offset is NULL or skip is NULL or owner is NULL:
        free(offset)
        free(skip)
        free(owner)
        raise MemoryError(f"no memory for a table of {size} slots")
    try:
        for n in range(count):
            digest = blake2b(members[n], digest_size=16, person=b"wharfinger").digest()
            offset[n] = <uint64_t>int.from_bytes(digest[:8], "big") % size
            skip[n] = <uint64_t>int.from_bytes(digest[8:], "big") % (size - 1) + 1
        while filled < size:
            for n in range(count):
                slot = offset[n]
                while owner[slot]:
                    slot = (slot + skip[n]) % size
                owner[slot] = n + 1
                offset[n] = (slot + skip[n]) % size
                filled += 1
                if filled == size:
                    break
        return [owner[n] - 1 for n in range(size)]
    finally:
        free(offset)
        free(skip)
        free(owner)
