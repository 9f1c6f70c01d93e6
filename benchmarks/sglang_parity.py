"""Are answers from KV that came back from memory or disk as good as those from KV that never left
the GPU?

    python benchmarks/sglang_parity.py          # on a machine with a GPU and SGLang
    python benchmarks/sglang_parity.py --page 1 --attention flashinfer --ranks 2 --graphs

A model of a Llama-3.2-1B shape with set weights answers 16 prompts: computed, found on the device,
found in memory, and found on disk. A row is the mean difference of a kind's log-probabilities from
the computed ones, over the five likeliest tokens. The device hits differ too: other batch shapes
round otherwise. The control loads into slots half the device away, so that prompts read what lay in
theirs before, and must not pass. (Exchanging slots within a prompt would not show: attention adds
up keys and values in any order.)
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from cost_rule import fetch_always
from engine_process import Times, measure
from llama import LLAMA_1B
from log_probs import ALLOWED, NUM_ASKED, LogProbs, differences, draw_prompts, judge
from sglang_engine import PAGE, Setup, run_alone

NUM_PROMPTS = 16
PROMPT_TOKENS = 2000
DEVICE_TOKENS = 12_000  # a third of the prompts
MISPLACES = "RADIXKV_BENCH_MISPLACES"


def misplace_loads(device_tokens: int = DEVICE_TOKENS) -> None:
    """Makes the cache of this process load into slots half the device away."""
    from radixkv import KVCache
    from sglang_ext.pool import engine_slots

    load = KVCache.load

    def misplaced(cache: KVCache, handle: Any, slots: Any, first_token: int = 0) -> Any:
        others = (slots.owner + device_tokens // 2) % device_tokens
        return load(cache, handle, engine_slots(others), first_token)

    KVCache.load = misplaced  # type: ignore[method-assign]


if os.environ.get(MISPLACES) and __name__ == "__mp_main__":  # SGLang's scheduler, started by spawn
    misplace_loads()


class Bench:
    """One engine, and what it thinks of the first token after each prompt."""

    def __init__(self, engine: Any, page: int) -> None:
        self._engine = engine
        self._page = page
        self._prompts = draw_prompts(NUM_PROMPTS, PROMPT_TOKENS)

    def ask(self, prompt: list[int], source: str | None = None) -> LogProbs:
        """Log-probabilities of the likeliest tokens; the prompt's KV must come from `source`."""
        answer = self._engine.generate(
            input_ids=prompt,
            sampling_params={"temperature": 0, "max_new_tokens": 1, "ignore_eos": True},
            return_logprob=True,
            logprob_start_len=len(prompt) - 1,
            top_logprobs_num=NUM_ASKED,
        )
        info = answer["meta_info"]
        wanted = (len(prompt) - 1) // self._page * self._page if source else 0
        details = info.get("cached_tokens_details") or {}
        found = details.get(source, 0) if source else info["cached_tokens"]
        if found != wanted:
            raise RuntimeError(f"{wanted} tokens from {source} expected, got {details}")
        return {token: log_prob for log_prob, token, _ in info["output_top_logprobs"][0]}

    def run(self) -> Times:
        computed, device = [], []
        for prompt in self._prompts:
            computed.append(self.ask(prompt))
            device.append(self.ask(prompt, "device"))
        time.sleep(2)  # what was computed last is still being copied out
        host = [self.ask(prompt, "host") for prompt in self._prompts]
        time.sleep(5)  # the disk is behind the memory
        self._engine.flush_cache()
        disk = [self.ask(prompt, "storage") for prompt in self._prompts]
        return {
            "device": differences(computed, device),
            "host": differences(computed, host),
            "disk": differences(computed, disk),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--page", type=int, default=PAGE, help="slots in a page of the engine")
    parser.add_argument("--attention", default="triton", help="SGLang's attention backend")
    parser.add_argument("--ranks", type=int, default=1, help="GPUs")
    parser.add_argument("--graphs", action="store_true", help="decode steps as CUDA graphs")
    options = parser.parse_args()
    circumstances = {name: getattr(options, name) for name in ("page", "attention", "ranks")}
    if options.only:
        fetch_always()
        setup = Setup(
            DEVICE_TOKENS,
            has_graphs=options.graphs,
            shape=LLAMA_1B,
            **circumstances,
        )
        run_alone(
            options.only,
            setup,
            lambda engine: Bench(engine, options.page).run(),
            with_weights=True,
        )
        return
    right = measure("radixkv")
    os.environ[MISPLACES] = "1"
    control = measure("radixkv")
    circumstances["graphs"] = options.graphs
    judge("sglang", right, control, {"host": ALLOWED, "disk": ALLOWED}, **circumstances)


if __name__ == "__main__":
    main()
