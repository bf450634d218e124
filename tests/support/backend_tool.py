"""Runs tests/tools/backend_tool: backends in one process, as a plan arranges them."""
import json
import os
import subprocess

from support.bake import expect

TOOL = os.path.join(os.environ["OFFERING_BUILD_DIR"], "tests", "tools", "backend_tool")


def run_backend(package, plan, ids, kernels="folded", chunk=64, generate=4, mode="poison", cache=None, library=None,
                **more):
    environment = dict(os.environ, XDG_CACHE_HOME=cache or "/dev/null/none", ASAN_OPTIONS="detect_leaks=0",
                       **more)
    if library:
        environment["OFFERING_OPENVINO_LIBRARY"] = library
    result = subprocess.run([TOOL, package, plan, kernels, str(chunk), str(generate), mode],
                            input=" ".join(map(str, ids)), text=True, capture_output=True,
                            env=environment, check=False)
    expect(result.returncode == 0, plan, result.stderr[-2000:])
    return json.loads(result.stdout)
