"""Bytes that both ends can compute: the server sends them, the client knows what must arrive."""

import hashlib

BLOCK_BYTES = 64 * 1024


def blocks(count: int):
    """The first `count` bytes of the stream, in blocks of BLOCK_BYTES at most. The same for everybody, always."""
    for number in range(-(-count // BLOCK_BYTES)):
        block = hashlib.shake_128(number.to_bytes(8, "big")).digest(BLOCK_BYTES)
        yield block[: count - number * BLOCK_BYTES]


def checksum(count: int) -> str:
    """SHA-256 of the first `count` bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for block in blocks(count):
        digest.update(block)
    return digest.hexdigest()
