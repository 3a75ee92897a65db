# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""HPACK (RFC 7541): a client's header blocks, as fields.

The table and Huffman's code are `hpack`'s. Its decoder is not used: what a client sends decides how long that takes, for it
copies the rest of the block for each literal, takes any number of changes of the table's size, and counts bytes, but no
fields. A block of 64 KiB so took the loop for a tenth of a second. Here it is read once, from its beginning to its end.
"""

from __future__ import annotations

from collections.abc import Callable

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from hpack import Decoder, HPACKDecodingError, InvalidTableSizeError, OversizedHeaderListError
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

Field = tuple[bytes, bytes]

_MOST_CHANGES = 2  # of the table's size, in front of a block (RFC 7541, 4.2)
_ENTRY = 32  # bytes that a field counts beside its own
_LONGEST_SHIFT = 56  # of an integer's last byte: what is longer names no size
_END = 256  # the symbol of the end, which is never sent


def _states() -> tuple[bytes, bytes, bytes, bytes]:
    """The code, as an automaton that takes four bits at once. A state is an inner node of the tree, of which there are 256; the
    root is 0. No symbol is shorter than four bits, so one step gives one of them at the most.

    By state and bits, the state times sixteen: the next state; whether there is a symbol (1), or never may be (2); and which.
    By state: whether a string may end there, behind less than a byte of ones.
    """
    children: list[list[int]] = [[0, 0]]  # a symbol: its complement
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        node = 0
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            if children[node][bit] == 0:
                children.append([0, 0])
                children[node][bit] = len(children) - 1
            node = children[node][bit]
        children[node][code & 1] = ~symbol
    following, found, symbols = bytearray(), bytearray(), bytearray()
    for node in range(len(children)):
        for bits in range(16):
            at, has, symbol = node, 0, 0
            for shift in (3, 2, 1, 0):
                at = children[at][bits >> shift & 1]
                if at < 0:
                    has, symbol, at = (2, 0, 0) if ~at == _END else (has or 1, ~at, 0)
            following.append(at)
            found.append(has)
            symbols.append(symbol)
    ends = bytearray(len(children))
    node = 0
    for _ in range(8):
        ends[node] = 1
        node = children[node][1]
    return bytes(following), bytes(found), bytes(symbols), bytes(ends)


_FOLLOWING, _FOUND, _SYMBOLS, _ENDS = _states()


@cython.final
@cython.cclass
class _Block:
    """One, as it is read. at: how far."""

    _data: bytes
    at: int

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def integer(self, most: int) -> int:
        """most: what its first byte may say, as a mask."""
        data = self._data
        number = data[self.at] & most
        self.at += 1
        if number < most:
            return number
        shift = 0
        while shift <= _LONGEST_SHIFT:
            byte = data[self.at]
            self.at += 1
            if shift == _LONGEST_SHIFT and byte > 0x3F:
                break
            number += (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
        raise HPACKDecodingError("an integer is too long")

    def string(self, most: int) -> bytes:
        """A literal of so many bytes at the most, in plain or in Huffman's code."""
        data = self._data
        is_plain = data[self.at] < 0x80
        length = self.integer(0x7F)
        begin = self.at
        if length > len(data) - begin:
            raise HPACKDecodingError("the block ends in a string")
        if is_plain and length > most:
            raise OversizedHeaderListError(f"a string of {length} bytes")
        self.at = begin + length
        return data[begin : self.at] if is_plain else unpacked(data, begin, self.at, most)


def unpacked(data: bytes, begin: int, end: int, most: int) -> bytes:
    """What a string in Huffman's code says, of so many bytes at the most: what is longer is not read to its end."""
    if not 0 <= begin <= end <= len(data) or most < 0:
        raise ValueError(f"no part of {len(data)} bytes: {begin} to {end}, at most {most}")
    following, found, symbols, coded = _FOLLOWING, _FOUND, _SYMBOLS, data  # pointers when compiled
    # No symbol is shorter than five bits. One step finds one; so behind each byte there is room for two more.
    text = bytearray(min((end - begin) * 8 // 5, most) + 2)
    room = text
    size = 0
    state = 0
    for at in range(begin, end):
        byte = coded[at]
        step = state * 16 + (byte >> 4)
        if found[step]:
            if found[step] == 2:
                raise HPACKDecodingError("a string has the symbol of its end")
            room[size] = symbols[step]
            size += 1
        step = following[step] * 16 + (byte & 15)
        if found[step]:
            if found[step] == 2:
                raise HPACKDecodingError("a string has the symbol of its end")
            room[size] = symbols[step]
            size += 1
        state = following[step]
        if size > most:
            raise OversizedHeaderListError(f"a string of more than {most} bytes")
    if not _ENDS[state]:
        raise HPACKDecodingError("a string ends in the middle of a symbol")
    return bytes(text[:size])


def read_block(
    data: bytes,
    most_fields: int,
    most_bytes: int,
    *,
    entry: Callable[[int], Field],
    add: Callable[[bytes, bytes], None],
    resize: Callable[[int], None],
) -> list[Field]:
    """Its fields. entry(index), add(name, value) and resize(size) are the table's. most_bytes: as HTTP/2 counts them."""
    block = _Block(data)
    fields: list[Field] = []
    size = len(data)
    total = 0
    changes = 0
    while block.at < size:
        first = data[block.at]
        if first >= 0x80:
            field = entry(block.integer(0x7F))
            name, value = field
        elif first & 0x60 == 0x20:
            changes += 1
            if fields or changes > _MOST_CHANGES:
                raise HPACKDecodingError("the table's size changes where it may not")
            resize(block.integer(0x1F))
            continue
        else:
            index = block.integer(0x3F if first >= 0x40 else 0x0F)
            most = most_bytes - total
            name = entry(index)[0] if index else block.string(most)
            value = block.string(most)
            field = (name, value)
            if first >= 0x40:
                add(name, value)
        total += len(name) + len(value) + _ENTRY
        if total > most_bytes or len(fields) >= most_fields:
            raise OversizedHeaderListError(f"more than {most_bytes} bytes, or {most_fields} fields")
        fields.append(field)
    return fields


class FieldDecoder(Decoder):
    """In the place of h2's. most_fields: of a block."""

    def __init__(self, most_fields: int) -> None:
        super().__init__()
        self._most_fields = most_fields

    def decode(self, data: bytes, raw: bool = False) -> list[Field]:  # type: ignore[override]
        """Always as bytes. Raises `HPACKError`: what follows on the connection cannot be read."""
        table = self.header_table
        try:
            fields = read_block(
                bytes(data),
                self._most_fields,
                self.max_header_list_size,
                entry=table.get_by_index,
                add=table.add,
                resize=self._resize,
            )
        except IndexError:
            raise HPACKDecodingError("the block ends in a field") from None
        if table.maxsize > self.max_allowed_table_size:
            raise InvalidTableSizeError("the table was to shrink, and has not")
        return fields

    def _resize(self, size: int) -> None:
        if size > self.max_allowed_table_size:
            raise InvalidTableSizeError(f"a table of {size} bytes")
        self.header_table_size = size
