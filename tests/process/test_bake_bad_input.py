"""Bad sources, outputs and command lines: exit code, a message that names what is wrong, nothing
left behind."""
import os
import resource
import struct
import subprocess
import tempfile

from support import bake
from support.bake import expect


def check(work, args, code, *texts, **run_options):
    before = sorted(os.listdir(work))
    result = bake.run(*args, **run_options)
    expect(result.returncode == code, args, "exit", result.returncode, result.stderr)
    for text in texts:
        expect(text in result.stderr, args, "expected", repr(text), "in", result.stderr)
    expect(result.stdout == "", "stdout", result.stdout)
    expect(sorted(os.listdir(work)) == before, args, "left", os.listdir(work), "before", before)
    expect(len(result.stderr.strip().splitlines()) <= 3, "long message", result.stderr)


def bake_to(work, source):
    return ["--gguf", source, "--output", os.path.join(work, "out")]


def damaged_sources(work, good):
    data = open(good, "rb").read()
    bad = os.path.join(work, "bad.gguf")

    def attempt(content, *texts):
        with open(bad, "wb") as f:
            f.write(content)
        check(work, bake_to(work, bad), 1, *texts)

    attempt(b"", "bad.gguf", "is empty")
    attempt(b"PK\x03\x04" + data[4:], "not a GGUF")
    header_end = data.rfind(b"rope_freqs.weight") + 100
    points = set(range(4, 64)) | set(range(64, len(data), 60013)) | \
        set(range(header_end - 200, header_end + 100, 7)) | {len(data) - 1}
    for size in sorted(p for p in points if p < len(data)):
        attempt(data[:size], "bad.gguf")
    for version in (1, 4, 99):
        attempt(data[:4] + struct.pack("<I", version) + data[8:], "version %d" % version)
    attempt(data[:4] + struct.pack(">I", 3) + data[8:], "big-endian")
    for at, name in ((8, "tensor count"), (16, "metadata count")):
        for value in (2 ** 63, 2 ** 32, 10 ** 6):
            attempt(data[:at] + struct.pack("<Q", value) + data[at + 8:], "corrupt", name)
        attempt(data[:at] + struct.pack("<Q", 200) + data[at + 8:], "bad.gguf")

    # A tensor's entry: name, u32 n_dims, u64 dims, u32 type, u64 offset.
    name = b"blk.1.ffn_up.weight"
    at = data.find(struct.pack("<Q", len(name)) + name) + 8 + len(name)

    def patched(offset, fmt, value):
        size = struct.calcsize(fmt)
        return data[:at + offset] + struct.pack(fmt, value) + data[at + offset + size:]

    attempt(patched(0, "<I", 9), "dimension count")
    attempt(patched(0, "<I", 0), "dimension count")
    attempt(patched(4, "<Q", 2 ** 62), "absurd shape", "blk.1.ffn_up.weight")
    attempt(patched(12, "<Q", 0), "absurd shape")
    attempt(patched(12, "<Q", 48), "shape", "blk.1.ffn_up.weight")
    attempt(patched(20, "<I", 19), "type 19", "Q4_0")
    attempt(patched(24, "<Q", 2 ** 40), "ends outside", "blk.1.ffn_up.weight")
    attempt(patched(24, "<Q", 2 ** 64 - 32), "ends outside")
    attempt(patched(24, "<Q", 33), "not a multiple")
    attempt(patched(24, "<Q", 0), "overlap")
    attempt(data.replace(b"blk.1.ffn_up.weight", b"blk.0.ffn_up.weight"), "twice")
    # The last matrix holds an infinity.
    infinite = bytearray(data)
    infinite[-bake.HEAD_DIM * 2 - 4096:-4096] = b"\x00\x00\x80\x7f" * (bake.HEAD_DIM // 2)
    attempt(bytes(infinite), "not finite")


def bad_models(work, weights):
    bad = os.path.join(work, "bad.gguf")

    def attempt(*texts, **options):
        bake.write_gguf(bad, options.pop("weights", weights), **options)
        check(work, bake_to(work, bad), 1, *texts)

    attempt("'mamba'", "known: gemma2, gemma3, granite, llama", arch="mamba")
    attempt("'blk.1.attn_v.weight' is missing", drop=("blk.1.attn_v.weight",))
    attempt("'blk.0.attn_sinks.weight'", weights={**weights, "blk.0.attn_sinks.weight":
                                                  weights["output_norm.weight"]})
    attempt("expert_count is 8", extra=lambda w: w.add_expert_count(8))
    attempt("'longrope'", "known: none, linear, yarn",
            extra=lambda w: w.add_string("llama.rope.scaling.type", "longrope"))
    attempt("llama.attention.key_length", extra=lambda w: w.add_key_length(1 << 30))
    attempt("rope.dimension_count", extra=lambda w: w.add_rope_dimension_count(31))
    os.remove(bad)


def bad_paths(work, good):
    check(work, bake_to(work, os.path.join(work, "none.gguf")), 1, "none.gguf", "No such file")
    check(work, bake_to(work, work), 1, "is a directory")
    fifo = os.path.join(work, "fifo")
    os.mkfifo(fifo)
    check(work, bake_to(work, fifo), 1, "special file")
    os.remove(fifo)
    full = os.path.join(work, "documents")
    os.mkdir(full)
    open(os.path.join(full, "thesis.txt"), "w").close()
    check(work, ["--gguf", good, "--output", full], 1, "not a package")
    check(work, ["--gguf", good, "--output", full, "--overwrite"], 1, "not a package")
    expect(os.listdir(full) == ["thesis.txt"], "the directory was touched")
    # A person's directory that happens to have the partial's name.
    os.rename(full, os.path.join(work, "out.partial"))
    check(work, bake_to(work, good), 1, "thesis.txt", "did not write")
    expect(os.listdir(os.path.join(work, "out.partial")) == ["thesis.txt"], "touched")
    os.remove(os.path.join(work, "out.partial", "thesis.txt"))
    os.rmdir(os.path.join(work, "out.partial"))
    check(work, ["--gguf", good, "--output", os.path.join(work, "a", "b")], 1, "a/b.partial")
    check(work, ["--gguf", good, "--output", good], 1, "not a directory")


def full_disk(work, good):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

    # The file size limit stops weights.bin in its first tensor: there is nothing to resume.
    check(work, bake_to(work, good), 1, "weights.bin", "File too large", preexec_fn=limit)
    mount = os.path.join(work, "mount")
    os.mkdir(mount)
    for options, texts in (("size=64k", ("no space left", "MiB more")),):
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", mount],
                          capture_output=True, check=False).returncode != 0:
            print("no right to mount a small file system: full disk and read-only output not tested")
            os.rmdir(mount)
            return
        try:
            check(mount, bake_to(mount, good), 1, *texts)
            subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
            check(mount, bake_to(mount, good), 1, "Read-only file system")
        finally:
            subprocess.run(["umount", mount], check=True)
    os.rmdir(mount)


def command_lines(work, good):
    check(work, [], 2, "--gguf", "--help")
    check(work, ["--gguf", good, "--group_size", "96"], 2, "128, 64, 32")
    check(work, ["--model_id", "org/name", "--model_dir", "x"], 2, "one of")
    check(work, ["--gguf", good, "--revision", "x"], 2, "--model_id")
    check(work, ["--model-dir=x", "--gguf", good], 2, "one of")
    check(work, ["--gguff", good], 2, "gguff", "gguf")
    check(work, ["--gguf", good, "extra"], 2, "no arguments")
    for option in ("--help", "--version"):
        result = bake.run(option)
        expect(result.returncode == 0 and "bake_model" in result.stdout, option, result)


def main():
    weights = bake.random_weights()
    with tempfile.TemporaryDirectory() as work:
        good = os.path.join(work, "good.gguf")
        bake.write_gguf(good, weights)
        command_lines(work, good)
        bad_paths(work, good)
        full_disk(work, good)
        bad_models(work, weights)
        damaged_sources(work, good)
    print("ok")


if __name__ == "__main__":
    main()
