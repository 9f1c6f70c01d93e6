"""Are vLLM's answers from KV that came back from memory or disk as good as those from KV that never
left the GPU?

    python benchmarks/vllm_parity.py            # on a machine with a GPU and vLLM
    python benchmarks/vllm_parity.py --loads async

A model of a Llama-3.2-1B shape with set weights answers 16 prompts: computed, found on the device,
found in memory, and found on disk. A row is the mean difference of a kind's log-probabilities from
the computed ones, over the five likeliest tokens. The device hits differ too: other batch shapes
round otherwise. "inside" are prompts that leave what is kept in the middle of a block, where no
device hit can. The control loads into slots half the device away, so that prompts read what lay in
theirs before, and must not pass. (Exchanging slots within a prompt would not show: attention adds
up keys and values in any order.)
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from cost_rule import fetch_always
from engine_process import Times, measure
from harness import progress
from llama import LLAMA_1B
from log_probs import ALLOWED, NUM_ASKED, LogProbs, differences, draw_prompts, judge
from vllm_engine import BLOCK, Engine, Setup, run_alone

NUM_PROMPTS = 16
FOUND_TOKENS = 125 * BLOCK  # of each prompt, on the device as elsewhere
CONNECTORS = {"auto": "radixkv", "async": "radixkv-async"}
SHARED_TOKENS = 1001  # of the prompts that end inside a block
DEVICE_TOKENS = 120_000
MISPLACES = "RADIXKV_BENCH_MISPLACES"


def misplace_loads(device_tokens: int = DEVICE_TOKENS) -> None:
    """Makes the planner of this process load into slots half the device away."""
    from radixkv import Planner

    load = Planner.load

    def misplaced(planner: Planner, handle: Any, first: int, slots: Any) -> Any:
        return load(planner, handle, first, (slots + device_tokens // 2) % device_tokens)

    Planner.load = misplaced  # type: ignore[method-assign]


class Bench:
    """One engine, and what it thinks of the first token after each prompt.

    Args:
        engine: With radixkv.
        num_left: Tokens of a prompt that are computed whatever is kept: two where the batch may
            wait for a load.
    """

    def __init__(self, engine: Engine, num_left: int = 1) -> None:
        self._engine = engine
        self._prompts = draw_prompts(NUM_PROMPTS, FOUND_TOKENS + num_left)
        tails = draw_prompts(2 * NUM_PROMPTS, BLOCK)[NUM_PROMPTS:]
        self._inside = [
            prompt[:SHARED_TOKENS] + tail for prompt, tail in zip(self._prompts, tails, strict=True)
        ]

    def ask(self, prompt: list[int], num_found: int) -> LogProbs:
        """Log-probabilities of the likeliest tokens; so many of the prompt's must be found."""
        answer = self._engine.ask(prompt, logprobs=NUM_ASKED)
        if answer.num_cached_tokens != num_found:
            found = f"{num_found} tokens expected, found {answer.num_cached_tokens}"
            raise RuntimeError(f"{found}; {self._engine.describe()}")
        return {token: found.logprob for token, found in answer.outputs[0].logprobs[0].items()}

    def ask_all(self, num_found: int) -> list[LogProbs]:
        return [self.ask(prompt, num_found) for prompt in self._prompts]

    def run(self) -> Times:
        inside = [self.ask(prompt, 0) for prompt in self._inside]
        self._engine.forget_everything()
        computed, device = [], []
        for prompt in self._prompts:
            computed.append(self.ask(prompt, 0))
            device.append(self.ask(prompt, FOUND_TOKENS))
        self._settle("computed")
        self._engine.forget_on_device()
        values = {
            "device": differences(computed, device),
            "host": differences(computed, self.ask_all(FOUND_TOKENS)),
        }
        self._engine.forget_on_device()
        found_inside = [self.ask(prompt, SHARED_TOKENS) for prompt in self._inside]
        values["inside"] = differences(inside, found_inside)
        self._settle("found in memory")
        self._engine.forget_in_memory()
        self._settle("left on disk alone")
        values["disk"] = differences(computed, self.ask_all(FOUND_TOKENS))
        self._settle("found on disk")
        return values

    def _settle(self, stage: str) -> None:
        """Lets stores and spills end: they go on only while vLLM steps."""
        self._engine.settle()
        progress(f"  {stage}: {self._engine.describe()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--loads", choices=CONNECTORS, default="auto", help="who waits for them")
    options = parser.parse_args()
    only, loads = options.only, options.loads
    if only:
        fetch_always()
        if os.environ.get(MISPLACES):
            misplace_loads()
        setup = Setup(DEVICE_TOKENS, LLAMA_1B, has_weights=True)
        run_alone(only, setup, lambda engine: Bench(engine, 2 if loads == "auto" else 1).run())
        return
    right = measure(CONNECTORS[loads])
    os.environ[MISPLACES] = "1"
    control = measure(CONNECTORS[loads])
    allowed = {"host": ALLOWED, "disk": ALLOWED, "inside": 2 * ALLOWED}
    judge("vllm", right, control, allowed, loads=loads)


if __name__ == "__main__":
    main()
