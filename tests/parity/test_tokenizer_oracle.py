"""Byte-level BPE against the tokenizers library: every pre-tokenizer rule, on vocabularies trained
here with the rule's definition in the models' own tokenizer.json."""
import os
import sys
import tempfile

from support import gguf_fields, hard_text, vocab_dump

try:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers, trainers
except ImportError:
    vocab_dump.skip("the Python package tokenizers is missing (tests/requirements.txt)")

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im"]
USER_DEFINED = ["  \t", "[custom]", "\u00f8\u00f6"]

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN35 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + r"+%s|[^\r\n\p{L}\p{N}]?" + UPPER + "+" +
         LOWER + r"*%s|%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SEED_CODER = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+")
BAILING = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
           r"|\s*[\r\n]|\s+(?!\S)|\s+")
DEEPSEEK_V3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"
               r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
DEEPSEEK_LETTERS = "".join(
    "[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943]+")
DEEPSEEK_SIGNS = "[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"


def split(regex):
    return pre_tokenizers.Split(Regex(regex), "isolated")


def digits():
    return pre_tokenizers.Digits(individual_digits=True)


def punctuation():
    return pre_tokenizers.Punctuation("contiguous")


def three_digits():
    return split("[0-9][0-9][0-9]")


# name as GGUF writes it -> (the pre-tokenizer before ByteLevel, ignore_merges)
RULES = {
    "gpt-2": ([split(GPT2)], False),
    "phi-2": ([split(GPT2)], False),
    "mpt": ([split(GPT2)], False),
    "smollm": ([digits(), split(GPT2)], False),
    "starcoder": ([digits(), split(GPT2)], False),
    "refact": ([digits(), split(GPT2)], False),
    "command-r": ([digits(), split(GPT2)], False),
    "llama-bpe": ([split(CL100K % r"\p{N}{1,3}")], True),
    "smollm3": ([split(CL100K % r"\p{N}{1,3}")], True),
    "dbrx": ([split(CL100K % r"\p{N}{1,3}")], False),
    "qwen2": ([split(CL100K % r"\p{N}")], False),
    "qwen35": ([split(QWEN35)], False),
    "tekken": ([split(O200K % ("", "", r"\p{N}"))], True),
    "gpt-4o": ([split(O200K % (CONTRACTIONS + "?", CONTRACTIONS + "?", r"\p{N}{1,3}"))], False),
    "seed-coder": ([split(SEED_CODER)], False),
    "bailingmoe": ([split(BAILING)], False),
    "deepseek-llm": ([split("[\r\n]"), split(r"\s?" + DEEPSEEK_LETTERS),
                      split(r"\s?" + DEEPSEEK_SIGNS), split(r"\s+$"), split(CJK),
                      split(r"\p{N}+")], False),
    "deepseek-coder": ([split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(CJK),
                        digits()], False),
    "deepseek-v3": ([split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
                     split(DEEPSEEK_V3)], False),
    "falcon": ([punctuation(), split(GPT2), three_digits()], False),
    "default": ([split(r"[\p{P}$+<=>\^~|]+"), split(GPT2), split(r"\p{N}+"), three_digits()],
                False),
}


def train(stages, ignore_merges, normalizer):
    oracle = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        oracle.normalizer = normalizer
    oracle.pre_tokenizer = pre_tokenizers.Sequence(
        stages + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    oracle.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1500, show_progress=False, special_tokens=SPECIALS,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    oracle.train_from_iterator(hard_text.training_texts() * 2, trainer)
    oracle.add_tokens([AddedToken(text, special=False, normalized=False)
                       for text in USER_DEFINED])
    return oracle


def dump_oracle(oracle, path, pre, flags):
    import json
    model = json.loads(oracle.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    vocab = oracle.get_vocab(with_added_tokens=True)
    tokens = sorted(vocab, key=vocab.get)
    types = [vocab_dump.CONTROL if text in SPECIALS
             else vocab_dump.USER_DEFINED if text in USER_DEFINED else vocab_dump.NORMAL
             for text in tokens]
    vocab_dump.write_dump(path, "bpe", tokens, pre=pre, merges=merges, types=types,
                          eos=vocab["<|endoftext|>"], flags=flags)


def oracle_of_gguf(path, stages, ignore_merges):
    """The library's tokenizer with a GGUF file's vocabulary: real sizes, real merges."""
    fields = gguf_fields.read(path)
    tokens = fields["tokenizer.ggml.tokens"]
    types = fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    oracle = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(tokens)}, merges=merges,
                                  ignore_merges=ignore_merges))
    oracle.pre_tokenizer = pre_tokenizers.Sequence(
        stages + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    for kind, special in ((vocab_dump.CONTROL, True), (vocab_dump.USER_DEFINED, False)):
        added = [AddedToken(text, special=special, normalized=False)
                 for text, type_ in zip(tokens, types) if type_ == kind]
        (oracle.add_special_tokens if special else oracle.add_tokens)(added)
    return oracle, fields["tokenizer.ggml.pre"]


def compare_gguf_vocabularies(report, work, dump):
    folder = os.path.join(os.environ.get("OFFERING_SOURCE_DIR", "."), "..", "shared", "fixtures",
                          "tokenizers")
    texts = hard_text.CORPUS + hard_text.random_texts(300, 31) + ["<|im_start|>a<|im_end|>"]
    for name in ("deepseek-llm", "falcon", "mpt", "qwen2", "refact"):
        path = os.path.join(folder, "ggml-vocab-%s.gguf" % name)
        if not os.path.exists(path):
            print("%-14s no fixture" % name)
            continue
        oracle, pre = oracle_of_gguf(path, *RULES[name])
        assert pre == name, (pre, name)
        vocab_dump.write_gguf_dump(path, dump)
        before = report.failures
        tool = vocab_dump.Tool(work, dump)
        got = tool.encode(texts, "special")
        for text, ids in zip(texts, got):
            report.check(name + " vocabulary", text,
                         oracle.encode(text, add_special_tokens=False).ids, ids)
        print("%-14s vocabulary of GGUF: %d texts, %d failures"
              % (name, len(texts), report.failures - before))


def compare(report, name, oracle, tool, texts, lossless):
    special = tool.encode(texts, "special")
    for text, ids in zip(texts, special):
        report.check(name, text, oracle.encode(text, add_special_tokens=False).ids, ids)
    for text, ids, back, pieces in zip(texts, special, tool.decode(special, "special"),
                                       tool.stream(special, "special")):
        if lossless:
            report.check(name + " decoded", text, text.encode("utf-8"), back)
        report.check(name + " streamed", text, back, b"".join(pieces))
        for piece in pieces:
            piece.decode("utf-8")
    # Without `special`, control tokens written in the text are text, and come back as text.
    plain = tool.encode(texts)
    control = {oracle.token_to_id(text) for text in SPECIALS}
    for text, ids, back in zip(texts, plain, tool.decode(plain)):
        report.check(name + " no control tokens", text, set(), control & set(ids))
        if lossless:
            report.check(name + " decoded as text", text, text.encode("utf-8"), back)


def main():
    chosen = sys.argv[1:] or list(RULES)
    report = vocab_dump.Report()
    texts = hard_text.CORPUS + hard_text.random_texts(600, 7) + [
        "<|im_start|>user\nHi<|im_end|>\n<|im_end|><|im_start|>", "a<|im_start|> b <|im|> c",
        "x  \ty [custom][custom] \u00f8\u00f6\u00f8 z", "<|endoftext|>", "<|im_start|",
    ]
    with tempfile.TemporaryDirectory() as work:
        dump = os.path.join(work, "dump")
        for name in chosen:
            stages, ignore_merges = RULES[name]
            oracle = train(stages, ignore_merges, None)
            dump_oracle(oracle, dump, name,
                        vocab_dump.IGNORE_MERGES if ignore_merges else 0)
            before = report.failures
            compare(report, name, oracle, vocab_dump.Tool(work, dump), texts, True)
            print("%-14s %d texts, %d failures" % (name, len(texts), report.failures - before))
        for name, normalizer, flag in (("NFC", normalizers.NFC(), vocab_dump.NFC),
                                       ("NFKC", normalizers.NFKC(), vocab_dump.NFKC)):
            oracle = train(RULES["qwen2"][0], False, normalizer)
            dump_oracle(oracle, dump, "qwen2", flag)
            before = report.failures
            compare(report, name, oracle, vocab_dump.Tool(work, dump), texts, False)
            print("qwen2 + %-6s %d texts, %d failures"
                  % (name, len(texts), report.failures - before))
        compare_gguf_vocabularies(report, work, dump)
    report.finish()


if __name__ == "__main__":
    main()
