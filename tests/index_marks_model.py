"""What was said about subtrees, slow and obviously right: every question looks at every prefix."""

from __future__ import annotations

from dataclasses import dataclass, field

Path = tuple[int, ...]
Key = tuple[int, Path]  # namespace, prefix


@dataclass
class ModelMark:
    priority: int | None = None
    time_to_live: int | None = None
    quota: list[int | None] = field(default_factory=lambda: [None, None])
    pins: dict[str, int | None] = field(default_factory=dict)

    def is_silent(self) -> bool:
        return (self.priority, self.time_to_live, *self.quota) == (None,) * 4 and not self.pins


class ModelMarks:
    """Marks in the order in which they were made."""

    def __init__(self) -> None:
        self.all: dict[Key, ModelMark] = {}

    def change(self, key: Key) -> ModelMark:
        return self.all.setdefault(key, ModelMark())

    def forget_silent(self) -> None:
        self.all = {key: mark for key, mark in self.all.items() if not mark.is_silent()}

    def governing(self, space: int, path: Path) -> list[Key]:
        """The marks that a chunk with this path has above it, the deepest first."""
        found = [
            (other, prefix)
            for other, prefix in self.all
            if other == space and path[: len(prefix)] == prefix
        ]
        return sorted(found, key=lambda key: -len(key[1]))

    def priority(self, space: int, path: Path) -> int:
        said = [self.all[key].priority for key in self.governing(space, path)]
        return next((priority for priority in said if priority is not None), 0)

    def time_to_live(self, space: int, path: Path) -> int | None:
        said = [self.all[key].time_to_live for key in self.governing(space, path)]
        return next((time for time in said if time is not None), None)

    def quota_root(self, space: int, path: Path, tier: int) -> Key | None:
        above = self.governing(space, path)
        return next((key for key in above if self.all[key].quota[tier] is not None), None)

    def is_pinned(self, space: int, path: Path) -> bool:
        return any(self.all[key].pins for key in self.governing(space, path))

    def end_pins(self, owner: str | None, now: int) -> int:
        """End the pins of an owner, or all whose time has come."""
        num_ended = 0
        for mark in self.all.values():
            for name, until in list(mark.pins.items()):
                if name == owner if owner else until is not None and until <= now:
                    del mark.pins[name]
                    num_ended += 1
        self.forget_silent()
        return num_ended
