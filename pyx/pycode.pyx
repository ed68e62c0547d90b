"""The code of a module out of a .pyc: its instructions, and the constants and names that they speak of.

Nothing is made of what else there is (functions, classes): it is stepped over. Any thread; the time is bounded by the
size. The source is CPython's Python/marshal.c.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libcpp.vector cimport vector

from crfs.errors import FormatError

# what nests deeper is not looked at, nor what is longer than a name, nor more of them than these, and longer tuples
cdef int DEPTH_MAX = 200
cdef size_t NAME_MAX = 255
cdef size_t NAMES_MAX = 20000
cdef size_t TUPLE_MAX = 4096
cdef uint8_t REF = 0x80


cdef struct Walk:
    const uint8_t *data
    size_t size
    size_t at
    # numbers at the start of a code object, and objects behind its line number
    int longs
    int behind
    # where the objects begin that others refer to, once all of them are known
    vector[size_t] shared
    bint known


cdef bint step(Walk *walk, size_t size) noexcept nogil:
    """Past so many bytes; False where there are fewer."""
    if size > walk.size - walk.at:
        return False
    walk.at += size
    return True


cdef bint number(Walk *walk, uint32_t *value) noexcept nogil:
    if not step(walk, 4):
        return False
    value[0] = little(walk.data + walk.at - 4)
    return True


cdef uint32_t little(const uint8_t *at) noexcept nogil:
    return at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 24


cdef void share(Walk *walk) noexcept nogil:
    """Others may refer to the object here."""
    if not walk.known:
        walk.shared.push_back(walk.at)


cdef bint skip(Walk *walk, int depth) noexcept nogil:
    """Past one object; False where it is none. All loops end with the data: each turn takes a byte at the least."""
    cdef uint8_t kind
    cdef uint32_t count = 0
    cdef int32_t digits
    if depth > DEPTH_MAX or walk.at >= walk.size:
        return False
    kind = walk.data[walk.at]
    if kind & REF:
        share(walk)
        kind ^= REF
    walk.at += 1
    if kind in b"NTFS.":
        return True
    if kind in b"ir":
        return step(walk, 4)
    if kind in b"Ig":
        return step(walk, 8)
    if kind == c"y":
        return step(walk, 16)
    if kind in b"zZ":
        return step(walk, 1) and step(walk, walk.data[walk.at - 1])
    if kind in b"stuaA":
        return number(walk, &count) and step(walk, count)
    if kind == c"l":
        if not number(walk, &count):
            return False
        digits = <int32_t>count
        return step(walk, 2 * <size_t>(-<long>digits if digits < 0 else digits))
    if kind == c")":
        return step(walk, 1) and skip_all(walk, walk.data[walk.at - 1], depth)
    if kind in b"([<>":
        return number(walk, &count) and skip_all(walk, count, depth)
    if kind == c":":
        return skip_all(walk, 3, depth)
    if kind == c"c":
        return (
            step(walk, 4 * walk.longs)
            and skip_all(walk, 8, depth)
            and step(walk, 4)
            and skip_all(walk, walk.behind, depth)
        )
    return False


cdef bint skip_all(Walk *walk, size_t count, int depth) noexcept nogil:
    cdef size_t done
    for done in range(count):
        if not skip(walk, depth + 1):
            return False
    return True


cdef size_t place_of(Walk *walk, size_t at) except? 0:
    """Where the object at an offset is, which was stepped over: there, or where it refers to. FormatError."""
    cdef size_t number
    if walk.data[at] & ~REF != c"r":
        return at
    number = little(walk.data + at + 1)
    if number >= walk.shared.size():
        raise FormatError("a .pyc refers to what it does not have")
    return walk.shared[number]


cdef object text(Walk *walk, size_t at):
    """The string at an offset, or None: another object, or what is no name."""
    cdef size_t size
    at = place_of(walk, at)
    if walk.data[at] & ~REF in b"zZ":
        at, size = at + 2, walk.data[at + 1]
    elif walk.data[at] & ~REF in b"tuaA":
        at, size = at + 5, little(walk.data + at + 1)
    else:
        return None
    return (<const char *>walk.data)[at:at + size].decode("utf-8", "surrogateescape") if size <= NAME_MAX else None


cdef object constant(Walk *walk, size_t at):
    """See Code.constant(). Takes longer for a longer tuple."""
    cdef size_t place = place_of(walk, at), item
    cdef vector[size_t] items
    if walk.data[place] & ~REF == c"i":
        return <int32_t>little(walk.data + place + 1)
    if walk.data[place] & ~REF not in b"()":
        return text(walk, at)
    walk.at = place
    if not step_items(walk, &items) or items.size() > TUPLE_MAX:
        return None
    return tuple([text(walk, item) for item in items])


cdef bint step_items(Walk *walk, vector[size_t] *items) noexcept nogil:
    """Past a tuple, and where its items begin; False where it is none."""
    cdef uint8_t kind
    cdef uint32_t count = 0
    if walk.at >= walk.size:
        return False
    kind = walk.data[walk.at]
    if kind == c"r":
        # only the empty tuple is shared
        return skip(walk, 0)
    if kind & REF:
        share(walk)
        kind ^= REF
    walk.at += 1
    if kind == c")" and step(walk, 1):
        count = walk.data[walk.at - 1]
    elif kind != c"(" or not number(walk, &count):
        return False
    while items.size() < count:
        items.push_back(walk.at)
        if not skip(walk, 0):
            return False
    return True


cdef bint step_instructions(Walk *walk, uint32_t *size) noexcept nogil:
    """Past the head of a code object and its instructions; False where they are none."""
    if walk.at >= walk.size or walk.data[walk.at] & ~REF != c"c":
        return False
    if walk.data[walk.at] & REF:
        share(walk)
    if not step(walk, 1 + 4 * walk.longs) or walk.at >= walk.size or walk.data[walk.at] & ~REF != c"s":
        return False
    if walk.data[walk.at] & REF:
        share(walk)
    walk.at += 1
    return number(walk, size) and step(walk, size[0])


cdef class Code:
    """The code object at an offset of `data`: its `instructions`, and its `names`, where each is a string or None.

    FormatError where there is none. `longs` are the numbers at the start of a code object, `behind` the objects behind
    its line number.
    """

    cdef readonly bytes instructions
    cdef readonly list names
    cdef bytes data
    cdef Walk walk
    cdef vector[size_t] constants

    def __init__(self, bytes data not None, size_t start, int longs, int behind):
        cdef vector[size_t] names
        cdef uint32_t size = 0
        cdef size_t end = 0
        cdef bint sound
        self.data = data
        self.walk.data = <const uint8_t *><const char *>data
        self.walk.size, self.walk.at = len(data), min(start, <size_t>len(data))
        self.walk.longs, self.walk.behind = longs, behind
        with nogil:
            sound = step_instructions(&self.walk, &size)
            end = self.walk.at
            sound = sound and step_items(&self.walk, &self.constants) and step_items(&self.walk, &names)
        if not sound or names.size() > NAMES_MAX:
            raise FormatError("a .pyc without code, or cut short")
        self.walk.known = True
        self.instructions = data[end - size:end]
        self.names = [text(&self.walk, item) for item in names]

    def constant(self, size_t number) -> int | str | tuple | None:
        """A number, a string, or a tuple, of which only strings are told; None: any other, or there is none."""
        if number >= self.constants.size():
            return None
        return constant(&self.walk, self.constants[number])
