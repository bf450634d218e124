"""llama.cpp's vocabularies and expected ids: every case exact, and back to the text."""
import glob
import os
import tempfile

from support import vocab_dump



def main():
    folder = os.path.join(os.environ.get("OFFERING_SOURCE_DIR", "."), "..", "shared", "fixtures",
                          "tokenizers")
    files = sorted(glob.glob(os.path.join(folder, "*.gguf")))
    if not files:
        vocab_dump.skip("no fixtures in " + folder)
    report = vocab_dump.Report()
    with tempfile.TemporaryDirectory() as work:
        for path in files:
            name = os.path.basename(path)
            dump = os.path.join(work, "dump")
            vocab_dump.write_gguf_dump(path, dump)
            tool = vocab_dump.Tool(work, dump)
            with open(path + ".inp", "rb") as inp:
                texts = inp.read().decode("utf-8").split("\n__ggml_vocab_test__\n")
            with open(path + ".out") as out:
                expected = [[int(word) for word in line.split()] for line in out]
            # Every text is followed by the separator: what comes after the last is none.
            if texts[-1] == "":
                texts.pop()
            actual = tool.encode(texts)
            print("%s: %d texts; %s" % (name, len(texts), tool.call("info", tool.path)[0]))
            report.check(name, "number of cases", len(texts), len(expected))
            for text, want, got, back, pieces in zip(texts, expected, actual, tool.decode(actual),
                                                     tool.stream(actual)):
                report.check(name, text, want, got)
                report.check(name + " decoded", text, text.encode("utf-8"), back)
                report.check(name + " streamed", text, back, b"".join(pieces))
    report.finish()


if __name__ == "__main__":
    main()
