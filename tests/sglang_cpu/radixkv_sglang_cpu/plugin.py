"""What SGLang calls in each of its processes, before the engine is built."""

from __future__ import annotations

import faulthandler
import signal

from . import adapters, attention, forking, host_pools, kv_audit, paged_slots, probe, store_claims


def activate() -> None:
    """Entry point of group `sglang.srt.plugins`."""
    # The harness sends this signal to processes that hang: their stacks go to the log.
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    forking.install()
    paged_slots.install()
    attention.install()
    adapters.install()
    host_pools.install()
    probe.install()
    kv_audit.install()
    store_claims.install()
