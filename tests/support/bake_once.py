"""Bakes the reference GGUF into the package that parity and process tests share."""
import os
import shutil
import subprocess
import sys

package = os.environ["OFFERING_TEST_PACKAGE"]
gguf = os.environ.get("OFFERING_TEST_GGUF", "")
if not gguf or not os.path.exists(gguf):
    print("no reference GGUF: run scripts/setup_env.sh")
    sys.exit(77)
# Always baked anew: the bake is what is under test.
shutil.rmtree(package, ignore_errors=True)
shutil.rmtree(package + ".partial", ignore_errors=True)
os.makedirs(os.path.dirname(package), exist_ok=True)
sys.exit(subprocess.run([os.path.join(os.environ["OFFERING_BIN_DIR"], "bake_model"), "--gguf", gguf,
                         "--output", package, "--data_free"], check=False).returncode)
