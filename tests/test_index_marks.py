"""Subtrees by example: who leaves first, what stays, and what a limit does."""

from __future__ import annotations

import numpy as np
import pytest
from index_stories import CHUNK_BYTES, length, make_index, reserve, spill_all, tokens

from radixkv import PinLimitError, RadixIndex


@pytest.fixture
def index() -> RadixIndex:
    return make_index()


def evict(index: RadixIndex, num_chunks: int) -> int:
    return len(index.evict("memory", num_chunks * CHUNK_BYTES))


# --- Priority ---


def test_what_has_a_lower_priority_leaves_first(index):
    index.insert(tokens("aabb"), time=1)
    index.insert(tokens("ccdd"), time=2)
    index.set_priority(tokens("cc"), -1)

    evict(index, 2)

    assert length(index, "aabb") == 4
    assert length(index, "ccdd") == 0


def test_what_is_said_about_a_longer_prefix_counts(index):
    index.insert(tokens("aabb"), time=1)
    index.insert(tokens("aacc"), time=2)
    index.set_priority(tokens("aa"), 5)
    index.set_priority(tokens("aac"), -5)

    evict(index, 1)

    assert length(index, "aacc") == 2
    assert length(index, "aabb") == 4


def test_what_is_said_holds_for_what_is_stored_later(index):
    index.set_priority(tokens("aabb"), 1)
    index.insert(tokens("aabbdd"), time=1)
    index.insert(tokens("ee"), time=2)

    evict(index, 1)

    assert length(index, "aabbdd") == 6
    assert length(index, "ee") == 0


def test_a_prefix_that_is_not_kept_is_not_found(index):
    index.set_priority(tokens("aabb"), 1)

    assert length(index, "aabb") == 0
    assert index.subtree_stats(tokens("")).chunks == 0
    assert index.stats().chunks == 2  # blank records
    index.set_priority(tokens("aabb"), None)
    assert index.stats().chunks == 0


# --- Pins ---


def test_a_pinned_subtree_and_what_leads_to_it_stay(index):
    index.insert(tokens("aabb"), time=1)
    index.insert(tokens("aacc"), time=2)
    index.pin(tokens("aab"), "router")

    assert evict(index, 9) == 1
    assert length(index, "aabb") == 4

    assert index.unpin(tokens("aab"), "router")
    assert not index.unpin(tokens("aab"), "router")
    assert evict(index, 9) == 2


def test_a_pin_ends_with_its_last_owner_and_its_time(index):
    index.insert(tokens("aabb"), time=1)
    index.pin(tokens("aa"), "router", until=10)
    index.pin(tokens("aa"), "operator", until=20)

    index.advance(10)
    assert evict(index, 9) == 0
    index.advance(20)

    assert index.marks() == []
    assert evict(index, 9) == 2


def test_all_pins_of_an_owner_end_together(index):
    for text in ("aa", "bb", "cc"):
        index.insert(tokens(text))
        index.pin(tokens(text), "router")

    assert index.unpin_all("router") == 3
    assert evict(index, 9) == 3


def test_more_than_a_share_of_a_tier_cannot_be_pinned():
    index = make_index(memory_chunks=4)
    index.insert(tokens("aabb"))
    index.insert(tokens("ccdd"))
    index.pin(tokens("aa"), "router")

    with pytest.raises(PinLimitError, match="expected at most 32 units of memory"):
        index.pin(tokens("cc"), "router")

    assert len(index.marks()) == 1


def test_a_pinned_subtree_that_outgrew_its_share_leaves_like_others():
    index = make_index(memory_chunks=4)
    index.pin(tokens("aa"), "router")
    index.insert(tokens("aabbccdd"), time=1)

    assert evict(index, 9) == 2
    assert length(index, "aabbccdd") == 4


def test_drop_takes_what_is_pinned(index):
    index.insert(tokens("aabb"))
    index.pin(tokens("aa"), "router")

    assert len(index.drop(tokens("aa"))) == 2

    assert length(index, "aabb") == 0


# --- Time to live ---


def test_what_was_not_used_for_its_time_to_live_leaves(index):
    index.set_time_to_live(tokens("aa"), 10)
    index.insert(tokens("aabb"), time=100)
    index.insert(tokens("aacc"), time=105)
    index.insert(tokens("ee"), time=100)

    memory, disk = index.advance(110)

    assert (len(memory), len(disk)) == (1, 0)
    assert length(index, "aabb") == 2
    assert length(index, "aacc") == 4
    assert len(index.advance(115)[0]) == 2
    assert length(index, "ee") == 2


def test_time_to_live_waits_for_pins_and_uses(index):
    index.set_time_to_live(tokens(""), 1)
    index.insert(tokens("aa"), time=1)
    index.insert(tokens("bb"), time=1)
    index.insert(tokens("cc"), time=1)
    index.pin(tokens("bb"), "router", until=20)

    with index.acquire(tokens("aa")) as handle:
        uses = index.use(handle, 0, 2)
        assert index.advance(10)[0]["id"].tolist() == [2]
    assert len(index.advance(10)[0]) == 0
    index.release_uses(uses)

    assert len(index.advance(10)[0]) == 1
    assert len(index.advance(20)[0]) == 1


def test_what_expires_on_disk_is_named():
    index = make_index(disk_chunks=9)
    index.set_time_to_live(tokens(""), 1)
    index.insert(tokens("aabb"), time=1)
    spill_all(index)

    memory, disk = index.advance(2)

    assert (len(memory), len(disk)) == (2, 2)
    assert disk["span"].tolist() == [1, 0]


# --- Quota ---


def test_at_its_limit_a_subtree_makes_room_among_its_own(index):
    index.set_quota(tokens("a"), "memory", 2 * CHUNK_BYTES)
    index.insert(tokens("ee"), time=1)
    index.insert(tokens("aabb"), time=2)

    index.insert(tokens("aacc"), time=3)

    assert length(index, "aabb") == 2
    assert length(index, "aacc") == 4
    assert length(index, "ee") == 2
    (mark,) = index.marks()
    assert mark.memory_charged_bytes == mark.memory_quota_bytes == 2 * CHUNK_BYTES


def test_what_a_quota_has_no_room_for_is_not_stored(index):
    index.set_quota(tokens(""), "memory", 2 * CHUNK_BYTES)

    assert len(reserve(index, "aabbcc")) == 2


def test_the_deepest_quota_is_charged(index):
    index.set_quota(tokens(""), "memory", 8 * CHUNK_BYTES)
    index.set_quota(tokens("aa"), "memory", 4 * CHUNK_BYTES)

    index.insert(tokens("aabb"))
    index.insert(tokens("ccdd"))

    assert [mark.memory_charged_bytes for mark in index.marks()] == [2 * CHUNK_BYTES] * 2


def test_a_quota_below_what_is_kept_holds_at_once(index):
    index.insert(tokens("aabbcc"))

    index.set_quota(tokens(""), "memory", CHUNK_BYTES)

    assert length(index, "aabbcc") == 2


def test_a_quota_with_nothing_of_its_own_takes_nothing_of_others(index):
    index.insert(tokens("ee"))

    index.set_quota(tokens("aa"), "memory", CHUNK_BYTES)

    assert len(reserve(index, "aabb")) == 1
    assert length(index, "ee") == 2


def test_a_quota_does_not_push_out_what_is_pinned(index):
    index.set_quota(tokens(""), "memory", 2 * CHUNK_BYTES)
    index.insert(tokens("aabb"), time=1)
    index.pin(tokens("aabb"), "router")

    assert index.insert(tokens("aacc"), time=2) == 0

    assert length(index, "aabb") == 4


def test_a_quota_of_nothing_keeps_a_subtree_off_the_disk():
    index = make_index(disk_chunks=9)
    index.set_quota(tokens("aa"), "disk", 0)
    index.insert(tokens("aabb"))
    index.insert(tokens("cc"))

    spill_all(index)
    assert index.stats().disk.ready_chunks == 1
    index.set_quota(tokens("aa"), "disk", None)
    spill_all(index)

    assert index.stats().disk.ready_chunks == 3


# --- Looking ---


def test_a_subtree_is_counted(index):
    index.insert(tokens("aabb"), time=1)
    index.insert(tokens("aacc"), time=2)
    index.insert(tokens("ee"), time=3)
    index.acquire(tokens("aacc"), time=7).close()

    stats = index.subtree_stats(tokens("aac"))
    assert repr(stats).startswith(f"SubtreeStats(chunks={stats.chunks}, tokens={stats.tokens}, ")
    assert (stats.chunks, stats.tokens, stats.hits, stats.last_use) == (1, 2, 1, 7)
    assert index.subtree_stats(tokens("aa")).chunks == 3
    assert index.subtree_stats(tokens("")).memory_bytes == 4 * CHUNK_BYTES
    assert index.subtree_stats(tokens("x")).chunks == 0


def test_an_id_out_of_range_cannot_be_marked(index):
    with pytest.raises(ValueError, match="token"):
        index.set_priority(np.array([1, -1], np.int64), 1)

    assert index.stats().tokens == 0
