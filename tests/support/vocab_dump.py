"""Vocabularies as tests/tools/vocab_dump.h reads them, and the tokenizer tool as an object."""
import os
import struct
import subprocess
import sys
import tempfile

from support import gguf_fields

KINDS = {"bpe": 0, "spm": 1, "unigram": 2}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

ADD_BOS, ADD_EOS, SPACE_PREFIX, REMOVE_EXTRA_WHITESPACES = 1, 2, 4, 8
IGNORE_MERGES, BYTE_FALLBACK, SCORES, TYPES, NFC, NFKC, STRIP = 16, 32, 64, 128, 256, 512, 1024
PREFIX_FIRST, PREFIX_UNLESS_SPACE = 2048, 4096


def to_bytes(text):
    return text if isinstance(text, bytes) else text.encode("utf-8")


def write_dump(path, kind, tokens, pre="", merges=(), scores=None, types=None, strip=None,
               bos=-1, eos=-1, unk=-1, pad=-1, eot=-1, charsmap=b"", flags=0):
    flags |= (SCORES if scores is not None else 0) | (TYPES if types is not None else 0)
    flags |= STRIP if strip is not None else 0
    pre = to_bytes(pre)
    with open(path, "wb") as out:
        out.write(b"OFRVOCAB")
        out.write(struct.pack("<11i", KINDS[kind], len(tokens), len(merges), bos, eos, unk, pad,
                              eot, flags, len(pre), len(charsmap)))
        out.write(pre + charsmap)
        for text in list(tokens) + list(merges):
            text = to_bytes(text)
            out.write(struct.pack("<i", len(text)) + text)
        if scores is not None:
            out.write(struct.pack("<%df" % len(tokens), *scores))
        if types is not None:
            out.write(struct.pack("<%di" % len(tokens), *types))
        if strip is not None:
            out.write(bytes(strip))


def write_gguf_dump(gguf_path, dump_path, more_flags=0):
    """The vocabulary of a GGUF file, with the defaults that GGUF leaves implicit."""
    fields = gguf_fields.read(gguf_path)

    def get(name, default=None):
        return fields.get("tokenizer.ggml." + name, default)

    kind = {"gpt2": "bpe", "llama": "spm", "t5": "unigram"}[get("model")]
    flags = more_flags
    if get("add_bos_token", kind == "spm"):
        flags |= ADD_BOS
    if get("add_eos_token", kind == "unigram"):
        flags |= ADD_EOS
    if get("add_space_prefix", kind != "bpe"):
        flags |= SPACE_PREFIX
    scores = get("scores") if kind != "bpe" else None
    write_dump(dump_path, kind, get("tokens"), pre=get("pre", "") if kind == "bpe" else "",
               merges=get("merges", []) if kind == "bpe" else [], scores=scores,
               types=get("token_type"), bos=get("bos_token_id", -1), eos=get("eos_token_id", -1),
               unk=get("unknown_token_id", -1), pad=get("padding_token_id", -1), flags=flags)


class Tool:
    """One tokenizer.bin, made from a dump; every call runs the tool once over many texts."""

    def __init__(self, folder, dump_path):
        self.binary = os.path.join(os.environ.get("OFFERING_BUILD_DIR", "build/dev"), "tests",
                                   "tools", "tokenizer_tool")
        handle, self.path = tempfile.mkstemp(suffix=".bin", dir=folder)
        os.close(handle)
        self.call("build", dump_path, self.path)

    def call(self, *args, lines=None):
        text = None if lines is None else "".join(line + "\n" for line in lines)
        done = subprocess.run([self.binary, *args], input=text, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError("tokenizer_tool %s: %s" % (args[0], done.stderr[-2000:]))
        return done.stdout.splitlines()

    def encode(self, texts, *options):
        lines = self.call("encode", self.path, *options,
                          lines=[to_bytes(text).hex() for text in texts])
        assert len(lines) == len(texts), (len(lines), len(texts))
        return [[int(word) for word in line.split()] for line in lines]

    def decode(self, sequences, *options):
        lines = self.call("decode", self.path, *options,
                          lines=[" ".join(map(str, ids)) for ids in sequences])
        assert len(lines) == len(sequences), (len(lines), len(sequences))
        return [bytes.fromhex(line) for line in lines]

    def stream(self, sequences, *options):
        lines = self.call("stream", self.path, *options,
                          lines=[" ".join(map(str, ids)) for ids in sequences])
        assert len(lines) == len(sequences), (len(lines), len(sequences))
        return [[bytes.fromhex(piece) for piece in line.split(" ")] for line in lines]


def skip(reason):
    print("SKIP: " + reason)
    sys.exit(77)


class Report:
    """Counts what was compared; prints the first differences and sets the exit status."""

    def __init__(self):
        self.cases = self.failures = 0

    def check(self, what, text, expected, actual):
        self.cases += 1
        if expected != actual:
            self.failures += 1
            if self.failures <= 20:
                print("FAIL %s\n  text     %r\n  expected %r\n  actual   %r"
                      % (what, text if len(text) < 200 else text[:200], expected, actual))

    def finish(self):
        print("%d cases, %d failures" % (self.cases, self.failures))
        sys.exit(1 if self.failures or not self.cases else 0)
