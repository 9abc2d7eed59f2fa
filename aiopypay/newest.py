"""What is kept for many keys that strangers choose: only the newest, so that nobody can fill the memory with them."""

from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Newest(Generic[Key, Value]):
    """A mapping that forgets, once it holds more than `length_max`, what was set the longest ago.

    One key's value cannot be pushed out by others before `length_max` of them were set after it.
    """

    def __init__(self, length_max: int) -> None:
        self._length_max = length_max
        self._values: dict[Key, Value] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """Returns the value, None where there is none (any more)."""
        return self._values.get(key)

    def set(self, key: Key, value: Value) -> None:
        """Sets the value; the key is the newest then."""
        self._values.pop(key, None)
        self._values[key] = value
        if len(self._values) > self._length_max:
            del self._values[next(iter(self._values))]

    def remove(self, key: Key) -> None:
        """Forgets the key, if it is there."""
        self._values.pop(key, None)

    def copy(self) -> dict[Key, Value]:
        """Returns all of it as it is now, the oldest first."""
        return self._values.copy()
