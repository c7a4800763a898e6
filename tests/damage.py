"""Seeded damage to bytes."""

import random


def generator(*words):
    """A generator of its own for every attempt, so that one can be repeated alone."""
    return random.Random("/".join(map(str, words)))


def flipped(content, rng):
    """One bit turned over."""
    at = rng.randrange(8 * len(content))
    changed = bytearray(content)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


def mutated(content, rng):
    """One to three bytes, numbers or stretches changed, cut out, repeated or put in."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        size = len(changed)
        at = rng.randrange(max(size, 1))
        match rng.choice(("flip", "byte", "delete", "insert", "number", "cut", "zeros", "repeat")):
            case "flip" if size:
                changed[at] ^= 1 << rng.randrange(8)
            case "byte":
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case "delete":
                del changed[at : at + rng.randint(1, 9)]
            case "insert":
                changed[at:at] = rng.randbytes(rng.randint(1, 9))
            case "number":
                digit = next((i for i in range(at, size) if 48 <= changed[i] < 58), at)
                changed[digit : digit + 1] = rng.choice((b"9" * 12, b"-1", b"0", b"1e9", b"NaN"))
            case "cut":
                del changed[at:]
            case "zeros":
                length = min(rng.randint(1, 64), len(changed) - at)
                changed[at : at + length] = bytes(max(length, 0))
            case "repeat":
                changed[at:at] = changed[at : at + rng.randint(1, 99)]
    return bytes(changed)
