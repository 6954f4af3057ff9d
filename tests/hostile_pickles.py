"""Pickles that try to execute something, made of opcodes in any order."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

from hypothesis import strategies as st


def calls(canary: Path) -> list[bytes]:
    """Pickle code, each of which would leave a file `canary` behind where it is executed."""
    touch, path = f"touch {canary}".encode(), str(canary).encode()

    def text(content: bytes) -> bytes:
        return b"X" + struct.pack("<I", len(content)) + content

    return [
        b"cos\nsystem\n" + text(touch) + b"\x85R",
        b"cposix\nsystem\n(" + text(touch) + b"tR",
        b"(" + text(touch) + b"ios\nsystem\n",
        b"(cos\nsystem\n" + text(touch) + b"o",
        b"c__builtin__\neval\n" + text(b"open(%r, 'w')" % path) + b"\x85R",
        b"cbuiltins\nexec\n" + text(b"open(%r, 'w')" % path) + b"\x85R",
        text(b"builtins") + text(b"open") + b"\x93" + text(path) + text(b"w") + b"\x86R",
        b"cpathlib\nPath\n" + text(path) + b"\x85\x81",
        b"csubprocess\nPopen\n(" + text(touch) + b"NNNNNN\x88tR",
        b"cbuiltins\ngetattr\ncos\nsystem\n" + text(b"__call__") + b"\x86R" + text(touch) + b"\x85R",
        b"ctorch._utils\n_rebuild_tensor_v2\n" + text(b"__globals__") + b"\x85R",
        b"ctorch._utils\n_rebuild_parameter\ncos\nsystem\n\x85R" + text(touch) + b"\x85R",
        b"ccollections\nOrderedDict\n)R}" + text(b"__class__") + b"cos\nsystem\nsb",
        b"cargparse\nNamespace\n)\x81}" + text(b"__init__") + b"cos\nsystem\nsb",
    ]


PIECES = [
    pickle.NONE,
    pickle.NEWTRUE,
    pickle.EMPTY_TUPLE,
    pickle.EMPTY_LIST,
    pickle.EMPTY_DICT,
    pickle.EMPTY_SET,
    pickle.MARK,
    pickle.DUP,
    pickle.POP,
    pickle.POP_MARK,
    pickle.TUPLE,
    pickle.TUPLE1,
    pickle.TUPLE2,
    pickle.TUPLE3,
    pickle.LIST,
    pickle.DICT,
    pickle.FROZENSET,
    pickle.APPEND,
    pickle.APPENDS,
    pickle.SETITEM,
    pickle.SETITEMS,
    pickle.ADDITEMS,
    pickle.REDUCE,
    pickle.BUILD,
    pickle.NEWOBJ,
    pickle.NEWOBJ_EX,
    pickle.OBJ,
    pickle.STACK_GLOBAL,
    pickle.BINPERSID,
    pickle.MEMOIZE,
    pickle.PERSID + b"x\n",
    pickle.BINPUT + b"\1",
    pickle.BINGET + b"\1",
    pickle.LONG_BINPUT + b"\xff\xff\xff\xff",
    pickle.LONG_BINGET + b"\xff\xff\xff\xff",
    pickle.PUT + b"99999999999999999999\n",
    pickle.GET + b"-1\n",
    pickle.INT + b"9" * 5000 + b"\n",
    pickle.LONG + b"-0x7L\n",
    pickle.LONG1 + b"\xff" + b"\xff" * 255,
    pickle.LONG4 + b"\xff\xff\xff\x7f",
    pickle.BININT1 + b"\7",
    pickle.BINFLOAT + b"\x7f\xf8\0\0\0\0\0\0",
    pickle.FLOAT + b"nan\n",
    pickle.STRING + b"'\\x'\n",
    pickle.UNICODE + b"\\ud800\n",
    pickle.BINSTRING + b"\xff\xff\xff\xff",
    pickle.BINUNICODE + b"\xff\xff\xff\x7f",
    pickle.BINUNICODE8 + b"\xff" * 7 + b"\x7f",
    pickle.BINBYTES8 + b"\0\0\0\0\xff\0\0\0",
    pickle.BYTEARRAY8 + b"\0\0\0\0\xff\0\0\0",
    pickle.SHORT_BINUNICODE + b"\5split",
    pickle.SHORT_BINUNICODE + b"\5model",
    pickle.SHORT_BINUNICODE + b"\7storage",
    pickle.FRAME + b"\xff" * 8,
    pickle.FRAME + b"\0\0\0\0\xff\0\0\0",
    pickle.PROTO + b"\5",
    pickle.PROTO + b"\xff",
    pickle.EXT1 + b"\1",
    pickle.EXT4 + b"\xff\xff\xff\xff",
    pickle.NEXT_BUFFER,
    pickle.READONLY_BUFFER,
    pickle.STOP,
    b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ccollections\nOrderedDict\n",
    b"cbuiltins\ndict\n",
]


def programs(canary: Path) -> st.SearchStrategy[bytes]:
    """Opcodes in a row, with at least one call among them, wrapped so that a list or a dictionary may come of it."""
    pieces = st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join)
    starts = st.sampled_from(
        [b"\x80\x02", b"\x80\x04", b"\x80\x02]", b"\x80\x02}X\5\0\0\0model", b"\x80\x02]}X\1\0\0\0a"]
    )
    ends = st.sampled_from([b".", b"a.", b"s.", b"sa.", b"s\x85.", b""])
    return st.tuples(starts, pieces, st.sampled_from(calls(canary)), pieces, ends).map(b"".join)
