"""Events over ZeroMQ, as a subscriber of vLLM's reads them."""

from __future__ import annotations

import msgpack
import pytest
import zmq
from index_stories import make_index, tokens

from radixkv.publisher import EventPublisher


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


def test_a_subscriber_hears_of_full_chunks_in_batches(context):
    index = make_index()
    with (
        EventPublisher(index, "inproc://events", topic="kv", rank=3, context=context) as publisher,
        context.socket(zmq.SUB) as subscriber,
    ):
        subscriber.connect("inproc://events")
        subscriber.subscribe("kv")
        index.insert(tokens("aabbc"))
        assert publisher.publish(12.5) == 1
        index.drop(tokens("aabb"))
        index.insert(tokens("aadd"))
        assert publisher.publish(13.0) == 2
        assert publisher.publish(14.0) == 0

        first, second = (subscriber.recv_multipart() for _ in range(2))

    assert first[:2] == [b"kv", bytes(8)]
    time_s, ((kind, keys, *stored),), rank = msgpack.unpackb(first[2])
    assert (time_s, kind, len(keys), rank) == (12.5, "BlockStored", 2, 3)
    assert stored == [None, tokens("aabb").tolist(), 2, None, "CPU", None]
    assert second[1] == (1).to_bytes(8, "big")
    _, (removed, (_, _, parent, *_)), _ = msgpack.unpackb(second[2])
    assert removed == ["BlockRemoved", [keys[1]], "CPU"]
    assert parent == keys[0]
