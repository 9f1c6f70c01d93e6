"""The index by example: what holds a chunk, what leaves first, what goes to disk and back."""

from __future__ import annotations

import numpy as np
import pytest
from index_stories import CHUNK_BYTES, length, make_index, reserve, spill_all, text_of, tokens

from radixkv import HandleClosedError, RadixIndex
from radixkv.commands import NO_EXTENT


@pytest.fixture
def index() -> RadixIndex:
    return make_index()


# --- Holding ---


def test_evict_skips_what_a_handle_pins(index):
    index.insert(tokens("aabb"))
    index.insert(tokens("aacc"))

    with index.acquire(tokens("aabb")):
        evicted = index.evict("memory", 4 * CHUNK_BYTES)

        assert len(evicted) == 1
        assert length(index, "aabb") == 4
        assert length(index, "aacc") == 2


def test_a_released_pin_makes_its_chunks_evictable_again(index):
    index.insert(tokens("aabb"))
    handle = index.acquire(tokens("aabb"))
    assert len(index.evict("memory", 4 * CHUNK_BYTES)) == 0

    handle.close()
    handle.close()

    assert len(index.evict("memory", 4 * CHUNK_BYTES)) == 2


def test_a_handle_that_is_forgotten_releases_its_pin(index):
    index.insert(tokens("aabb"))
    handle = index.acquire(tokens("aabb"))
    assert index.stats().pins == 1

    del handle

    assert index.stats().pins == 0


def test_a_closed_handle_is_refused(index):
    index.insert(tokens("aa"))
    handle = index.acquire(tokens("aa"))
    handle.close()

    with pytest.raises(HandleClosedError):
        handle.slices()
    with pytest.raises(HandleClosedError):
        index.use(handle, 0, 1)


def test_a_pin_survives_a_split_inside_its_chunk():
    index = make_index(chunk_tokens=4)
    index.insert(tokens("aaaabbbb"))
    with index.acquire(tokens("aaaabbbb")) as handle:
        index.insert(tokens("aaaabbcc"))
        index.insert(tokens("aaxx"))
        index.evict("memory", 100 * CHUNK_BYTES)

        assert handle.num_memory_tokens == 8
        assert length(index, "aaaabbbb") == 8


def test_a_use_keeps_the_extent_until_the_load_completes(index):
    index.insert(tokens("aabb"))
    with index.acquire(tokens("aabb")) as handle:
        slices = index.use(handle, 1, 2)
    assert slices["first"].tolist() == [1, 0]
    assert slices["count"].tolist() == [1, 1]

    assert len(index.evict("memory", 100 * CHUNK_BYTES)) == 0
    index.release_uses(slices)

    assert len(index.evict("memory", 100 * CHUNK_BYTES)) == 2


def test_only_what_is_ready_in_memory_can_be_used():
    index = make_index(disk_chunks=100)
    index.insert(tokens("aabb"))
    spill_all(index)
    index.evict("memory", CHUNK_BYTES)

    with index.acquire(tokens("aabb")) as handle:
        assert len(index.use(handle, 0, 2)) == 1
        with pytest.raises(ValueError, match="token 2 is not"):
            index.use(handle, 0, 4)


# --- Eviction ---


def test_the_least_recently_used_leaf_leaves_first(index):
    for time, text in enumerate(["aa", "bb", "cc"], start=1):
        index.insert(tokens(text), time=time)
    index.acquire(tokens("aa"), time=4).close()

    assert index.evict("memory", 1)["id"].tolist() == [1]
    assert index.evict("memory", 1)["id"].tolist() == [2]
    assert index.evict("memory", 1)["id"].tolist() == [0]


def test_a_leaving_chunk_passes_its_time_to_its_parent(index):
    index.insert(tokens("aabb"), time=1)
    index.insert(tokens("cc"), time=2)
    index.acquire(tokens("aabb"), time=3).close()
    with index.acquire(tokens("cc")):
        assert index.evict("memory", 1)["span"].tolist() == [1]

    # "aa" itself was written at time 1, but its child was used at time 3.
    assert index.evict("memory", 1)["id"].tolist() == [2]


def test_of_two_as_old_the_deeper_leaves_first(index):
    index.insert(tokens("aa"), time=1)
    index.insert(tokens("bbcc"), time=1)

    assert index.evict("memory", 1)["span"].tolist() == [1]


def test_evict_returns_what_it_could(index):
    index.insert(tokens("aabb"))

    assert len(index.evict("memory", 1000 * CHUNK_BYTES)) == 2
    assert len(index.evict("memory", 1000 * CHUNK_BYTES)) == 0


# --- Disk ---


def test_spills_run_from_the_root_with_the_tokens_of_one_path():
    index = make_index(disk_chunks=100)
    index.insert(tokens("aabbcc"))
    index.insert(tokens("xxyy"))

    first, first_tokens, digest, _ = index.reserve_spill(2)
    second, second_tokens, _, _ = index.reserve_spill(100)

    assert first["span"].tolist() == [0, 1]
    assert text_of(first_tokens) == "aabb"
    assert digest == bytes(16)
    assert first["parent_disk_offset"].tolist() == [NO_EXTENT, first["disk_offset"][0]]
    assert text_of(second_tokens) == "cc"
    assert second["parent_disk_offset"].tolist() == [first["disk_offset"][1]]


def test_what_left_memory_is_found_on_disk_and_fetched():
    index = make_index(disk_chunks=100)
    index.insert(tokens("aabb"))
    spill_all(index)
    index.evict("memory", 100 * CHUNK_BYTES)
    found = index.match(tokens("aabb"))
    assert (found.num_tokens, found.num_memory_tokens) == (4, 0)

    with index.acquire(tokens("aabb")) as handle:
        chunks, missing_units = index.reserve_fetch(handle)
        assert (len(chunks), missing_units) == (2, 0)
        assert handle.num_memory_tokens == 0
        index.complete_fetch(chunks, 2)

        assert handle.num_memory_tokens == 4


def test_a_corrupt_chunk_leaves_the_disk_with_all_below_it():
    index = make_index(disk_chunks=100)
    index.insert(tokens("aabbcc"))
    spill_all(index)
    index.evict("memory", 100 * CHUNK_BYTES)

    with index.acquire(tokens("aabbcc")) as handle:
        chunks, _ = index.reserve_fetch(handle)
        index.complete_fetch(chunks, 1, corrupt=True)

    assert length(index, "aabbcc") == 2
    assert index.stats().disk.ready_chunks == 1


def test_a_failed_spill_is_not_tried_again_unless_asked():
    index = make_index(disk_chunks=100)
    index.insert(tokens("aa"))
    chunks, *_ = index.reserve_spill(1)
    index.complete_spill(chunks, 0, retry=True)
    chunks, *_ = index.reserve_spill(1)
    assert len(chunks) == 1

    index.complete_spill(chunks, 0)

    assert len(index.reserve_spill(1)[0]) == 0
    assert index.stats().disk.failed_chunks == 2


def test_a_tail_that_disk_has_within_a_longer_chunk_is_spilled_once():
    index = make_index(chunk_tokens=8, disk_chunks=100)
    index.insert(tokens("abcdefgh"))
    spill_all(index)
    index.evict("memory", 100 * CHUNK_BYTES)
    index.insert(tokens("abcdXY"))
    chunks, *_ = index.reserve_spill(1)
    assert chunks["num_tokens"].tolist() == [6]

    index.complete_spill(chunks, 1)

    assert index.stats().disk.ready_chunks == 1
    assert len(index.reserve_spill(1)[0]) == 0


def test_a_full_disk_says_what_is_missing_and_goes_on_after_eviction():
    index = make_index(disk_chunks=1)
    index.insert(tokens("aa"), time=1)
    index.insert(tokens("bb"), time=2)
    chunks, *_ = index.reserve_spill(10)
    index.complete_spill(chunks, 1)

    chunks, _, _, missing_units = index.reserve_spill(10)
    assert (len(chunks), missing_units) == (0, 16)
    index.evict_units("disk", missing_units)

    assert len(index.reserve_spill(10)[0]) == 1


def test_restored_chunks_are_found_on_disk():
    index = make_index(disk_chunks=100)
    digest = b"another model..."

    index.restore_disk(
        parent_index=np.array([-1, 0, 0, 2], np.int64),
        num_tokens=np.array([2, 2, 2, 1], np.uint16),
        tokens=tokens("aabbccd").astype(np.uint32),
        disk_offset=np.array([0, 16, 64, 32], np.uint32),
        num_units=np.array([16, 16, 16, 8], np.uint16),
        namespace_index=np.zeros(4, np.int32),
        digests=[digest],
        time=np.array([1, 2, 3, 4], np.uint64),
    )

    other = index.namespace(digest)
    index.check_invariants()
    assert index.match(tokens("aabb"), other).num_tokens == 4
    assert index.match(tokens("aaccd"), other).num_tokens == 5
    assert index.match(tokens("aabb"), other).num_memory_tokens == 0
    assert index.stats().disk.used_units == 56


# --- Dropping ---


def test_drop_takes_a_subtree(index):
    index.insert(tokens("aabbcc"))
    index.insert(tokens("aabbdd"))
    index.insert(tokens("aaee"))

    dropped = index.drop(tokens("aab"))

    assert sorted(dropped["span"].tolist()) == [1, 2, 2]
    assert length(index, "aabbcc") == 2
    assert length(index, "aaee") == 4
    assert len(index.drop(tokens("nothing"))) == 0


def test_a_dropped_chunk_is_invisible_but_a_handle_may_still_load_it(index):
    index.insert(tokens("aabb"))
    with index.acquire(tokens("aabb")) as handle:
        index.drop(tokens("aa"))

        assert length(index, "aabb") == 0
        assert handle.num_memory_tokens == 4
        index.release_uses(index.use(handle, 0, 4))
        assert len(reserve(index, "aabb")) == 0

    assert index.stats().chunks == 0
    assert len(reserve(index, "aabb")) == 2


def test_a_dropped_chunk_in_use_leaves_its_extent_in_limbo(index):
    index.insert(tokens("aa"))
    with index.acquire(tokens("aa")) as handle:
        slices = index.use(handle, 0, 2)
    index.drop(tokens("aa"))
    assert index.stats().memory.limbo_extents == 1

    index.insert(tokens("aa"))
    index.release_uses(slices)

    assert index.stats().memory.limbo_extents == 0
    assert length(index, "aa") == 2


def test_clear_memory_leaves_the_disk():
    index = make_index(disk_chunks=100)
    index.insert(tokens("aabb"))
    spill_all(index)

    assert index.clear_memory() == 2

    assert index.match(tokens("aabb")).num_memory_tokens == 0
    assert length(index, "aabb") == 4
    assert len(index.clear_all()) == 2
    assert index.stats().nodes == 1


def test_only_the_command_that_writes_a_chunk_completes_it():
    index = make_index()
    chunks = reserve(index, "aabb")
    index.complete_store(chunks, 2)
    with index.acquire(tokens("aabb")) as handle:
        read = index.use(handle, 0, 4)

    with pytest.raises(ValueError, match="expected chunks that a command writes in memory"):
        index.complete_store(chunks, 2)
    with pytest.raises(ValueError, match="expected chunks that a command writes in memory"):
        index.complete_store(read, 2)

    index.check_invariants()
    assert length(index, "aabb") == 4
    index.release_uses(read)


def test_a_use_ends_as_often_as_it_began():
    index = make_index()
    index.insert(tokens("aa"))
    with index.acquire(tokens("aa")) as handle:
        read = index.use(handle, 0, 2)
    written = reserve(index, "bb")

    with pytest.raises(ValueError, match="expected chunks that a command uses in memory"):
        index.release_uses(np.concatenate([read, read]))
    with pytest.raises(ValueError, match="expected chunks that a command uses in memory"):
        index.release_uses(written)

    index.check_invariants()
    with index.acquire(tokens("aa")) as handle:
        index.release_uses(np.concatenate([read, index.use(handle, 0, 2)]))
    assert index.stats().memory.uses == 1  # of the store that has not ended
