"""Damage of bytes: the same number gives the same damage."""

from __future__ import annotations

import random

_NUMBERS = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_WORDS = (
    b"null", b"true", b"-1", b"0", b"1e999", b"1e-400", b"NaN", b"Infinity", b'""', b"[]", b"{}",
    b'"\\ud800"',
    b'"\\u001b[31m"', b"9" * 400, b"9" * 5000, b"[" * 2000, b'{"a":' * 500, b"&a [1]", b"*a", b"!!bool x",
    b"2001-99-99", b"0x_", b"1:" * 40, b"\xff\xfe", b"\0", b"<<: {a: 1}\n", b"? [a]\n", b"../../etc/passwd",
    b"18446744073709551616", b"-9223372036854775809", b'"' + b"a" * 3000 + b'"',
)  # fmt: skip


def damaged(whole: tuple[bytes, ...], number: int, *, is_text: bool) -> bytes:
    """Return one of several whole files with one to four damages.

    Args:
        whole: the files.
        number: which damage.
        is_text: whether whole values are replaced by others, too.
    """
    rng = random.Random(number)
    data = bytearray(rng.choice(whole))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _once(data, rng, is_text)
    return bytes(data)


def _once(data: bytearray, rng: random.Random, is_text: bool) -> None:
    place = rng.randrange(len(data) + 1)
    match rng.randrange(9 if is_text else 7):
        case 0 if data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        case 1:
            del data[place:]
        case 2:
            del data[place : place + rng.randrange(1, 16)]
        case 3:
            data[place:place] = rng.randbytes(rng.randrange(1, 16))
        case 4:
            size = rng.choice((1, 2, 4, 8))
            value = rng.choice(_NUMBERS) % 256**size
            data[place : place + size] = value.to_bytes(size, rng.choice(("little", "big")))
        case 5:
            other = rng.randrange(len(data) + 1)
            data[place:place] = data[other : other + rng.randrange(1, 64)]
        case 6:
            data[place : place + 1] = rng.choice(_WORDS)
        case _:
            _replace_value(data, rng)


def _replace_value(data: bytearray, rng: random.Random) -> None:
    """Replace what stands between two marks of JSON or YAML."""
    marks = [i for i, byte in enumerate(data) if byte in b":,[]{}\n"]
    if len(marks) > 1:
        first = rng.randrange(len(marks) - 1)
        data[marks[first] + 1 : marks[first + 1]] = b" " + rng.choice(_WORDS)
