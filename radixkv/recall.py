"""What an index knows beyond the bytes, kept beside the disk tier: recency, uses, marks.

    recall(…)     at start, what the last process wrote down, as far as it is whole
    IndexKeeper   from then on, a journal that a thread of its own writes behind the index

Of several ranks, whose indexes are equal, the first one writes. All read what it wrote, and none
takes it in unless all read the same. What is missing or damaged costs what it would have told.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from radixkv.errors import IndexFormatError
from radixkv.forks import finalize_at_home
from radixkv.group import RankGroup
from radixkv.index import IndexJournal, RadixIndex, SavedIndex

_INTERVAL_S = 1.0
_SLACK_BYTES = 64 << 20  # a journal is made short where it is so much longer than twice its begin
_log = logging.getLogger(__name__)


def index_file(folder: str | os.PathLike[str]) -> Path:
    """Where the index of a folder's disk tier is written down."""
    return Path(folder) / "index.journal"


def recall(
    folder: str | os.PathLike[str], index: RadixIndex, group: RankGroup
) -> tuple[SavedIndex | None, bool]:
    """Read what was written down. Every rank calls it, before any begins to write.

    Args:
        folder: The disk tier's.
        index: What it is for; only its settings are looked at.
        group: With whom to agree.

    Returns:
        What all ranks read, or None; and whether something was there that is of no use.
    """
    file = index_file(folder)
    saved, is_lost = None, False
    try:
        saved = SavedIndex(os.fsencode(file))
        if (saved.chunk_tokens, saved.unit_bytes) != (index.chunk_tokens, index.unit_bytes):
            raise IndexFormatError("it is of another layout")
    except FileNotFoundError:
        pass
    except (IndexFormatError, OSError) as error:
        saved, is_lost = None, True
        _log.warning("%s: recency and marks begin anew: %s", file, error)
    checksums = group.gather(saved.checksum if saved is not None else None)
    if len(set(checksums)) > 1:
        _log.warning("%s: recency and marks begin anew: the ranks read different ones", file)
        return None, True
    return saved, is_lost


def keep_index(index: RadixIndex, folder: str | os.PathLike[str]) -> IndexKeeper | None:
    """Begin to write down what becomes of an index; None, and a word in the log, if that fails."""
    try:
        return IndexKeeper(index, folder)
    except OSError as error:
        _log.warning("recency and marks will not survive: %s", error)
        return None


class IndexKeeper:
    """Writes down what becomes of an index until it is closed.

    Takes the index's lock for microseconds at a time, to take out what has changed; the file is
    written without. The file survives the process at once, the machine when the kernel wrote it.

    Args:
        index: Of this process.
        folder: The disk tier's.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, index: RadixIndex, folder: str | os.PathLike[str]) -> None:
        self._journal = index.journal(index_file(folder))
        self._has_ended = threading.Event()
        self._thread = threading.Thread(
            target=_keep, args=(self._journal, self._has_ended), name="radixkv-index", daemon=True
        )
        self._thread.start()
        self._end = finalize_at_home(self, _end, self._has_ended, self._thread, self._journal)

    def flush(self) -> None:
        """Write down now what has changed."""
        _write(self._journal)

    def close(self) -> None:
        """Write the rest. May be called twice."""
        self._end()


def _keep(journal: IndexJournal, has_ended: threading.Event) -> None:
    while not has_ended.wait(_INTERVAL_S) and _write(journal):
        pass


def _write(journal: IndexJournal) -> bool:
    """Appends what has changed; False where the file can no longer be written."""
    try:
        journal.flush(sync=False)
        if journal.num_bytes > 2 * journal.num_snapshot_bytes + _SLACK_BYTES:
            journal.compact()
    except (OSError, IndexFormatError) as error:
        _log.warning("recency and marks are no longer written down: %s", error)
        journal.abandon()
    except ValueError:  # closed meanwhile
        return False
    return not journal.is_closed


def _end(has_ended: threading.Event, thread: threading.Thread, journal: IndexJournal) -> None:
    has_ended.set()
    thread.join()
    try:
        journal.close()
    except OSError as error:
        _log.warning("recency and marks of the last second are lost: %s", error)
        journal.abandon()
