"""Every tensor type, bit for bit against the Python package `gguf`: random blocks (all bit patterns
of quants, scales and minima) and, for the types it can write, quantized weights."""
import os
import subprocess
import tempfile

from support import bake
import gguf
import numpy as np

TOOL = os.path.join(os.environ.get("OFFERING_BUILD_DIR", "build"), "tests", "tools", "gguf_tool")
Q = gguf.GGMLQuantizationType
TYPES = [Q.F32, Q.F16, Q.BF16, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K,
         Q.Q6_K]
# Offsets of the f16 factors in a block: random bytes there would be NaN or infinity.
HALVES = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q2_K: [80, 82],
          Q.Q3_K: [108], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208]}
ROWS, BLOCKS = 16, 24


def random_rows(kind, rng):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    if kind == Q.F32:
        return rng.standard_normal((ROWS, 256)).astype(np.float32)
    if kind in (Q.F16, Q.BF16):
        bits = np.arange(65536, dtype=np.uint16).reshape(64, -1)
        exponent = 0x7c00 if kind == Q.F16 else 0x7f80
        bits = np.where((bits & exponent) == exponent, 0, bits).astype(np.uint16)
        return bits.view(np.float16) if kind == Q.F16 else bits.view(np.uint8)
    raw = rng.integers(0, 256, (ROWS * BLOCKS, size), dtype=np.uint8)
    for at in HALVES[kind]:
        factor = (rng.standard_normal(ROWS * BLOCKS) * 10.0 ** rng.integers(-7, 3, ROWS * BLOCKS))
        raw[:, at:at + 2] = factor.astype(np.float16).view(np.uint8).reshape(-1, 2)
    return raw.reshape(ROWS, BLOCKS * size)


def main():
    if not os.path.exists(TOOL):
        bake.skip("no gguf_tool in the build")
    rng = np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as work:
        path, out = os.path.join(work, "types.gguf"), os.path.join(work, "out")
        writer = gguf.GGUFWriter(path, "llama")
        expected = {}
        for kind in TYPES:
            rows = random_rows(kind, rng)
            writer.add_tensor(kind.name, rows, raw_dtype=None if rows.dtype != np.uint8 else kind)
            expected[kind.name] = gguf.dequantize(rows, kind) if kind not in (Q.F32, Q.F16) else \
                rows.astype(np.float32)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        for name, want in expected.items():
            subprocess.run([TOOL, path, name, out], check=True)
            got = np.fromfile(out, np.uint32)
            want = np.ascontiguousarray(want, dtype=np.float32).reshape(-1).view(np.uint32)
            bake.expect(got.size == want.size, name, got.size, want.size)
            different = np.flatnonzero(got != want)
            bake.expect(different.size == 0, name, "differs at", different[:5],
                        got[different[:5]].view(np.float32), want[different[:5]].view(np.float32))
            print("%s: %d values equal, bit for bit" % (name, got.size))


if __name__ == "__main__":
    main()
