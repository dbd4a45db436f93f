"""Threefry-2x32-20, the block cipher under every draw: a key and a 64-bit counter in, 64 random bits out.

The cipher is written twice, equal bit for bit: on Python ints, where a few hundred blocks cost less than the overhead
of a hundred kernels, and on int32 lanes, which vectorize, batch and compile.

Source: Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4, and Random123.
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from functional_train.values._watching import is_readable

# The ints are read as bytes in torch's own order, which is little-endian wherever torch is released.
HOST_BLOCKS = 256 if sys.byteorder == "little" else 0

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_NUM_ROUNDS = 20
_PARITY = 0x1BD11BDA
_WORD = 0xFFFFFFFF
_FIELD_BITS = 128
# As many numbers as the vector registers of any machine hold, a few times over.
ROW = 16


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's values may be read now: on the CPU, with nothing that batches, traces or watches it."""
    return is_readable(tensor) and tensor.device.type == "cpu"


def encrypt_ints(key: Sequence[int], high: int, low: int, ones: int = 1) -> tuple[int, int]:
    """Encrypt the counter of two words; every word, given and returned, is in [0, 2**32).

    One int may hold a word in each of its 128-bit fields; then `ones` holds a 1 in each. A field is wide enough that no
    sum and no shift disturbs the 32 bits of its neighbors.
    """
    words = _WORD * ones
    schedule = (key[0] * ones, key[1] * ones, (key[0] ^ key[1] ^ _PARITY) * ones)
    x0, x1 = high + schedule[0] & words, low + schedule[1] & words
    for index in range(_NUM_ROUNDS):
        rotation = _ROTATIONS[index % 8]
        x0 = x0 + x1 & words
        x1 = (x1 << rotation | x1 >> 32 - rotation) & words ^ x0
        group, position = divmod(index + 1, 4)
        if position == 0:
            x0 = x0 + schedule[group % 3] & words
            x1 = x1 + schedule[(group + 1) % 3] + group * ones & words
    return x0, x1


def encrypt_lanes(key: Tensor, high: int | Tensor, low: int | Tensor) -> tuple[Tensor, Tensor]:
    """Encrypt counters whose words are ints in [-2**31, 2**31) or int32 tensors; returns the words' bits as int32.

    int32 addition wraps. The right shift copies the sign, so the copies are masked away. Operation by operation, the
    left shift is an addition times a power of two, which saves a pass over memory; in machine code a multiplication
    costs more than a shift.
    """
    key0, key1 = key.to(torch.int32).unbind()
    schedule = (key0, key1, key0 ^ key1 ^ _PARITY)
    shifts, masks = _shifts_and_masks(key)
    runs_now = is_plain(key)
    x1 = key1 + low
    x0 = key0 + high + x1
    for index in range(_NUM_ROUNDS):
        # What is written in place was made here, and no autograd graph holds integers.
        x0 = x0.add_(x1) if index > 0 else x0
        turned = (x1 >> shifts[index % 8]).bitwise_and_(masks[index % 8])
        if runs_now:
            x1 = turned.add_(x1, alpha=1 << _ROTATIONS[index % 8]).bitwise_xor_(x0)
        else:
            x1 = (turned | x1 << _ROTATIONS[index % 8]) ^ x0
        group, position = divmod(index + 1, 4)
        if position == 0:
            x0.add_(schedule[group % 3])
            x1.add_(schedule[(group + 1) % 3] + group)
    return x0, x1


def lanes(key: Tensor, count: int, domain: int = 0) -> tuple[Tensor, Tensor]:
    """The first and the second words of blocks 0 to count - 1, the bits as int32; `domain` sets counters' top bits."""
    if is_plain(key) and count <= HOST_BLOCKS:
        return _host_lanes(key, count, domain)
    return encrypt_lanes(key, *_counters(key, count, domain))


def sequence(key: Tensor, num: int) -> Tensor:
    """`num` words in the order of `in_order`, the bits as int32."""
    return in_order(*lanes(key, blocks_for(num)), num)


def blocks_for(num: int) -> int:
    """How many blocks `num` words need: whole rows."""
    return (num + 2 * ROW - 1) // (2 * ROW) * ROW


def in_order(first: Tensor, second: Tensor, num: int) -> Tensor:
    """What comes of first and of second words, a row of the ones and a row of the others in turn.

    So all numbers of a row are computed and stored together. Word by word they could not be.
    """
    return torch.stack((first.view(-1, ROW), second.view(-1, ROW)), 1).view(-1)[:num]


def words(key: Tensor, count: int, domain: int = 0) -> Tensor:
    """Blocks 0 to count - 1 as int64 words in [0, 2**32), shape (count, 2)."""
    return _join(*lanes(key, count, domain))


def pairs(key: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first and the second words of blocks 0 to count - 1, as int64 in [0, 2**32)."""
    first, second = lanes(key, count)
    return unsigned(first), unsigned(second)


def unsigned(lane: Tensor) -> Tensor:
    """32 bits as int64 in [0, 2**32)."""
    return lane.to(torch.int64).bitwise_and_(_WORD)


def block(key: Tensor, index: int | Tensor, domain: int) -> Tensor:
    """The block at one counter, `index` modulo 2**62, as int64 words of shape (2,); `domain` sets its two top bits."""
    if isinstance(index, Tensor) and is_plain(index):
        index = int(index) & 0x3FFFFFFFFFFFFFFF
    if isinstance(index, Tensor):
        high, low = halves(index)
        return _join(*encrypt_lanes(key, high & 0x3FFFFFFF | _signed(domain), low))
    high, low = domain | index >> 32, index & _WORD
    if is_plain(key):
        return torch.tensor(encrypt_ints(_read(key), high, low), device=key.device)
    return _join(*encrypt_lanes(key, _signed(high), _signed(low)))


def halves(index: Tensor) -> tuple[Tensor, Tensor]:
    """The high and the low words of int64 counters, as int32."""
    return (index >> 32).to(torch.int32), index.to(torch.int32)


def _counters(key: Tensor, count: int, domain: int) -> tuple[int | Tensor, Tensor]:
    if count <= 2**31:
        return _signed(domain), torch.arange(count, dtype=torch.int32, device=key.device)
    high, low = halves(torch.arange(count, dtype=torch.int64, device=key.device))
    return high | _signed(domain), low


def _host_lanes(key: Tensor, count: int, domain: int) -> tuple[Tensor, Tensor]:
    num_bytes = _FIELD_BITS // 8
    ones = ((1 << _FIELD_BITS * count) - 1) // ((1 << _FIELD_BITS) - 1)
    low = int.from_bytes(b"".join([index.to_bytes(num_bytes, "little") for index in range(count)]), "little")
    first, second = encrypt_ints(_read(key), domain * ones, low, ones)
    fields = bytearray((first | second << 64).to_bytes(num_bytes * count, "little"))
    if count == 0:  # an empty buffer is one that torch refuses
        return key.new_empty(0, dtype=torch.int32), key.new_empty(0, dtype=torch.int32)
    first_lane, _, second_lane, _ = torch.frombuffer(fields, dtype=torch.int32).view(count, 4).t().contiguous()
    return first_lane, second_lane


def _read(key: Tensor) -> list[int]:
    return [word & _WORD for word in key.tolist()]


def _join(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack((first, second), -1).to(torch.int64).bitwise_and_(_WORD)


def _signed(word: int) -> int:
    return word - (word >> 31 << 32)


def _shifts_and_masks(key: Tensor) -> tuple[Sequence[int | Tensor], Sequence[int | Tensor]]:
    shifts = [32 - rotation for rotation in _ROTATIONS]
    masks = [(1 << rotation) - 1 for rotation in _ROTATIONS]
    if not is_plain(key):
        return shifts, masks
    # A Python number is made a tensor anew at every call, which costs more than a small kernel.
    constants = torch.tensor(shifts + masks, dtype=torch.int32, device=key.device).unbind()
    return constants[:8], constants[8:]
