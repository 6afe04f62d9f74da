"""What is written is what is read: keys, log records, blocks and rows, and no flipped bit goes unnoticed."""

import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vecstore import CorruptionError
from vecstore.storage import blocks, keys, log
from vecstore.storage.blocks import Block, Layout
from vecstore.storage.rows import open_row, seal_rows

int_ids = st.integers(0, 2**63 - 1) | st.integers(0, 300)
str_ids = st.text(min_size=1, max_size=120)
ids = int_ids | str_ids
slot_sets = st.sets(st.integers(0, 200) | st.integers(0, 2**31 - 2), max_size=40)
HERE = Path("data.mdb")


def order(one):
    """The order of ids: ints first, and strs by their UTF-8, which is that of their code points."""
    return isinstance(one, str), one


@given(st.lists(ids))
def test_id_keys_round_trip(some):
    assert [keys.key_id(key) for key in keys.id_keys(some)] == some
    assert [type(keys.key_id(key)) for key in keys.id_keys(some)] == list(map(type, some))


@given(st.lists(str_ids))
def test_keys_of_strs_alone_are_those_of_a_mixed_list(some):
    assert keys.id_keys([1, *some])[1:] == keys.id_keys(some)


@given(st.lists(ids, unique=True))
def test_the_order_of_keys_is_the_order_of_ids(some):
    by_key = [keys.key_id(key) for key in sorted(keys.id_keys(some))]
    assert by_key == sorted(some, key=order)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_numbers_round_trip_in_order(numbers):
    for encode in (keys.block_key, keys.chunk_key, keys.slot_key, keys.lsn_key):
        encoded = sorted(map(encode, numbers))
        assert [keys.number(key) for key in encoded] == sorted(numbers)
        assert [keys.number(memoryview(key)) for key in encoded] == sorted(numbers)


@pytest.mark.parametrize("key", [b"\x00abc", b"\x03abc", b"\xff"])
def test_an_unknown_id_tag_is_refused(key):
    with pytest.raises(ValueError, match="unknown id tag"):
        keys.key_id(key)


def slots(some):
    return np.array(sorted(some), np.int64)


@given(
    slot_sets, slot_sets, slot_sets, st.integers(0, 2**31), st.integers(0, 2**31), st.sampled_from([b"", b"01234567"])
)
def test_log_entries_round_trip(added, removed, changed, high, count, write_id):
    entry = log.Entry(slots(added), slots(removed), slots(changed))
    packed = entry.pack(log.State(5, high, count, write_id))
    assert packed.endswith(write_id)
    again = log.Entry.unpack(memoryview(packed))
    for part in ("added", "removed", "changed"):
        assert getattr(again, part).tolist() == getattr(entry, part).tolist()
        assert getattr(again, part).dtype == np.int64
    assert int.from_bytes(packed[:8], "little") == high
    assert int.from_bytes(packed[8:16], "little") == count


@given(st.integers(0, 2**31 - 100_000), st.integers(1, 100_000))
def test_a_run_of_slots_takes_eight_bytes(first, n):
    entry = log.Entry(np.arange(first, first + n), log.NO_SLOTS, log.NO_SLOTS)
    assert len(entry.pack(log.State())) == 28 + 8


@given(slot_sets, st.integers(1, 40))
def test_a_shortened_log_entry_is_refused(added, cut):
    packed = log.Entry(slots(added), log.NO_SLOTS, log.NO_SLOTS).pack(log.State())
    with pytest.raises(CorruptionError, match="log is damaged"):
        log.Entry.unpack(memoryview(packed[: max(0, len(packed) - cut)]))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.data())
def test_blocks_stand_as_described_and_any_flipped_bit_is_noticed(dim, number, lsn, data):
    layout = Layout.of(dim)
    random = np.random.default_rng(dim)
    block = Block(layout, number)
    block.vectors[:] = random.standard_normal((layout.rows, dim))
    block.norms[:] = random.standard_normal(layout.rows)
    value = block.seal(lsn)
    assert len(value) == layout.size == 48 + layout.rows * dim * 4 + layout.rows * 4
    assert value[:8] == b"vblk\x01\x00" + layout.rows.to_bytes(2, "little")
    assert value[8:24] == dim.to_bytes(4, "little") + number.to_bytes(4, "little") + lsn.to_bytes(8, "little")
    assert value[32:48] == bytes(16)
    end = 48 + layout.rows * dim * 4
    assert value[48:end] == block.vectors.tobytes()
    assert value[end:] == block.norms.tobytes()
    blocks.verify(value, layout, number)
    again = Block(layout, number, bytes(value))
    assert (again.vectors == block.vectors).all()
    assert (again.norms == block.norms).all()
    assert again.seal(lsn) == value

    for at in data.draw(st.lists(st.integers(0, len(value) * 8 - 1) | st.integers(0, 48 * 8 - 1), min_size=20)):
        value[at >> 3] ^= 1 << (at & 7)
        with pytest.raises(CorruptionError, match=f"block {number} of vectors is damaged"):
            blocks.verify(value, layout, number)
        value[at >> 3] ^= 1 << (at & 7)
    blocks.verify(value, layout, number)


def test_every_bit_of_a_header_is_checked():
    layout = Layout(2, 3)
    value = Block(layout, 7).seal(9)
    for at in range(len(value) * 8):
        value[at >> 3] ^= 1 << (at & 7)
        with pytest.raises(CorruptionError):
            blocks.verify(value, layout, 7)
        value[at >> 3] ^= 1 << (at & 7)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(-60, 60))
def test_a_misplaced_or_shortened_block_is_noticed(number, other, size):
    layout = Layout(3, 3)
    value = Block(layout, number).seal(1)
    if other != number:
        with pytest.raises(CorruptionError):
            blocks.verify(value, layout, other)
    if size:
        changed = value[:size] if size < 0 else value + bytes(size)
        with pytest.raises(CorruptionError, match="bytes instead of"):
            blocks.verify(changed, layout, number)


@pytest.mark.parametrize("dims", np.array_split(np.arange(1, 8193), 8), ids=lambda dims: f"{dims[0]}-{dims[-1]}")
def test_layouts_of_all_dimensions(dims):
    for dim in dims.tolist():
        layout = Layout.of(dim)
        rows = layout.rows
        assert rows & (rows - 1) == 0
        assert 8 <= rows <= 2048
        assert rows * dim * 4 <= blocks.MAX_BLOCK_BYTES or rows == 8
        assert rows == 2048 or 2 * rows * dim * 4 > blocks.MAX_BLOCK_BYTES  # the most that fit
        # On pages of its own: LMDB keeps in a B-tree page what takes at most half of one.
        assert layout.size > mmap.PAGESIZE // 2
        assert layout.size > 16384 // 2  # of any host
        # Behind LMDB's 16 bytes and our header, rows begin on 64; and so does each if it is a multiple of that.
        assert (16 + blocks.HEADER_SIZE) % 64 == 0
        assert layout.norms_at == blocks.HEADER_SIZE + rows * dim * 4
        assert layout.size == layout.norms_at + rows * 4
        assert rows < 2**16  # as the header holds it


@given(st.lists(st.tuples(st.integers(0, 2**31 - 2), ids, st.none() | st.binary(min_size=1)), max_size=5), st.data())
def test_rows_round_trip_and_any_flipped_bit_is_noticed(some, data):
    numbers = [slot for slot, _, _ in some]
    id_keys = keys.id_keys([one for _, one, _ in some])
    payloads = [payload for _, _, payload in some]
    values = seal_rows(numbers, id_keys, payloads)
    for slot, key, payload, value in zip(numbers, id_keys, payloads, values, strict=True):
        assert open_row(memoryview(value), slot, HERE) == (key, payload)
        assert value[4:6] == len(key).to_bytes(2, "little")
        flipped = bytearray(value)
        at = data.draw(st.integers(0, len(value) * 8 - 1))
        flipped[at >> 3] ^= 1 << (at & 7)
        for wrong, place in ((flipped, slot), (value, slot + 1), (value[:-1], slot), (value[:3], slot), (b"", slot)):
            with pytest.raises(CorruptionError, match=f"slot {place} are damaged"):
                open_row(memoryview(wrong), place, HERE)
