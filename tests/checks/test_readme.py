"""What the README tells a person to type exists: make targets, scripts, programs, commands, documents."""
import os
import re
import subprocess
import sys

SOURCE = os.environ["OFFERING_SOURCE_DIR"]
BIN = os.environ["OFFERING_BIN_DIR"]


def main():
    with open(os.path.join(SOURCE, "README.md"), encoding="utf-8") as f:
        readme = f.read()
    with open(os.path.join(SOURCE, "Makefile"), encoding="utf-8") as f:
        makefile = f.read()
    problems = []
    first_screen = "\n".join(readme.splitlines()[:40])
    for command in ("make run", "make test"):
        if command not in first_screen:
            problems.append(f"'{command}' is not on the first screen")
    checked = 0
    for target in set(re.findall(r"\bmake (run|test|bench|format|clean|help)\b", readme)):
        checked += 1
        if not re.search(rf"^{target}:", makefile, re.M):
            problems.append(f"make {target}: no such target")
    for path in set(re.findall(r"\b(?:documentation|scripts|bench)/[\w/.]+\w", readme)):
        checked += 1
        if not os.path.exists(os.path.join(SOURCE, path)):
            problems.append(f"{path}: does not exist")
    for program, words in re.findall(r"^build/bin/(\w+)([^\n]*)$", readme, re.M):
        command = words.split()[:1] if words.split() and not words.split()[0].startswith("-") else []
        options = re.findall(r"--\w+", words)
        arguments = command + ["--help"] if program == "supervisor" else ["--help"]
        run = subprocess.run([os.path.join(BIN, program), *arguments], capture_output=True,
                             text=True, timeout=60, check=False)
        checked += 1
        if run.returncode != 0:
            problems.append(f"{program} {' '.join(arguments)}: exit code {run.returncode}")
        for word in options + command:
            if word not in run.stdout:
                problems.append(f"{program}: its help does not know '{word}'")
    for problem in problems:
        print(problem)
    print(f"{checked} checked, {len(problems)} problems")
    sys.exit(1 if problems or checked < 10 else 0)


main()
