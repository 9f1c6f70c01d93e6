"""How many users an engine is loaded with, and how much they ask: the same for all engines."""

from collections.abc import Container

NUM_USERS = 32
NUM_DOCUMENTS = 8
DOCUMENT_TOKENS = 4096
TURN_TOKENS = 512
ANSWER_TOKENS = 32
NUM_TURNS = 5  # the first of them uncounted
REUSE_ROUNDS = 7
PLAIN_REUSE_ROUNDS = 2  # without a cache beyond the device each takes three times as long
DEVICE_TOKENS = 30_000  # a quarter of 8 documents and 32 users' turns
FRESH_PROMPTS = 32
FRESH_TOKENS = 4096
FRESH_ROUNDS = 8
STEP_ROUNDS = 7


def rounds_of(loads: Container[str], *, is_plain: bool) -> dict[str, int]:
    """How many rounds an engine runs of each load: none of those that were not asked for."""
    reuse_rounds = PLAIN_REUSE_ROUNDS if is_plain else REUSE_ROUNDS
    rounds = {"no-reuse": FRESH_ROUNDS, "steps": STEP_ROUNDS, "reuse": reuse_rounds}
    return {load: count if load in loads else 0 for load, count in rounds.items()}
