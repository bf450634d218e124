"""The metadata of a GGUF file, {key: value}. The Python package gguf makes an array of each part of each
string, which takes seconds for a vocabulary."""
import mmap
import struct

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


def read(path):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        assert data[:4] == b"GGUF", path
        at = 24

        def take(form, n=1):
            nonlocal at
            values = struct.unpack_from("<%d%s" % (n, form), data, at)
            at += struct.calcsize("<%d%s" % (n, form))
            return list(values)

        def text():
            nonlocal at
            size, = take("Q")
            at += size
            return data[at - size:at].decode()

        def value(kind):
            if kind == STRING:
                return text()
            if kind == ARRAY:
                (kind,), (n,) = take("I"), take("Q")
                return [value(kind) for _ in range(n)] if kind in (STRING, ARRAY) else take(NUMBERS[kind], n)
            return take(NUMBERS[kind])[0]

        count, = struct.unpack_from("<Q", data, 16)
        fields = {}
        for _ in range(count):
            key = text()
            fields[key] = value(take("I")[0])
        return fields
