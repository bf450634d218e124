"""Every OpenCL program through Intel's offline compiler (`ocloc`, of the package intel-opencl-icd; in PATH
or named by OCLOC), for GPUs that are not here: it must build, leave no call unresolved, and make dp4a of
byte products, DPAS of the matrix extension's and fp16 multiply-adds of attention's. Skipped where the
compiler is not installed."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

KERNELS = os.path.join(os.environ["OFFERING_SOURCE_DIR"], "src", "backend", "opencl", "kernels")
# As opencl_program.c has them for a device with cl_intel_required_subgroup_size.
COMMON = "-cl-std=CL3.0 -cl-mad-enable -DWARP=16 -DOFR_INTEL -DDEVICE_FENCE"
TYPES = {"i4": "-DBITS=4 -DSUFFIX=_i4", "i8": "-DBITS=8 -DSUFFIX=_i8",
         "i4m": "-DBITS=4 -DMINIMA -DSUFFIX=_i4m"}
GEMV = "-DTOKENS={} -DLANES=32 -DTEAM_ROWS=4 -DGEMV_ITEMS=256"
TILES = "-DGEMM -DTILE_TOKENS=64 -DTILE_ROWS=64 -DITEM_TOKENS={} -DITEM_ROWS={} -DGEMM_UNITS={}"
ATTENTION = "-DHEAD_DIM=128 -DHEADS=4 -DROWS={} -DKEY_BLOCK=64 -DATTENTION_ITEMS=128"
# The compiler's header has the extension where this is defined; drivers define it.
MATRIX = "-DMATRIX_LANES=8 -Dcl_intel_subgroup_matrix_multiply_accumulate=1"


def programs():
    """Name, sources, options, what the instructions of which kernels (a prefix) must have, devices."""
    both = ("tgllp", "acm-g11")  # Xe-LP, Xe-HPG
    yield "rows", "common rows quantize", "-DROW_ITEMS=64 -DTOP_CHUNK=2048", None, both
    for rows in (4, 16):
        yield f"attention of {rows}", "common attention", ATTENTION.format(rows), None, both
    yield ("attention in fp16", "common halves attention", ATTENTION.format(16) + " -DHALVES",
           ("attention_", r"\bmad \(\d+\|M\d+\)\s+r\d+\.\d+<1>:hf"), both)
    for number, name in enumerate(("f32", "f16", "i8", "i4", "i4m")):
        yield (f"plain {name}", "common plain", f"-DPLAIN_LANES=32 -DTYPE={number} -DSUFFIX=_{name}",
               None, both)
    for name, options in TYPES.items():
        for tokens in (1, 4):
            yield (f"gemv {name} of {tokens}", "common dot", f"{options} {GEMV.format(tokens)}",
                   ("", "dp4a"), both)
        yield f"gemm {name}", "common dot", f"{options} {TILES.format(4, 4, 1)}", ("", "dp4a"), both
        yield (f"matrix {name}", "common dot matrix", f"{options} {TILES.format(32, 16, 0)} {MATRIX}",
               ("", r"dpas\.8x8"), ("acm-g11",))


def run(compiler, *arguments):
    done = subprocess.run([compiler, *arguments], capture_output=True, text=True, timeout=300,
                          check=False)
    return done.returncode, done.stdout + done.stderr


def check(compiler, directory, source, options, wanted, device):
    """What is wrong, or None."""
    binary = os.path.join(directory, "program.bin")
    code, said = run(compiler, "compile", "-file", source, "-device", device, "-options",
                     f"{COMMON} {options}", "-output", binary, "-output_no_suffix")
    if code != 0 or not os.path.exists(binary):
        return said[:2000]
    dump = os.path.join(directory, "dump")
    run(compiler, "disasm", "-file", binary, "-device", device, "-dump", dump)
    texts = [os.path.join(dump, name) for name in os.listdir(dump) if name.endswith(".asm")]
    for text in texts:  # without its assembler library the compiler writes none
        with open(text, encoding="utf-8", errors="replace") as file:
            instructions = file.read()
        if "calla" in instructions:  # functions are inlined: what is called has no body
            return f"an unresolved call in {os.path.basename(text)}"
        name = os.path.basename(text)
        if wanted and "Symbol_Table" not in name and name.startswith(wanted[0]):
            if not re.search(wanted[1], instructions):
                return f"no {wanted[1]} in {name}"
    return None


def main():
    compiler = os.environ.get("OCLOC") or shutil.which("ocloc")
    if not compiler:
        print("skipped: no ocloc")
        return 77
    failed = 0
    for name, sources, options, wanted, devices in programs():
        for device in devices:
            with tempfile.TemporaryDirectory() as directory:
                source = os.path.join(directory, "program.cl")
                with open(source, "w", encoding="utf-8") as out:
                    for kernel in sources.split():
                        with open(os.path.join(KERNELS, kernel + ".cl"), encoding="utf-8") as file:
                            out.write(file.read() + "\n")
                wrong = check(compiler, directory, source, options, wanted, device)
            print(f"{name}, {device}: {wrong or 'ok'}")
            failed += wrong is not None
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
