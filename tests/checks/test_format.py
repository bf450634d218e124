"""House style that a machine can check: clang-format, line length, file size, UTF-8, final newline."""
import os
import shutil
import subprocess
import sys

SOURCE = os.environ["OFFERING_SOURCE_DIR"]
LINES_MAX = 1200


def tracked(*patterns):
    out = subprocess.run(
        ["git", "-c", f"safe.directory={SOURCE}", "-C", SOURCE, "ls-files", "-z",
         "--cached", "--others", "--exclude-standard", "--", *patterns],
        capture_output=True, check=True).stdout
    names = [n for n in out.decode().split("\0") if n]
    return [n for n in names if os.path.isfile(os.path.join(SOURCE, n))]


def main():
    problems = []
    c_files = tracked("*.c", "*.h", "*.cl")
    for name in c_files + tracked("*.py", "*.sh", "*.cmake", "*CMakeLists.txt", "*.md"):
        with open(os.path.join(SOURCE, name), "rb") as f:
            data = f.read()
        try:
            text = data.decode()
        except UnicodeDecodeError as e:
            problems.append(f"{name}: not UTF-8: {e}")
            continue
        lines = text.split("\n")
        if name.endswith((".c", ".h", ".cl")):
            if len(lines) > LINES_MAX:
                problems.append(f"{name}: {len(lines)} lines; split it by role")
            problems += [f"{name}:{i}: {len(line)} columns" for i, line in enumerate(lines, 1)
                         if len(line) > 100]
            problems += [f"{name}:{i}: tab" for i, line in enumerate(lines, 1) if "\t" in line]
        if data and not data.endswith(b"\n"):
            problems.append(f"{name}: no newline at the end")
        if not name.endswith(".md"):
            problems += [f"{name}:{i}: trailing space" for i, line in enumerate(lines, 1)
                         if line != line.rstrip()]
    # The pinned one of tests/requirements.txt: versions differ in what they write.
    beside = os.path.join(os.path.dirname(sys.executable), "clang-format")
    tool = beside if os.path.exists(beside) else shutil.which("clang-format")
    sources = [os.path.join(SOURCE, n) for n in c_files if n.endswith((".c", ".h"))]
    if tool:
        run = subprocess.run([tool, "--dry-run", "-Werror", "--ferror-limit=3", *sources],
                             capture_output=True, text=True, check=False)
        if run.returncode:
            problems += run.stderr.splitlines()[:60]
    for problem in problems:
        print(problem)
    print(f"{len(c_files)} C files checked, {len(problems)} problems")
    if problems:
        sys.exit(1)
    if not tool:
        print("clang-format is not installed: formatting was not checked")
        sys.exit(77)


main()
