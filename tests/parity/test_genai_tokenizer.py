"""openvino_tokenizer.xml and openvino_detokenizer.xml in the runtime that they are for: OpenVINO Tokenizers gives the ids
and the texts of our tokenizer, with the vocabularies of the fixtures, with every pre-tokenizer rule, and with
SentencePiece models trained here. What differs is counted; it may differ only where the graphs' header says so."""
import glob
import os
import re
import subprocess
import sys
import tempfile
import unicodedata

from support import gguf_fields, hard_text, vocab_dump

try:
    import numpy as np
    import openvino as ov
    import openvino_tokenizers  # noqa: F401  (registers its operations with every Core)
except ImportError as missing:
    vocab_dump.skip("OpenVINO Tokenizers is not installed: %s" % missing)

TOOLS = os.path.join(os.environ["OFFERING_BUILD_DIR"], "tests", "tools")
FIXTURES = os.path.join(os.environ.get("OFFERING_SOURCE_DIR", "."), "..", "shared", "fixtures", "tokenizers")
GGUF = os.environ.get("OFFERING_TEST_GGUF", "")
TEXTS = hard_text.CORPUS + hard_text.random_texts(150, 31) + [
    "<|im_start|>user\nHi<|im_end|>\n<|im_end|><|im_start|>", "a<|im_start|> b <|im|> c", " </s> a<s> b\n<s>", "\n", " "]
# Each kind of expression that no fixture has; names that share expressions would only repeat them.
RULES = ("llama-bpe", "qwen35", "tekken", "gpt-4o", "seed-coder", "bailingmoe", "deepseek-coder", "deepseek-v3", "default",
         "viking")
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


class Graphs:
    """`reason` says why there are none."""

    def __init__(self, core, binary, folder):
        run = subprocess.run([os.path.join(TOOLS, "tokenizer_graph_tool"), binary, folder], stdout=subprocess.PIPE,
                             text=True)
        assert run.returncode in (0, 77), run.stdout
        self.reason = run.stdout.strip() if run.returncode else None
        if not run.returncode:
            self.encoder, self.decoder = (core.compile_model(os.path.join(folder, name), "CPU") for name in
                                          ("openvino_tokenizer.xml", "openvino_detokenizer.xml"))

    def encode(self, texts):
        """Of one batch, which is padded on the left."""
        result = self.encoder(texts)
        ids, mask = result["input_ids"], result["attention_mask"]
        assert ids.shape == mask.shape and (np.diff(mask, axis=1) >= 0).all()
        return [[int(i) for i in row[kept == 1]] for row, kept in zip(ids, mask)]

    def decode(self, sequences):
        return [str(self.decoder([ids])["string_output"][0]) if ids else "" for ids in sequences]


def has_marks(text):
    """Two marks in a row, whose order normalisation may change."""
    marks = [unicodedata.combining(c) > 0 for c in unicodedata.normalize("NFD", text)]
    return any(a and b for a, b in zip(marks, marks[1:]))


def compare(report, core, name, dump, work, may_differ=lambda text: False):
    """The reason where there are no graphs. `may_differ`: the texts whose ids may."""
    tool = vocab_dump.Tool(work, dump)
    graphs = Graphs(core, tool.path, work)
    if graphs.reason:
        print("%-14s none: %s" % (name, graphs.reason))
        return graphs.reason
    differing = 0
    for text, want, got in zip(TEXTS, tool.encode(TEXTS, "special", "bos"), graphs.encode(TEXTS)):
        differing += want != got
        report.check(name, text, want, want if may_differ(text) else got)
    # Control tokens are text here: no space is taken away in the middle.
    ids = tool.encode(TEXTS)
    for text, want, got in zip(TEXTS, tool.decode(ids), graphs.decode(ids)):
        report.check(name + " decoded", text, want.decode("utf-8", "replace"), got)
    print("%-14s %d texts, of which %d may differ; the ids of %d do"
          % (name, len(TEXTS), sum(bool(may_differ(text)) for text in TEXTS), differing))
    return None


def compare_rules(report, core, dump, work):
    fields = gguf_fields.read(GGUF)
    tokens, merges, types = (fields["tokenizer.ggml." + key] for key in ("tokens", "merges", "token_type"))
    for rule in RULES:
        whole = rule in ("llama-bpe", "tekken")
        vocab_dump.write_dump(dump, "bpe", tokens, pre=rule, merges=merges, types=types,
                              flags=vocab_dump.IGNORE_MERGES if whole else 0)
        report.check(rule, "made", None, compare(report, core, rule, dump, work))
    for name, flag in (("nfc", vocab_dump.NFC), ("nfkc", vocab_dump.NFKC)):
        vocab_dump.write_dump(dump, "bpe", tokens, pre="qwen2", merges=merges, types=types, flags=flag)
        report.check(name, "made", None, compare(report, core, name, dump, work, has_marks))


def compare_sentencepiece(report, core, dump, work):
    import test_tokenizer_sentencepiece as trained
    plain = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True,
             "character_coverage": 0.98}
    for name, kind, more, prefix in (("llama trained", "bpe", {}, True), ("gemma trained", "bpe", {
            "add_dummy_prefix": False, "user_defined_symbols": trained.USER_DEFINED}, False),
                                     ("unigram", "unigram", {}, True)):
        oracle, model = trained.train(kind, 1500, **plain, **more)
        trained.write(dump, "spm" if kind == "bpe" else kind, oracle, model, more.get("user_defined_symbols", []),
                      prefix, False)
        reason = compare(report, core, name, dump, work, BYTE_TOKEN.search)
        report.check(name, "made or not", "the vocabulary is a unigram one" if kind == "unigram" else None, reason)


def main():
    if not os.path.exists(GGUF):
        vocab_dump.skip("no reference GGUF")
    report, core = vocab_dump.Report(), ov.Core()
    with tempfile.TemporaryDirectory() as work:
        dump = os.path.join(work, "dump")
        compare_rules(report, core, dump, work)
        for path in sorted(glob.glob(os.path.join(FIXTURES, "*.gguf"))):
            vocab_dump.write_gguf_dump(path, dump)
            name = os.path.basename(path)[len("ggml-vocab-"):-len(".gguf")]
            may_differ = BYTE_TOKEN.search if name == "llama-spm" else lambda text: False
            report.check(name, "made", None, compare(report, core, name, dump, work, may_differ))
            if name == "llama-spm":
                for more, flags in ((" first", vocab_dump.PREFIX_FIRST),
                                    (" unless", vocab_dump.PREFIX_FIRST | vocab_dump.PREFIX_UNLESS_SPACE)):
                    vocab_dump.write_gguf_dump(path, dump, flags)
                    report.check(name + more, "made", None, compare(report, core, name + more, dump, work, may_differ))
        compare_sentencepiece(report, core, dump, work)
    report.finish()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
