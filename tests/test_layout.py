"""Layouts: sizes, and what numpy arrays say of themselves."""

import numpy as np
import pytest

from radixkv.layout import KVLayout, describe_arrays


def test_sizes_of_an_8b_model():
    layout = KVLayout(num_layers=32, num_kv=2, row_bytes=2048, dtype="bfloat16")

    assert layout.token_bytes == 131072
    assert layout.unit_bytes(64) == 512 * 1024


def test_a_unit_is_a_multiple_of_4_kib():
    assert KVLayout(1, 1, 3, "int8").unit_bytes(16) == 4096


def test_digests_tell_layouts_apart():
    layouts = [KVLayout(2, 2, 64, "f"), KVLayout(4, 1, 64, "f"), KVLayout(2, 2, 64, "g")]

    digests = {layout.digest(chunk) for layout in layouts for chunk in (16, 64)}

    assert len(digests) == 6


def test_arrays_describe_themselves():
    arrays = [np.zeros((10, 4, 8), np.float16) for _ in range(6)]

    layout, memory = describe_arrays(arrays)

    assert layout == KVLayout(3, 2, 64, "float16")
    assert memory.addresses.tolist() == [array.ctypes.data for array in arrays]
    assert memory.strides_bytes.tolist() == [64] * 6
    assert memory.num_slots == 10


def test_a_view_with_gaps_between_slots_is_fine_but_not_within_a_row():
    whole = np.zeros((10, 2, 8), np.float32)

    _, memory = describe_arrays([whole[:, 0], whole[:, 1]])

    assert memory.strides_bytes.tolist() == [64, 64]
    with pytest.raises(ValueError, match="contiguous rows"):
        describe_arrays([whole[:, :, ::2], whole[:, :, ::2]])


def test_arrays_that_loads_must_not_write_are_refused():
    array = np.zeros((4, 8))
    array.flags.writeable = False

    with pytest.raises(ValueError, match="can be written"):
        describe_arrays([array, array])
    with pytest.raises(ValueError, match="of numbers"):
        describe_arrays([np.array([[None]]), np.array([[None]])])


def test_what_is_no_array_of_slots_is_refused():
    with pytest.raises(TypeError, match="numpy arrays or torch tensors"):
        describe_arrays([[1], [2]])
    with pytest.raises(ValueError, match="axis of slots"):
        describe_arrays([np.array(1), np.array(2)])
    with pytest.raises(ValueError, match="num_kv"):
        describe_arrays([np.zeros((4, 8))], num_kv=0)


def test_arrays_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="multiple of 2"):
        describe_arrays([np.zeros((4, 8))])
    with pytest.raises(ValueError, match="one size and dtype"):
        describe_arrays([np.zeros((4, 8)), np.zeros((4, 9))])
