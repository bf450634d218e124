"""test_executive_devices.py under the newest Level Zero loader that could be fetched
(tests/support/newest_ze_loader.sh); skipped, and counted as such, where none could."""
import os
import runpy

from support import machines
from support import supervisor_process as process

if not machines.newest_loaders():
    process.skip("no newer Level Zero loader could be fetched")
os.environ["OFFERING_TEST_ZE_LOADER"] = "newest"
runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)),
                            "test_executive_devices.py"), run_name="__main__")
