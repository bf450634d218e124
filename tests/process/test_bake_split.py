"""GGUF files that a model was split into are one source, locally and in a repository: the same weights as from the
whole file, and a clear message where a part is missing or is of another model."""
import json
import os
import shutil
import tempfile

from support import bake, hub_server
from support.bake import expect

ID = "org/split"


def split(directory, name, weights, **options):
    """Paths of the parts, written by the gguf package."""
    os.makedirs(directory, exist_ok=True)
    bake.write_gguf(os.path.join(directory, name + ".gguf"), weights, **options)
    return [os.path.join(directory, n) for n in sorted(os.listdir(directory)) if n.startswith(name + "-")]


def weights_of(package):
    with open(os.path.join(package, "weights.bin"), "rb") as f:
        return f.read()


def fails(work, arguments, code, *texts, hub=None):
    output = os.path.join(work, "failed")
    result = bake.run(*arguments, "--output", output, **({"environment": hub.environment()} if hub else {}))
    expect(result.returncode == code, arguments, result)
    for text in texts:
        expect(text in result.stderr, repr(text), "in", result.stderr)
    expect(not os.path.exists(output) and not os.path.exists(output + ".partial"), os.listdir(work))


def check_source(package, names):
    with open(os.path.join(package, "model.json")) as f:
        model = json.load(f)
    files = model["source"]["files"]
    expect([f["file"] for f in files] == names, files)
    expect(all(len(f["sha256"]) == 64 for f in files), files)


def local(work, parts, wanted):
    output = os.path.join(work, "local")
    result = bake.run("--gguf", parts[0], "--output", output)
    expect(result.returncode == 0, result.stderr)
    expect(weights_of(output) == wanted, "a split model differs from the whole one")
    check_source(output, [os.path.basename(p) for p in parts])

    name, count = os.path.basename(parts[0]), len(parts)
    fails(work, ["--gguf", parts[1]], 1, "part 2 of %d" % count, "name the first: ", name)
    other = os.path.join(work, "other")

    def damaged(change, *texts):
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(os.path.dirname(parts[0]), other)
        change([os.path.join(other, os.path.basename(p)) for p in parts])
        fails(work, ["--gguf", os.path.join(other, name)], 1, *texts)

    damaged(lambda p: os.remove(p[2]), "00003-of-", "is missing: it is part 3 of %d" % count)
    damaged(lambda p: shutil.copyfile(p[1], p[2]), "should be part 3 of %d" % count)
    damaged(lambda p: os.truncate(p[1], os.path.getsize(p[1]) - 64), "00002-of-")
    damaged(lambda p: os.truncate(p[1], 0), "00002-of-", "is empty")
    fewer = split(os.path.join(work, "fewer"), "small", bake.random_weights(), split_max_tensors=8,
                  drop=("blk.1.attn_v.weight",))
    expect(len(fewer) == count, fewer)
    damaged(lambda p: shutil.copyfile(fewer[-1], p[-1]), "split.tensors.count")
    again = split(os.path.join(work, "again"), "small", dict(reversed(list(bake.random_weights().items()))),
                  split_max_tensors=8)
    damaged(lambda p: shutil.copyfile(again[1], p[1]), "is in ", "too")
    renamed = os.path.join(work, "renamed.gguf")
    shutil.copyfile(parts[0], renamed)
    fails(work, ["--gguf", renamed], 1, "split into %d files" % count, "-00001-of-%05d.gguf" % count)


def hub(work, parts, wanted):
    files = {"q4/" + os.path.basename(p): p for p in parts}
    with hub_server.Hub({ID: files}) as server:
        for options in ([], ["--gguf", "q4/" + os.path.basename(parts[0])], ["--keep_source", os.path.join(work, "kept")]):
            output = os.path.join(work, "from_hub")
            result = bake.run("--model_id", ID, "--output", output, "--overwrite", *options,
                              environment=server.environment())
            expect(result.returncode == 0, result.stderr)
            expect(weights_of(output) == wanted, "from the hub", options)
        expect(sorted(os.listdir(os.path.join(work, "kept"))) == [os.path.basename(p) for p in parts], "kept")
        fails(work, ["--model_id", ID, "--gguf", "q4/" + os.path.basename(parts[1])], 1, "name the first", hub=server)
        del server.files[ID]["q4/" + os.path.basename(parts[1])]
        fails(work, ["--model_id", ID], 1, "00002-of-", "is missing", hub=server)


def main():
    with tempfile.TemporaryDirectory() as work:
        weights = bake.random_weights()
        whole, output = os.path.join(work, "whole.gguf"), os.path.join(work, "whole")
        bake.write_gguf(whole, weights)
        expect(bake.run("--gguf", whole, "--output", output).returncode == 0, "whole")
        wanted = weights_of(output)
        parts = split(os.path.join(work, "parts"), "small", weights, split_max_tensors=8)
        expect(len(parts) == 3, parts)
        local(work, parts, wanted)
        hub(work, parts, wanted)
        # The first part may hold metadata alone.
        bare = split(os.path.join(work, "bare"), "bare", weights, split_max_tensors=12, small_first_shard=True)
        bare_output = os.path.join(work, "from_bare")
        result = bake.run("--gguf", bare[0], "--output", bare_output)
        expect(result.returncode == 0, result.stderr)
        expect(weights_of(bare_output) == wanted, "from parts of which the first has no tensors")
        check_source(bare_output, [os.path.basename(p) for p in bare])
    print("ok")


if __name__ == "__main__":
    main()
