"""An unpickler whose memory and time are bounded by the length of its file.

Python's fast unpickler is not: one opcode makes it reserve memory for four billion entries of its memo, and hashing
tuples of tuples that share their parts, as keys, takes for ever or overruns the stack. Here the memo is a dictionary,
and a key is a string, a number or another plain value, or a flat tuple of such. It is four to five times slower: about
three seconds for the refs of RefCOCO+.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

from amc_lib.wording import shown

NEEDLESS = (
    pickle.BYTEARRAY8,
    pickle.NEXT_BUFFER,
    pickle.READONLY_BUFFER,
    pickle.EXT1,
    pickle.EXT2,
    pickle.EXT4,
)
LARGEST_KEY = 2**32  # of whole numbers as keys, whose hashes can be made to collide where they are larger


class Refused(pickle.UnpicklingError):
    """Something that a file of plain data has no need of."""


def _plain_key(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return not any(isinstance(part, tuple) or (isinstance(part, int) and abs(part) >= LARGEST_KEY) for part in parts)


class BoundedUnpickler(pickle._Unpickler):
    """Python's own unpickler in Python, with the opcodes replaced through which a short file asks for much.

    What may be named, and what becomes of it, is up to the subclass: `find_class` and `persistent_load`.
    """

    def _refuse(self) -> None:
        raise Refused("refused, because it uses buffers or registered codes; only plain data are read")

    def _checked_keys(self, keys: Iterable[Any]) -> None:
        for key in keys:
            if type(key) is not str and not _plain_key(key):
                raise Refused(f"refused, because it has the key {shown(key)}; only plain keys are read")

    def _set_item(self) -> None:
        self._checked_keys(self.stack[-2:-1])
        self.load_setitem()

    def _set_items(self) -> None:
        self._checked_keys(self.stack[::2])
        self.load_setitems()

    def _dictionary(self) -> None:
        self._checked_keys(self.stack[::2])
        self.load_dict()

    def _add_items(self) -> None:
        self._checked_keys(self.stack)
        self.load_additems()

    def _frozen_set(self) -> None:
        self._checked_keys(self.stack)
        self.load_frozenset()

    def _put(self) -> None:
        place = int(self.readline())
        self._checked_keys([place])
        self.memo[place] = self.stack[-1]

    dispatch = pickle._Unpickler.dispatch | {
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dictionary,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _frozen_set,
        pickle.PUT[0]: _put,
        **dict.fromkeys(b"".join(NEEDLESS), _refuse),
    }
