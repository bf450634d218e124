"""bake_model --model_id against a hub on loopback: the same package as from a directory, whatever the
network does; the token's way; what is refused, and how."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading

from support import bake, checkpoint, hub_server
from support.bake import expect

TOKEN = "hf_aVerySecretToken0123456789"
ID = "org/small-model"


def run(hub, work, *args, code=0, texts=(), env=None, **options):
    """A bake to work/out. The token is never in what is printed."""
    before = sorted(os.listdir(work))
    result = subprocess.run([bake.BAKE, "--model_id", ID, "--output", os.path.join(work, "out"),
                             "--network_retries", "3", "--network_timeout", "2", "--data_free", *args],
                            env=env or hub.environment(**options), capture_output=True, text=True,
                            timeout=300, check=False)
    expect("Sanitizer" not in result.stderr and "runtime error" not in result.stderr, result.stderr)
    expect(result.returncode == code, "exit", result.returncode, "wanted", code, result.stderr)
    for text in texts:
        expect(text in result.stderr, "expected", repr(text), "in", result.stderr)
    expect(TOKEN not in result.stderr + result.stdout, "the token was printed")
    if code:
        expect(sorted(os.listdir(work)) == before, "left", os.listdir(work))
    return result


def package(work):
    files = bake.files_of(os.path.join(work, "out"))
    shutil.rmtree(os.path.join(work, "out"))
    return files


def same_weights(files, wanted, *what):
    expect(files["weights.bin"] == wanted["weights.bin"], "weights differ", *what)
    expect(files["tokenizer.bin"] == wanted["tokenizer.bin"], "tokenizer differs", *what)


def once(condition, fault):
    """The fault for the first request that meets the condition."""
    lock, done = threading.Lock(), []

    def decide(host, path, begin):
        with lock:
            if condition(host, path, begin) and not done:
                done.append(1)
                return fault
        return None
    return decide


def every_third(fault):
    lock, count = threading.Lock(), [0]

    def decide(host, path, begin):
        with lock:
            count[0] += 1
            return fault if count[0] % 3 == 0 else None
    return decide


def faults(hub, work, wanted):
    """Everything that a second try mends."""
    cdn = lambda host, path, begin: host == "cdn"
    listing = lambda host, path, begin: path.startswith("/api/")
    config = lambda host, path, begin: path.endswith("config.json")
    for name, fault in [
            ("429 of the listing", once(listing, {"status": 429, "headers": {"Retry-After": "1"}})),
            ("503 of the listing", once(listing, {"status": 503})),
            ("the listing is cut", once(listing, {"cut": 20})),
            ("500 of a small file", once(config, {"status": 500})),
            ("a small file is cut", once(config, {"cut": 10})),
            ("a small file comes whole", once(config, {"whole": True})),
            ("502 of the other host", once(cdn, {"status": 502})),
            ("429 of the other host", once(cdn, {"status": 429, "headers": {"Retry-After": "1"}})),
            ("an address expires", once(cdn, {"status": 403})),
            ("connections are cut", every_third({"cut": 5000})),
            ("answers are slow", once(cdn, {"slow": 1.5})),
            ("bytes come slowly", once(cdn, {"drip": 0.2})),
            ("an answer stops in the middle", once(cdn, {"stall": 3000})),
            ("an answer is too short", every_third({"short": 1}))]:
        hub.fault = fault
        run(hub, work)
        same_weights(package(work), wanted, name)
    hub.fault = None


def refusals(hub, work):
    def attempt(fault, *texts, **options):
        hub.fault = fault
        run(hub, work, code=1, texts=texts, **options)
        hub.fault = None

    attempt(lambda h, p, b: {"total": 1 << 40} if h == "cdn" else None, "were asked for")
    attempt(lambda h, p, b: {"false_size": 1000} if "/api/" in p else None, "small-model/model-0000")
    attempt(lambda h, p, b: {"false_size": -1000} if "/api/" in p else None, "small-model/model-0000")
    attempt(lambda h, p, b: {"whole": True} if h == "cdn" and b > 0 else None, "parts of files")
    attempt(once(lambda h, p, b: h == "hub" and p.endswith("config.json"), {"damage": True}),
            "not what the hub promises")
    attempt(lambda h, p, b: {"status": 500}, "status 500")
    attempt(lambda h, p, b: {"cut": 0}, "run the same command again")
    attempt(lambda h, p, b: {"status": 302, "headers": {"Location": p}} if "resolve" in p else None,
            "in a circle")
    attempt(lambda h, p, b: {"status": 302, "headers": {"Location": "file:///etc/passwd"}}
            if "resolve" in p else None, "no address")
    attempt(lambda h, p, b: {"status": 200} if "api" in p else None, "no description of a model")
    # Wrong bytes of a large file: found by its sha256 at its end, nothing is kept.
    attempt(lambda h, p, b: damage_in_stream(hub, h, b), "sha256", "promises")

    run(hub, work, "--revision", "none", code=1, texts=("no revision 'none'",))
    run(hub, work, "--revision", "refs/pr/1")
    package(work)
    env = hub.environment()
    for model, texts in (("org/none", ("no such model",)), ("../etc", ("ORG/NAME",)), ("a/b/c", ("ORG/NAME",)),
                         ("org/gated", ("gated", "ask for access", "org/gated")),
                         ("org/escape", ("not the name of a file",)), ("org/empty", ("config.json",)),
                         ("org/short", ("names model-00003-of-00003.safetensors", "missing"))):
        result = subprocess.run([bake.BAKE, "--model_id", model, "--output", os.path.join(work, "out")],
                                env=env, capture_output=True, text=True, timeout=60, check=False)
        expect(result.returncode == 1, model, result)
        for text in texts:
            expect(text in result.stderr, model, repr(text), result.stderr)
    expect(os.listdir(work) == [], os.listdir(work))
    unreachable = dict(env, HF_ENDPOINT="http://127.0.0.1:9")
    run(hub, work, code=1, texts=("127.0.0.1:9",), env=unreachable)
    run(hub, work, code=1, texts=("HF_ENDPOINT",), env=dict(env, HF_ENDPOINT="ftp://x"))
    run(hub, work, code=1, texts=("in the clear",), HF_TOKEN=TOKEN,
        env=dict(env, HF_ENDPOINT="http://example.invalid", HF_TOKEN=TOKEN))


def damage_in_stream(hub, host, begin):
    """The header is read with two requests at bytes 0 and 8; the stream then begins at 0 again."""
    if host != "cdn" or begin != 0:
        return None
    earlier = [entry for entry in hub.log if entry[0] == "cdn" and (entry[3] or "").startswith("bytes=0-7")]
    sizes = [entry[3] for entry in hub.log[-1:]]
    return {"damage": True} if earlier and sizes != ["bytes=0-7"] else None


def tokens(files, work):
    with hub_server.Hub(files, token=TOKEN, gated=()) as hub:
        run(hub, work, code=1, texts=("does not exist, or is private", "HF_TOKEN"))
        run(hub, work, code=1, texts=("does not accept the token",), HF_TOKEN="hf_wrong")
        run(hub, work, code=1, texts=("no token of the hub",), HF_TOKEN="hf_two words")
        hub.log.clear()
        run(hub, work, HF_TOKEN=TOKEN)
        wanted = package(work)
        expect(any(entry[0] == "cdn" for entry in hub.log), "no redirect was followed")
        expect(all(TOKEN.encode() not in data for data in wanted.values()), "the package holds the token")
        for host, path, authorization, _ in hub.log:
            expect(authorization == ("Bearer " + TOKEN if host == "hub" else None), host, path)
        home = os.path.join(work, "home")
        os.makedirs(os.path.join(home, "huggingface"))
        for place, options in (("token", {"HF_HOME": home}),
                               ("huggingface/token", {"HF_HOME": "", "XDG_CACHE_HOME": home}),
                               ("elsewhere", {"HF_TOKEN_PATH": os.path.join(home, "elsewhere")})):
            with open(os.path.join(home, place), "w") as f:
                f.write(TOKEN + "\n")
            run(hub, work, **options)
            expect(package(work) == wanted, "with the token in", place)
            os.remove(os.path.join(home, place))
        shutil.rmtree(home)


def interruptions(files, work, wanted):
    """Killed at several moments, then the same command again; the finished tensors are kept."""
    with hub_server.Hub(files) as hub:
        resumed = []
        for lines, number in ((2, signal.SIGKILL), (12, signal.SIGINT), (25, signal.SIGKILL)):
            def slowly(host, path, begin):
                return {"slow": 0.05} if host == "cdn" else None
            hub.fault = slowly
            output = os.path.join(work, "out")
            process = subprocess.Popen([bake.BAKE, "--model_id", ID, "--output", output, "--data_free"], env=hub.environment(),
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            state = os.path.join(output + ".partial", "bake_state")
            while process.poll() is None:
                try:
                    with open(state) as f:
                        if f.read().count("\n") > lines:
                            break
                except FileNotFoundError:
                    pass
            process.send_signal(number)
            process.wait(timeout=60)
            hub.fault = None
            if os.path.exists(output):
                package(work)
                continue
            hub.log.clear()
            report = json.loads(run(hub, work, "--json").stdout)
            expect(report["tensors_resumed"] >= lines, report)
            resumed.append(report["tensors_resumed"])
            same_weights(package(work), wanted, "after a signal at tensor", lines)
        expect(resumed, "no signal found the bake at work")


def outage(files, work, wanted):
    """The network is gone in the middle: an error that says how to go on, and it does go on."""
    with hub_server.Hub(files) as hub:
        gone, lock, large = threading.Event(), threading.Lock(), [0]

        def decide(host, path, begin):
            with lock:
                large[0] += host == "cdn"  # the headers of three shards take two requests each
                if large[0] > 8:
                    gone.set()
            return {"cut": 0} if gone.is_set() else None
        hub.fault = decide
        output = os.path.join(work, "out")
        command = [bake.BAKE, "--model_id", ID, "--output", output, "--data_free", "--json", "--network_retries", "2",
                   "--connections", "1"]
        done = subprocess.run(command, env=hub.environment(), capture_output=True, text=True, timeout=120, check=False)
        expect(done.returncode == 1 and "run the same command again" in done.stderr, done)
        expect(os.listdir(work) == ["out.partial"], os.listdir(work))
        hub.fault = None
        done = subprocess.run(command, env=hub.environment(), capture_output=True, text=True, timeout=120, check=False)
        expect(done.returncode == 0 and json.loads(done.stdout)["tensors_resumed"] > 0, done)
        same_weights(package(work), wanted, "after an outage")


def main():
    with tempfile.TemporaryDirectory() as top:
        work, source = os.path.join(top, "work"), os.path.join(top, "small-model")
        os.mkdir(work)
        config = checkpoint.config_of("mistral", hidden_size=128, intermediate_size=2048, num_hidden_layers=4)
        checkpoint.write(source, config, checkpoint.random_weights(config), shards=3)
        local = os.path.join(top, "local")
        expect(bake.run("--model_dir", source, "--output", local, "--data_free").returncode == 0, "local bake")
        wanted = bake.files_of(local)
        files = hub_server.read_directory(source)
        files["README.md"] = b"---\nlicense: apache-2.0\n---\n# Small\n"
        escape = json.loads(files["model.safetensors.index.json"])
        escape["weight_map"]["model.norm.weight"] = "../../etc/passwd"
        short = {name: data for name, data in files.items() if not name.startswith("model-00003")}
        repositories = {ID: files, "org/gated": files, "org/empty": {"x.txt": b""}, "org/short": short,
                        "org/escape": {**files, "model.safetensors.index.json": json.dumps(escape).encode()}}
        with hub_server.Hub(repositories, gated=("org/gated",)) as hub:
            run(hub, work)
            first = package(work)
            same_weights(first, wanted, "from the hub")
            model = json.loads(first["model.json"])
            expect(model["source"]["repository"] == ID and model["source"]["revision"] == hub.commit and
                   model["source"]["license"] == "apache-2.0", model["source"])
            run(hub, work, "--connections", "1")
            expect(package(work) == first, "with one connection")
            faults(hub, work, wanted)
            refusals(hub, work)

            kept = os.path.join(top, "kept")
            run(hub, work, "--keep_source", kept)
            same_weights(package(work), wanted, "with --keep_source")
            for name in ("config.json", "model-00001-of-00003.safetensors", "tokenizer.json"):
                expect(open(os.path.join(kept, name), "rb").read() == files[name], "kept", name)
            # A small file of another revision, just as long.
            with open(os.path.join(kept, "config.json"), "r+b") as f:
                f.write(b"[")
            shard = os.path.join(kept, "model-00002-of-00003.safetensors")
            os.rename(shard, shard + ".part")
            os.truncate(shard + ".part", 70000)
            hub.log.clear()
            run(hub, work, "--keep_source", kept)
            same_weights(package(work), wanted, "with a part kept")
            asked = [entry for entry in hub.log if entry[0] == "cdn"]
            expect(asked and all("00002" in e[1] and int(e[3][6:].split("-")[0]) >= 70000 for e in asked), asked)
        for options in ({"sizes": False}, {"sha256": False}):
            with hub_server.Hub(repositories, **options) as hub:
                run(hub, work)
                same_weights(package(work), wanted, options)
        tokens(repositories, work)
        interruptions(repositories, work, wanted)
        outage(repositories, work, wanted)

        # A GGUF in a repository: by name, or the only one.
        gguf_path = os.path.join(top, "small.gguf")
        bake.write_gguf(gguf_path, bake.random_weights())
        expect(bake.run("--gguf", gguf_path, "--output", os.path.join(work, "out"), "--data_free").returncode == 0, "gguf")
        from_file, data = package(work), open(gguf_path, "rb").read()
        with hub_server.Hub({ID: {"q/small.gguf": data}}) as hub:
            run(hub, work)
            same_weights(package(work), from_file, "the only GGUF")
            hub.files[ID]["other.gguf"] = data
            run(hub, work, code=1, texts=("--gguf", "other.gguf, q/small.gguf"))
            run(hub, work, "--gguf", "q/small.gguf", "--keep_source", os.path.join(top, "kept_gguf"))
            same_weights(package(work), from_file, "GGUF by name")
            run(hub, work, "--gguf", "none.gguf", code=1, texts=("has no file 'none.gguf'",))
    print("ok")


if __name__ == "__main__":
    main()
