"""bake_model --check: packages as the bake writes them pass; deliberately broken ones do not, and the file and the
node at fault are named."""
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile

from support import bake
from support.bake import expect

PACKAGE = os.environ.get("OFFERING_TEST_PACKAGE", "")


def check(package, *options):
    done = subprocess.run([bake.BAKE, "--check", package, *options], capture_output=True, text=True, timeout=60,
                          check=False)
    expect("Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr)
    return done


def judged(package):
    done = check(package, "--json")
    expect(done.returncode in (0, 1) and done.stdout.count("\n") == 1, done)
    result = json.loads(done.stdout)
    expect(result["ok"] == (done.returncode == 0) == (not result["errors"]), result)
    return result


def sign(package):
    """model.json as if the package had been baked like this."""
    path = os.path.join(package, "model.json")
    with open(path, "rb") as f:
        text = f.read()
    model = json.loads(text)
    for name, entry in model["files"].items():
        file = os.path.join(package, name)
        if not os.path.exists(file):
            continue
        with open(file, "rb") as f:
            new = f.read()
        # The text keeps its form: only these values change.
        old = json.dumps(entry["sha256"]).encode()
        text = text.replace(old, json.dumps(hashlib.sha256(new).hexdigest()).encode())
        pattern = rb'("%s":\s*\{\s*"size":\s*)\d+' % re.escape(name.encode())
        text = re.sub(pattern, lambda m: m.group(1) + str(len(new)).encode(), text)
    begin = len(b'{\n  "checksum": "')
    text = text[:begin] + b"0" * 64 + text[begin + 64:]
    text = text[:begin] + hashlib.sha256(text).hexdigest().encode() + text[begin + 64:]
    with open(path, "wb") as f:
        f.write(text)


def broken(package, work, file, change):
    """A copy of the package whose graph `file` is changed."""
    copy = os.path.join(work, "broken")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(package, copy)
    path = os.path.join(copy, file)
    with open(path) as f:
        text = f.read()
    changed = change(text)
    expect(changed != text, file, "nothing was changed")
    with open(path, "w") as f:
        f.write(changed)
    sign(copy)
    return judged(copy)


def expect_error(result, file, node, what):
    found = [e for e in result["errors"] if e["file"] == file and node in e["node"] and what in e["what"]]
    expect(found, "not found:", file, node, what, "in", result["errors"])


def first(pattern, replacement):
    return lambda text: re.sub(pattern, replacement, text, count=1, flags=re.S)


CASES = [
    ("block_16_0.xml", first(r'(name="hidden" .*?<dim>)16', r"\1-1"), "hidden", "dynamic"),
    ("block_16_0.xml", first(r'(name="hidden" .*?shape="1,)16', r"\1?"), "hidden", "dynamic"),
    ("block_16_0.xml", first(r'type="Swish"', 'type="NonMaxSuppression"'), "Swish", "NonMaxSuppression"),
    ("block_16_512.xml", first(r'(name="q.weight" .*?element_type=")i4', r"\1u4"), "q.weight", "zero point"),
    ("block_16_512.xml", first(r'(name="q.weight" .*?)<dim>32</dim></port>', r"\1<dim>16</dim></port>"),
     "q.weight", "groups of 16"),
    ("prefill_16.xml", first(r'(name="layers.1.up.weight" .*?offset=")\d+', r"\g<1>99999999999"),
     "layers.1.up.weight", "beyond the end"),
    ("prefill_16.xml", first(r'(name="layers.1.up.weight" .*?size=")\d+', r"\g<1>17"), "layers.1.up.weight", "17 bytes"),
    ("decode.xml", first(r'(name="beam_idx" .*?<dim>)1', r"\g<1>2"), "beam_idx", "[1]"),
    ("decode.xml", lambda text: text.replace('type="Multiply"', 'type="Subtract"'), "Multiply", "zero point"),
    ("openvino_model.xml", first(r'(name="logits" type="Result".*?)<dim>258</dim>', r"\1<dim>-1</dim>"), "logits",
     "dynamic"),
    ("openvino_model.xml", first(r'name="beam_idx"', 'name="beams"'), "", "beam_idx"),
    ("block_1_0.xml", lambda text: text[:len(text) // 2], "", "line"),
    ("block_1_0.xml", first(r"<edge [^>]*>", ""), "", "comes from nowhere"),
]


def check_tokenizer(work, package):
    """Of a real package, where there is one: its files are links, but those that are changed."""
    copy = os.path.join(work, "tokenizer")

    def rewrite(name, content):
        path = os.path.join(copy, name)
        with open(path, "rb") as f:
            text = f.read()
        os.unlink(path)  # the package keeps its own
        with open(path, "wb") as f:
            f.write(content(text))

    def changed(file, content):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(package, copy, copy_function=os.link)
        for name in (file, "model.json"):
            rewrite(name, content if name == file else lambda text: text)
        sign(copy)
        return judged(copy)

    expect(judged(package)["ok"], "the package itself")
    expect_error(changed("openvino_tokenizer.xml", lambda text: re.sub(rb"<edge [^>]*>", b"", text, count=1)),
                 "openvino_tokenizer.xml", "", "comes from nowhere")
    expect_error(changed("openvino_detokenizer.bin", lambda text: text[:len(text) // 2]),
                 "openvino_detokenizer.xml", "Const", "beyond the end")
    os.rename(os.path.join(copy, "openvino_detokenizer.bin"), os.path.join(copy, "openvino_detokenizer.old"))
    rewrite("model.json", lambda text: text.replace(b'"openvino_detokenizer.bin"', b'"openvino_detokenizer.old"'))
    sign(copy)
    expect_error(judged(copy), "openvino_detokenizer.bin", "", "but not this")
    shutil.rmtree(copy)


def main():
    with tempfile.TemporaryDirectory() as work:
        source, package = os.path.join(work, "small.gguf"), os.path.join(work, "package")
        bake.write_gguf(source, bake.random_weights())
        # One group per row: nothing to say; groups of 32: warnings.
        for group, warnings in (("-1", False), ("32", True)):
            done = bake.run("--gguf", source, "--output", package, "--group_size", group, "--chunks", "16", "--overwrite")
            expect(done.returncode == 0, done.stderr)
            result = judged(package)
            expect(result["ok"] and bool(result["warnings"]) == warnings and result["graphs"] >= 8, result)
        expect("q.weight" in result["warnings"][0]["node"] and "groups of 32" in result["warnings"][0]["what"], result)
        for file, change, node, what in CASES:
            expect_error(broken(package, work, file, change), file, node, what)
        done = check(os.path.join(work, "broken"))
        expect(done.returncode == 1 and done.stdout.startswith("error: "), done)

        copy = os.path.join(work, "broken")
        shutil.rmtree(copy)
        shutil.copytree(package, copy)
        expect(any("copy of weights.bin" in w["what"] for w in judged(copy)["warnings"]), "a copy is not told")
        # A file that is listed and damaged, or missing, is an error of the package.
        with open(os.path.join(copy, "decode.xml"), "r+") as f:
            f.write("<net>")
        done = check(copy)
        expect(done.returncode == 1 and "decode.xml" in done.stderr, done)
        done = check(os.path.join(work, "nowhere"))
        expect(done.returncode == 1 and "nowhere" in done.stderr, done)
        done = check(package, "--gguf", source)
        expect(done.returncode == 2, done)
        if os.path.exists(os.path.join(PACKAGE, "openvino_tokenizer.xml")):
            check_tokenizer(os.path.dirname(PACKAGE), PACKAGE)


main()
