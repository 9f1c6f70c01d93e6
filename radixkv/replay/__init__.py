"""Replays of recorded requests through the real control plane, without an engine and without bytes.

trace = read_trace(Path("conversation.jsonl"))
result = replay(trace, Setup(memory_tokens=trace.num_distinct_tokens // 10))
print(result.hit_rate, optimum(trace, result.setup.memory_tokens) / trace.num_tokens)
"""

from radixkv.replay.optimum import ideal, optimum
from radixkv.replay.run import Replay, Setup, replay
from radixkv.replay.trace import Request, Trace, TraceError, read_trace

__all__ = [
    "Replay",
    "Request",
    "Setup",
    "Trace",
    "TraceError",
    "ideal",
    "optimum",
    "read_trace",
    "replay",
]
