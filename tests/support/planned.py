"""A session whose plan is decided from figures that a test makes up."""
import json
import os
import shutil

from support.supervisor_process import PACKAGE, Session, equal

# Milliseconds by tokens: OpenVINO reads prompts 13 times as fast as the CPU, and writes a tenth as
# fast.
FAST_PREFILL = {"cpu": ((16, 160), (512, 4000)), "openvino:CPU": ((16, 10), (512, 300))}


class PlannedSession(Session):
    """Without OFFERING_PLAN, with a package of its own (hard links), and with the CPU alone."""

    def __enter__(self):
        super().__enter__()
        self.package = self.path("package")
        shutil.copytree(PACKAGE, self.package, copy_function=os.link,
                        ignore=shutil.ignore_patterns("plans"))
        del self.environment["OFFERING_PLAN"]
        self.environment["OFFERING_OPENVINO_LIBRARY"] = self.path("no_openvino.so")
        self.environment["OCL_ICD_VENDORS"] = self.path("no_opencl")
        return self

    def command(self, *arguments, model=True):
        words = super().command(*arguments, model=False)
        return words + (["--model", self.package] if model else [])

    def figures(self):
        """(path, content) of the one file of figures"""
        directory = os.path.join(self.package, "plans")
        names = os.listdir(directory)
        equal(len(names), 1, names)
        with open(os.path.join(directory, names[0])) as file:
            return os.path.join(directory, names[0]), json.load(file)

    def write_figures(self, prefill=None, machine=""):
        """Made-up times of real devices, where this machine's figures are kept, with OpenVINO from now
        on. `machine`: the device whose conditions count for OpenVINO's."""
        figures = self.json("plan")["figures"]
        del self.environment["OFFERING_OPENVINO_LIBRARY"]
        key = self.json("plan", "--plan", "cpu")["key"]

        def device(name, decode, **more):
            return {"name": name, "kind": "cpu", "description": name, "hop_us": 100,
                    "prefill": [{"tokens": t, "ms": ms} for t, ms in (prefill or FAST_PREFILL)[name]],
                    "decode": [{"tokens": 16, "ms": decode}], **more}
        figures.update(key=key, devices=[device("cpu", 10),
                                         device("openvino:CPU", 100, machine=machine)])
        path = os.path.join(self.package, "plans", key[:16] + ".json")
        with open(path, "w") as file:
            json.dump(figures, file)
