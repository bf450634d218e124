"""The dependency ladder of src/ holds: a folder includes only itself and folders below it."""
import os
import re
import sys

SOURCE = os.environ["OFFERING_SOURCE_DIR"]
# Lowest first; documentation/architecture.md explains the order. Folders on one step do not know
# each other.
LADDER = [
    ["base"],
    ["package"],
    ["tokenizer", "template"],
    ["grammar"],
    ["tool_calls"],
    ["engine"],
    ["graph", "calibration"],
    ["backend/cpu"],
    ["backend/openvino", "backend/opencl"],
    ["device"],
    ["executive_shard"],
    ["supervisor", "bake_model"],
]
STEP = {folder: step for step, folders in enumerate(LADDER) for folder in folders}


def folder_of(path):
    parts = path.split("/")
    for size in (2, 1):
        name = "/".join(parts[:size])
        if name in STEP:
            return name
    return None


def main():
    problems = []
    files = 0
    for directory, _, names in os.walk(os.path.join(SOURCE, "src")):
        for name in names:
            if not name.endswith((".c", ".h")):
                continue
            path = os.path.relpath(os.path.join(directory, name), os.path.join(SOURCE, "src"))
            own = folder_of(path)
            if own is None:
                problems.append(f"src/{path}: its folder is not on the ladder")
                continue
            files += 1
            with open(os.path.join(directory, name), encoding="utf-8") as f:
                for number, line in enumerate(f, 1):
                    match = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
                    if not match:
                        continue
                    target = match.group(1)
                    other = folder_of(target)
                    if other is None:
                        if not os.path.exists(os.path.join(directory, target)):
                            problems.append(f"src/{path}:{number}: \"{target}\" is not below src/")
                    elif other != own and STEP[other] >= STEP[own]:
                        problems.append(f"src/{path}:{number}: {own} may not include {target}")
                    if match and target.endswith(".c"):
                        problems.append(f"src/{path}:{number}: includes a .c file")
    for problem in problems:
        print(problem)
    print(f"{files} files checked, {len(problems)} problems")
    sys.exit(1 if problems or files == 0 else 0)


main()
