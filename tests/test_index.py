"""The index by example: what a match finds, what a reservation takes, when a tail goes."""

from __future__ import annotations

import array

import numpy as np
import pytest
from index_stories import CHUNK_BYTES, length, make_index, reserve, spill_all, tokens

from radixkv import RadixIndex
from radixkv.commands import CHUNK_DTYPE, NO_EXTENT


@pytest.fixture
def index() -> RadixIndex:
    return make_index()


# --- What a match finds ---


def test_a_match_ends_at_any_token(index):
    index.insert(tokens("aabbcc"))

    assert length(index, "aabbcc") == 6
    assert length(index, "aabbcd") == 5
    assert length(index, "aabx") == 3
    assert length(index, "ax") == 1
    assert length(index, "x") == 0
    assert length(index, "") == 0


def test_limit_cuts_the_tokens(index):
    index.insert(tokens("aabbcc"))

    assert index.match(tokens("aabbcc"), limit=3).num_tokens == 3
    assert index.acquire(tokens("aabbcc"), limit=5).num_tokens == 5


def test_namespaces_know_nothing_of_each_other(index):
    other = index.namespace(b"another model...")

    index.insert(tokens("aabb"), other)

    assert index.namespace(b"another model...") == other
    assert index.namespace(bytes(16)) == 0
    assert index.match(tokens("aabb"), other).num_tokens == 4
    assert index.match(tokens("aabb")).num_tokens == 0


def test_slices_name_the_chunks_and_how_much_of_them(index):
    index.insert(tokens("aabbcc"))

    slices = index.match(tokens("aabbcx")).slices()

    assert slices.dtype == CHUNK_DTYPE
    assert slices["span"].tolist() == [0, 1, 2]
    assert slices["first"].tolist() == [0, 0, 0]
    assert slices["count"].tolist() == [2, 2, 1]
    assert (slices["disk_offset"] == NO_EXTENT).all()


def test_slices_of_a_match_are_empty_once_its_chunk_has_gone(index):
    index.insert(tokens("aabb"))
    found = index.match(tokens("aabb"))

    index.evict("memory", CHUNK_BYTES)

    assert found.num_tokens == 4
    assert len(found.slices()) == 0


def test_where_prompts_part_inside_a_chunk_each_keeps_its_own(index):
    index.insert(tokens("aabb"))

    chunks = reserve(index, "aabc")

    assert chunks["span"].tolist() == [1]
    assert chunks["num_tokens"].tolist() == [2]
    index.complete_store(chunks, 1)
    assert length(index, "aabb") == 4
    assert length(index, "aabc") == 4


def test_inside_a_span_memory_comes_before_disk_and_recent_before_old():
    index = make_index(disk_chunks=100, chunk_tokens=4)
    for time, text in enumerate(["abcd", "abef", "abgh"], start=1):
        index.insert(tokens(text), time=time)
    spill_all(index)

    assert index.match(tokens("abxx")).slices()["id"].tolist() == [2]
    index.acquire(tokens("abcd"), time=9).close()
    assert index.match(tokens("abxx")).slices()["id"].tolist() == [0]
    with index.acquire(tokens("abef")):
        index.evict("memory", 100 * CHUNK_BYTES)
    assert index.match(tokens("abxx")).slices()["id"].tolist() == [1]
    assert index.match(tokens("abxx")).num_memory_tokens == 2


# --- Reserving and completing ---


def test_what_is_being_written_is_not_matched(index):
    chunks = reserve(index, "aabb")

    assert length(index, "aabb") == 0
    index.complete_store(chunks, 2)
    assert length(index, "aabb") == 4


def test_reserve_skips_what_is_kept_or_being_written(index):
    reserve(index, "aabb")

    assert reserve(index, "aabbcc")["span"].tolist() == [2]
    assert len(reserve(index, "aabbcc")) == 0


def test_reserve_begins_at_the_last_span_boundary_of_the_match(index):
    index.insert(tokens("aabbcc"))

    assert reserve(index, "aabbcdee")["span"].tolist() == [2, 3]


def test_reserve_takes_what_fits_and_says_what_is_missing():
    index = make_index(memory_chunks=2)

    chunks, missing_units = index.reserve(tokens("aabbccdd"), time=1)

    assert chunks["span"].tolist() == [0, 1]
    assert missing_units == 2 * 16


def test_without_tail_only_full_chunks_are_reserved(index):
    chunks, _ = index.reserve(tokens("aab"), time=1, tail=False)

    assert chunks["num_tokens"].tolist() == [2]


def test_a_failed_store_is_absent_again_and_counted(index):
    chunks = reserve(index, "aabbcc")

    index.complete_store(chunks, 1)

    assert length(index, "aabbcc") == 2
    assert index.stats().memory.failed_chunks == 2
    assert index.stats().memory.used_units == 16
    assert reserve(index, "aabbcc")["span"].tolist() == [1, 2]


def test_below_a_failed_chunk_what_is_written_completes_into_absent(index):
    above = reserve(index, "aa")
    below = reserve(index, "aabb")

    index.complete_store(above, 0)
    assert index.stats().memory.limbo_extents == 1
    index.complete_store(below, 1)

    assert length(index, "aabb") == 0
    assert index.stats().memory.used_units == 0


def test_below_a_failed_chunk_what_is_ready_is_dropped(index):
    above = reserve(index, "aa")
    index.complete_store(reserve(index, "aabb"), 1)

    index.complete_store(above, 0)

    assert index.stats().chunks == 0
    assert index.stats().tokens == 0


def test_an_old_completion_does_not_touch_the_chunk_that_took_the_place(index):
    index.complete_store(reserve(index, "aa"), 1)
    before = index.match(tokens("aa")).slices()
    index.evict("memory", CHUNK_BYTES)
    after = reserve(index, "bb")
    assert before["id"] == after["id"]

    with pytest.raises(ValueError, match="generation 0"):
        index.complete_store(before, 1)

    assert length(index, "bb") == 0


def test_insert_evicts_for_room():
    index = make_index(memory_chunks=2)
    index.insert(tokens("aabb"), time=1)

    assert index.insert(tokens("ccdd"), time=2) == 2

    assert length(index, "aabb") == 0
    assert length(index, "ccdd") == 4


# --- Tails ---


def test_a_tail_goes_once_a_ready_chunk_has_all_but_the_slack():
    index = make_index(chunk_tokens=8)
    index.insert(tokens("abcdef"))
    longer = reserve(index, "abcdefgh")
    assert length(index, "abcdef") == 6

    index.complete_store(longer, 1)

    assert index.stats().memory.ready_chunks == 1
    assert length(index, "abcdef") == 6


def test_a_tail_goes_though_its_last_tokens_differ():
    index = make_index(chunk_tokens=8, tail_slack=2)
    index.insert(tokens("abcdXY"))

    index.insert(tokens("abcdefgh"))

    assert index.stats().chunks == 1
    assert length(index, "abcdXY") == 4


def test_a_tail_that_parts_earlier_stays():
    index = make_index(chunk_tokens=8, tail_slack=2)
    index.insert(tokens("abcXYZ"))

    index.insert(tokens("abcdefgh"))

    assert length(index, "abcXYZ") == 6


def test_a_pinned_tail_goes_when_the_pin_ends():
    index = make_index(chunk_tokens=8)
    index.insert(tokens("abcdef"))
    handle = index.acquire(tokens("abcdef"))

    index.insert(tokens("abcdefgh"))
    assert index.stats().chunks == 2
    handle.close()

    assert index.stats().chunks == 1


def test_reserve_makes_no_tail_that_a_ready_chunk_nearly_has():
    index = make_index(chunk_tokens=8, tail_slack=2)
    index.insert(tokens("abcdefgh"))

    assert len(reserve(index, "abcdeX")) == 0
    assert len(reserve(index, "abcXYZ")) == 1


# --- Tokens and errors ---


@pytest.mark.parametrize(
    "kind",
    [
        lambda ids: np.array(ids, np.uint32),
        lambda ids: np.array(ids, np.int32),
        lambda ids: np.array(ids, np.int64),
        lambda ids: array.array("q", ids),
        lambda ids: array.array("i", ids),
        lambda ids: memoryview(array.array("I", ids)),
    ],
)
def test_tokens_come_in_any_buffer_of_three_types(index, kind):
    index.insert(np.arange(150, dtype=np.int64))

    assert index.match(kind(range(149))).num_tokens == 149


def test_ids_out_of_range_match_nothing_and_are_not_kept(index):
    top = np.array([2**32 - 1, 2**31], np.uint32)
    index.insert(top)

    assert index.match(top).num_tokens == 2
    assert index.match(top.astype(np.int64)).num_tokens == 2
    assert index.match(top.view(np.int32)).num_tokens == 0
    assert index.match(np.array([-1, 2**31], np.int64)).num_tokens == 0
    before = index.state_hash()
    for bad in (-1, 2**32):
        with pytest.raises(ValueError, match=f"got {bad} at position 2"):
            index.insert(np.array([5, 6, bad], np.int64))
    assert index.state_hash() == before
    index.check_invariants()


@pytest.mark.parametrize(
    "wrong", [[1, 2], "text", np.zeros(4), np.zeros(4, np.uint64), np.zeros((2, 2), np.int64), None]
)
def test_other_tokens_are_a_type_error(index, wrong):
    with pytest.raises(TypeError, match="tokens: expected"):
        index.match(wrong)


def test_a_callers_mistake_names_the_argument(index):
    with pytest.raises(ValueError, match=r"number that namespace\(\) gave, got 7"):
        index.match(tokens("aa"), 7)
    with pytest.raises(ValueError, match="tier: expected 'memory' or 'disk', got 'tape'"):
        index.evict("tape", 1)
    with pytest.raises(ValueError, match="num_bytes: expected at least 0, got -1"):
        index.evict("memory", -1)
    with pytest.raises(ValueError, match="digest: expected 16 bytes, got 3"):
        index.namespace(b"abc")
    with pytest.raises(TypeError, match="chunks: expected a 1-d array of CHUNK_DTYPE"):
        index.complete_store(np.zeros(3), 1)
    with pytest.raises(ValueError, match="chunk_tokens: expected 1 … 512, got 0"):
        RadixIndex(chunk_tokens=0)


def test_replicas_that_saw_the_same_calls_agree():
    def run(order: list[str]) -> int:
        index = make_index(memory_chunks=3)
        for time, text in enumerate(order):
            index.insert(tokens(text), time=time)
        return index.state_hash()

    assert run(["aabb", "aacc", "ddee"]) == run(["aabb", "aacc", "ddee"])
    assert run(["aabb", "aacc", "ddee"]) != run(["aacc", "aabb", "ddee"])
