"""A streaming session: turns that say what is new, on KV that SGLang keeps between them."""

from __future__ import annotations

from prompts import Ids
from sglang_harness import Generation, SGLangServer

# Before, SGLang keeps the KV of sessions in a wrapper around the tree, and radixkv refuses them.
WITHOUT_SESSIONS = ("0.5.15", "0.5.18", "0.5.20")
OPTION = "--enable-streaming-session"


class StreamingSession:
    """One conversation.

    Attributes:
        turns: What each turn's whole prompt was, and its answer.
    """

    def __init__(self, server: SGLangServer) -> None:
        opened = {"capacity_of_str_len": 1000, "streaming": True}
        self._id = server.call("POST", "/open_session", opened)
        self._server = server
        self.turns: list[tuple[Ids, Generation]] = []

    def ask(self, ids: Ids) -> Generation:
        """One more turn."""
        said: Ids = []
        rid = None
        if self.turns:
            asked, answer = self.turns[-1]
            said, rid = [*asked, *answer.output_ids], answer.rid
        (answer,) = self._server.generate([ids], session_params={"id": self._id, "rid": rid})
        self.turns.append(([*said, *ids], answer))
        return answer

    def close(self) -> None:
        self._server.call("POST", "/close_session", {"session_id": self._id})

    def expected(self) -> list[Ids]:
        """What its turns are answered with outside of a session, by a prompt that nobody cached."""
        prompts = [asked for asked, _ in self.turns]
        answers = self._server.generate(prompts, extra_key="outside of the session")
        return [answer.output_ids for answer in answers]
