"""Saving the index at random and opening it again, from a snapshot or from a journal."""

from __future__ import annotations

from pathlib import Path as FilePath

from hypothesis.stateful import precondition, rule
from index_machine import DIGESTS, as_array
from index_marks_machine import MarkRules, numbers
from index_marks_model import Path
from index_model_values import DISK, TIERS

from radixkv import RadixIndex
from radixkv.index import IndexJournal


class SavingRules(MarkRules):
    file: FilePath  # of the class, made by the test

    def begin(self) -> None:
        super().begin()
        self.journal: IndexJournal | None = None

    @precondition(lambda self: self.journal is None)
    @rule()
    def begin_journal(self) -> None:
        self.journal = self.index.journal(self.file)

    @precondition(lambda self: self.journal is not None)
    @rule(number=numbers)
    def flush_journal(self, number: int) -> None:
        assert self.journal is not None
        if number % 4:
            self.journal.flush(sync=False)
        else:
            self.journal.compact()

    @rule(number=numbers)
    def reopen(self, number: int) -> None:
        """What is held is let go first, since that is not saved."""
        if number % 4:
            return
        for held in range(len(self.handles)):
            self.close(held)
        for command in list(self.commands):
            {
                "load": self.end_load,
                "store": self.end_store,
                "spill": lambda one: self.end_spill(one, True),
                "fetch": lambda one: self.end_fetch(one, False),
            }[command.kind](0)
        if self.journal is not None:
            self.journal.close()
        else:
            self.index.save(self.file)
        self.journal = None
        self.index = RadixIndex.open(self.file)
        self.spaces = [self.index.namespace(digest) for digest in DIGESTS]
        self.learn_anew()

    def learn_anew(self) -> None:
        """The model's chunks are those of the opened index, under the ids that they have there."""
        self.generations = {}
        found: set[tuple[int, Path]] = set()
        for space, number in enumerate(self.spaces):
            subtree = self.index.walk(as_array(()), number)
            paths: list[Path] = []
            for at, ref in enumerate(subtree.chunks):
                parent = int(subtree.parent_index[at])
                path = (paths[parent] if parent >= 0 else ()) + tuple(
                    subtree.tokens_of(at).tolist()
                )
                paths.append(path)
                chunk = self.model.chunks[space, path]
                chunk.id, chunk.generation = int(ref["id"]), int(ref["generation"])
                chunk.no_spill, chunk.spill_due = False, not chunk.kept(DISK)
                found.add((space, path))
                assert int(subtree.time[at]) == chunk.time
                assert int(subtree.num_uses[at]) == chunk.num_uses
        kept = {key for key, chunk in self.model.chunks.items() if any(map(chunk.kept, TIERS))}
        assert found == kept == set(self.model.chunks)

    def teardown(self) -> None:
        if self.journal is not None:
            self.journal.close()
        super().teardown()
