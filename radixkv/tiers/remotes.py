"""The remote servers of one executor: those that it serves itself, and those in Python."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from radixkv import _native
from radixkv.commands import Get, Lookup, Put
from radixkv.remote_url import MooncakeUrl, RemoteUrl
from radixkv.tiers.mooncake import MooncakeTier
from radixkv.tiers.redis import native_endpoint

logger = logging.getLogger(__name__)

_KINDS = {
    Put: _native.CommandKind.PUT,
    Get: _native.CommandKind.GET,
    Lookup: _native.CommandKind.LOOKUP,
}


class Remotes:
    """Sends each command to the server that it names by its place in the configuration.

    Args:
        urls: The servers.
        options: Of the native executor that is about to be made; learns of its own.
    """

    def __init__(self, urls: Sequence[RemoteUrl], options: _native.ExecutorOptions) -> None:
        self._urls = tuple(urls)
        self._native_places: dict[int, int] = {}  # place in the configuration → native place
        self._stores: dict[int, MooncakeTier] = {}
        self._num_changes = -1
        for place, url in enumerate(self._urls):
            if not isinstance(url, MooncakeUrl):
                self._native_places[place] = len(self._native_places)
                options.add_remote(native_endpoint(url))

    def open(
        self,
        executor: _native.Executor,
        pool: tuple[int, int],
        *,
        chunk_tokens: int,
        unit_bytes: int,
    ) -> None:
        """The executor is there, and so is its memory, address and size.

        Raises:
            TierError: A client's library is missing.
        """
        self._executor = executor
        for place, url in enumerate(self._urls):
            if isinstance(url, MooncakeUrl):
                self._stores[place] = MooncakeTier(url, executor, pool, chunk_tokens, unit_bytes)

    def submit(self, command: Put | Get | Lookup) -> None:
        """Queue a command. Raises as `Executor.submit`."""
        store = self._stores.get(command.remote)
        if store is not None:
            store.submit(command)
            return
        self._executor.submit_remote(
            _KINDS[type(command)],
            command.command_id,
            self._native_places.get(command.remote, len(self._urls)),
            command.chunks,
            command.tokens,
            command.parent_key,
        )

    def health(self) -> list[tuple[bool, str]]:
        """For each server, whether it serves now, and if not, why."""
        native = self._executor.remote_health()
        return [
            self._stores[place].health
            if place in self._stores
            else native[self._native_places[place]]
            for place in range(len(self._urls))
        ]

    def look(self) -> None:
        """Called often: log what has changed, give up what hangs."""
        if not self._urls:
            return
        for store in self._stores.values():
            store.give_up_what_hangs()
        num_changes = self._executor.remote_changes()
        num_changes += sum(store.num_changes for store in self._stores.values())
        if num_changes != self._num_changes:
            self._num_changes = num_changes
            for url, (serves, reason) in zip(self._urls, self.health(), strict=True):
                logger.info("remote %s: %s", url, "serves" if serves else f"cut off: {reason}")

    def close(self, drain_s: float) -> None:
        """End those in Python; the executor ends its own."""
        stores, self._stores = self._stores, {}
        for store in stores.values():
            store.close(drain_s)
