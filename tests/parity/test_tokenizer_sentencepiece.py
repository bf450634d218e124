"""SentencePiece BPE and unigram against the sentencepiece library, on models trained here: scores,
byte fallback, the nmt_nfkc character map, dummy prefix, merging of spaces."""
import io
import math
import os
import tempfile

from support import hard_text, vocab_dump

try:
    import sentencepiece
except ImportError:
    vocab_dump.skip("the Python package sentencepiece is missing (tests/requirements.txt)")

# NUL ends a text inside the library's normaliser; U+2581 cannot be told from a space.
TEXTS = [text for text in hard_text.CORPUS + hard_text.random_texts(600, 23)
         if "\x00" not in text and "\u2581" not in text]
USER_DEFINED = ["[custom]", "\n\n", "\t\t"]


def fields(data):
    """The fields of a protocol buffer message: (number, value)."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            yield key >> 3, data[at:at + size]
            at += size


def charsmap_of(model):
    """normalizer_spec (3) . precompiled_charsmap (2) of sentencepiece_model.proto."""
    for number, value in fields(model):
        if number == 3:
            for inner, content in fields(value):
                if inner == 2:
                    return bytes(content)
    return b""


def train(kind, vocab_size, **options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.replace("\x00", "") for text in hard_text.training_texts()
                                if text.strip()]),
        model_writer=out, model_type=kind, vocab_size=vocab_size, num_threads=1,
        minloglevel=2, hard_vocab_limit=False, **options)
    model = out.getvalue()
    return sentencepiece.SentencePieceProcessor(model_proto=model), model


def write(path, kind, oracle, model, user_defined, prefix, merge_spaces):
    count = oracle.get_piece_size()
    tokens = [oracle.id_to_piece(i) for i in range(count)]
    types = [vocab_dump.UNKNOWN if oracle.is_unknown(i) else
             vocab_dump.CONTROL if oracle.is_control(i) else
             vocab_dump.BYTE if oracle.is_byte(i) else
             vocab_dump.USER_DEFINED if tokens[i] in user_defined else vocab_dump.NORMAL
             for i in range(count)]
    flags = (vocab_dump.SPACE_PREFIX if prefix else 0) | (
        vocab_dump.REMOVE_EXTRA_WHITESPACES if merge_spaces else 0)
    vocab_dump.write_dump(path, kind, tokens, scores=[oracle.get_score(i) for i in range(count)],
                          types=types, unk=oracle.unk_id(), bos=oracle.bos_id(),
                          eos=oracle.eos_id(), charsmap=charsmap_of(model), flags=flags)


def score(oracle, ids):
    return math.fsum(oracle.get_score(i) for i in ids)


def compare(report, name, oracle, tool, texts, lossless, unigram):
    before, ties = report.failures, 0
    got = tool.encode(texts)
    for text, ids, back, pieces in zip(texts, got, tool.decode(got), tool.stream(got)):
        expected = oracle.encode(text)
        # The library sums scores in single precision, and how depends on its version. Where its
        # path differs from ours, ours must be at least as good when summed exactly, and they
        # must differ by no more than that rounding.
        if unigram and ids != expected and oracle.decode(ids) == oracle.decode(expected) and \
                -1e-9 <= score(oracle, ids) - score(oracle, expected) < 1e-4:
            ties += 1
            expected = ids
        report.check(name, text, expected, ids)
        report.check(name + " streamed", text, back, b"".join(pieces))
        for piece in pieces:
            piece.decode("utf-8")
        if lossless:
            report.check(name + " decoded", text, text.encode("utf-8"), back)
        elif oracle.unk_id() not in ids:
            report.check(name + " decoded", text, oracle.decode(expected).encode("utf-8"), back)
    report.check(name + " ties are rare", "", True, ties * 10 <= len(texts))
    print("%-22s %d texts, %d ties, %d failures"
          % (name, len(texts), ties, report.failures - before))


def main():
    report = vocab_dump.Report()
    identity = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    nfkc = {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}
    bytes_too = {"byte_fallback": True, "character_coverage": 0.98}
    cases = [
        # name, kind, library's kind, options, prefix, merges spaces, lossless
        ("llama-2", "spm", "bpe", dict(identity, **bytes_too), True, False, True),
        ("gemma", "spm", "bpe", dict(identity, add_dummy_prefix=False,
                                     user_defined_symbols=USER_DEFINED, **bytes_too),
         False, False, True),
        ("bpe nmt_nfkc", "spm", "bpe", dict(nfkc, character_coverage=0.98), True, True, False),
        ("unigram identity", "unigram", "unigram", dict(identity, **bytes_too), True, False, True),
        ("unigram nmt_nfkc", "unigram", "unigram", dict(nfkc, **bytes_too), True, True, False),
        ("t5", "unigram", "unigram", dict(nfkc, character_coverage=0.98), True, True, False),
    ]
    with tempfile.TemporaryDirectory() as work:
        dump = os.path.join(work, "dump")
        for name, kind, library_kind, options, prefix, merge_spaces, lossless in cases:
            oracle, model = train(library_kind, 1500, **options)
            write(dump, kind, oracle, model, options.get("user_defined_symbols", []), prefix,
                  merge_spaces)
            texts = TEXTS + ["a[custom] b\n\n\t\t\n\n\nc [custom]"] * (name == "gemma")
            compare(report, name, oracle, vocab_dump.Tool(work, dump), texts, lossless,
                    kind == "unigram")
    report.finish()


if __name__ == "__main__":
    main()
