"""What SGLang's KV pool asks before it reads a layer: is it loaded yet?

SGLang hands a batch an index when the batch is made, names it again before the forward, and calls
`wait_until` each time a layer's KV is read. The index stands for all loads that were under way when
the batch was made: it may read the slots of any of them. When it has come to the last layer, what
runs after it on the same stream finds them loaded.
"""

from __future__ import annotations

from collections.abc import Callable

from radixkv import Ticket

NO_LOADS = -1
_KEPT_BATCHES = 16  # more than SGLang has in flight


class LayerWaits:
    """The layer transfer counter that SGLang's pools and workers know by duck typing.

    Args:
        on_failure: Called for a load whose layer will not come, once a layer.
        current_stream: Gives the stream that computes, as an integer; 0 where there is none.
        num_layers: Of the model.
    """

    def __init__(
        self,
        on_failure: Callable[[Ticket], None],
        current_stream: Callable[[], int],
        num_layers: int,
    ) -> None:
        self._last_layer = num_layers - 1
        self._on_failure = on_failure
        self._current_stream = current_stream
        self._batches: dict[int, list[Ticket]] = {}
        self._next_index = 0
        self._current: list[Ticket] = []
        self._layer_done = -1

    def open_batch(self, loads: list[Ticket]) -> int:
        """An index for a new batch that may read what these loads bring."""
        if not loads:
            return NO_LOADS
        index = self._next_index
        self._next_index += 1
        self._batches[index] = list(loads)
        if len(self._batches) > _KEPT_BATCHES:
            del self._batches[next(iter(self._batches))]
        return index

    def set_consumer(self, index: int) -> None:
        """The batch with this index runs next."""
        self._current = self._batches.get(index, [])
        self._layer_done = -1

    def wait_until(self, layer: int) -> None:
        """Block until the running batch may read this layer."""
        if layer <= self._layer_done or not self._current:
            return
        stream = self._current_stream()
        for ticket in self._current:
            if not ticket.wait_layer(layer, stream=stream):
                self._on_failure(ticket)
        self._layer_done = layer
        if layer == self._last_layer:
            self._current.clear()  # the batch decodes under this index too

    def reset(self) -> None:
        """Forget all batches; no load is under way."""
        self._batches.clear()
        self._current = []
