"""Vocabularies that write spaces as U+2581, against the tokenizers library: BPE with byte fallback
as tokenizer.json of llama-2 and gemma has it, and unigram."""
import json
import os
import struct
import tempfile

from support import hard_text, vocab_dump

try:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
except ImportError:
    vocab_dump.skip("the Python package tokenizers is missing (tests/requirements.txt)")

BYTES = ["<0x%02X>" % byte for byte in range(256)]
CONTROLS = ["<unk>", "<s>", "</s>"]
MARK = "\u2581"
# What a vocabulary of this kind cannot give back: the mark itself.
TEXTS = [text for text in hard_text.CORPUS + hard_text.random_texts(500, 11) if MARK not in text]


def types_of(tokens):
    return [vocab_dump.UNKNOWN if text == "<unk>" else vocab_dump.CONTROL if text in CONTROLS
            else vocab_dump.BYTE if text in BYTES else vocab_dump.NORMAL for text in tokens]


def escape(prefix):
    steps = [normalizers.Prepend(MARK)] if prefix else []
    return normalizers.Sequence(steps + [normalizers.Replace(" ", MARK)])


def trained_bpe(prefix, byte_fallback):
    learner = Tokenizer(models.BPE())
    learner.normalizer = escape(prefix)
    learner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="never")
    specials = CONTROLS + (BYTES if byte_fallback else [])
    learner.train_from_iterator(
        hard_text.training_texts() * 2,
        trainers.BpeTrainer(vocab_size=1800, special_tokens=specials, show_progress=False,
                            limit_alphabet=250, initial_alphabet=[MARK]))
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
              for merge in model["merges"]]
    oracle = Tokenizer(models.BPE(vocab=model["vocab"], merges=merges, unk_token="<unk>",
                                  fuse_unk=True, byte_fallback=byte_fallback))
    oracle.normalizer = escape(prefix)
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    oracle.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return oracle, tokens, [" ".join(merge) for merge in merges]


def trained_unigram(byte_fallback):
    learner = Tokenizer(models.Unigram())
    learner.normalizer = escape(True)
    learner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="never")
    learner.train_from_iterator(
        hard_text.training_texts(),
        trainers.UnigramTrainer(vocab_size=1200, special_tokens=["<unk>"], unk_token="<unk>",
                                show_progress=False))
    entries = json.loads(learner.to_str())["model"]["vocab"]
    # Scores are single precision in every file format but tokenizer.json.
    entries = [(text, struct.unpack("<f", struct.pack("<f", score))[0]) for text, score in entries]
    # Half of the rare characters go, so that there is something to fall back from.
    entries = [entry for i, entry in enumerate(entries)
               if i == 0 or len(entry[0]) > 1 or entry[0] == MARK or i % 2]
    if byte_fallback:
        entries += [(text, 0.0) for text in BYTES]
    oracle = Tokenizer(models.Unigram(entries, 0, byte_fallback))
    oracle.normalizer = escape(True)
    return oracle, [text for text, _ in entries], [score for _, score in entries]


def compare(report, name, oracle, tool, lossless):
    before = report.failures
    # This library's unigram model takes "<unk>" and "<0x41>" in the text for those tokens;
    # SentencePiece, whose files these are, does not (test_tokenizer_sentencepiece.py).
    texts = [text for text in TEXTS if not (name.startswith("unigram") and "<unk>" in text)]
    got = tool.encode(texts)
    for text, ids, back, pieces in zip(texts, got, tool.decode(got), tool.stream(got)):
        expected = oracle.encode(text, add_special_tokens=False).ids if text else []
        report.check(name, text, expected, ids)
        report.check(name + " streamed", text, back, b"".join(pieces))
        for piece in pieces:
            piece.decode("utf-8")
        if lossless:
            report.check(name + " decoded", text, text.encode("utf-8"), back)
    print("%-28s %d texts, %d failures" % (name, len(texts), report.failures - before))


def main():
    report = vocab_dump.Report()
    with tempfile.TemporaryDirectory() as work:
        dump = os.path.join(work, "dump")
        for prefix in (True, False):
            for byte_fallback in (True, False):
                oracle, tokens, merges = trained_bpe(prefix, byte_fallback)
                flags = vocab_dump.BYTE_FALLBACK | (vocab_dump.SPACE_PREFIX if prefix else 0)
                vocab_dump.write_dump(dump, "bpe", tokens, merges=merges, types=types_of(tokens),
                                      unk=0, bos=1, eos=2, flags=flags)
                compare(report, "bpe%s%s" % (" + prefix" if prefix else "",
                                             " + bytes" if byte_fallback else ""),
                        oracle, vocab_dump.Tool(work, dump), byte_fallback)
        for byte_fallback in (True, False):
            oracle, tokens, scores = trained_unigram(byte_fallback)
            vocab_dump.write_dump(dump, "unigram", tokens, scores=scores, types=types_of(tokens),
                                  unk=0, flags=vocab_dump.SPACE_PREFIX)
            compare(report, "unigram" + (" + bytes" if byte_fallback else ""), oracle,
                    vocab_dump.Tool(work, dump), byte_fallback)
    report.finish()


if __name__ == "__main__":
    main()
