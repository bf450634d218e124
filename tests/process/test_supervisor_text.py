"""supervisor: help, wrong command lines, tokenize and render. No executive is started."""
import json
import os
import shutil

from support.supervisor_process import PACKAGE, Session, contains, equal, require, run_tests

require(executive=False)


def help_and_version():
    with Session() as s:
        out = s.run("--help", model=False).stdout.decode()
        for command in ("chat", "run", "bench", "tokenize", "render", "score", "plan", "serve"):
            contains(out, "  " + command)
            contains(s.run(command, "--help", model=False).stdout, "usage: supervisor")
            contains(s.run(command, "--version", model=False).stdout, "supervisor ")
        contains(s.run("--version", model=False).stdout, "supervisor ")


def wrong_command_lines():
    cases = [
        (["serve", "--port", "70000"], "--port"),
        (["frobnicate"], "unknown command 'frobnicate'"),
        (["run"], "give one of --prompt"),
        (["run", "--prompt", "a", "--prompt_file", "b"], "give one of --prompt"),
        (["run", "--prompt", "a", "--raw", "--system", "b"], "--system needs the chat template"),
        (["run", "--promt", "a"], "did you mean '--prompt'"),
        (["run", "--prompt", "a", "b"], "unexpected argument 'b'"),
        (["run", "--prompt", "a", "--max_tokens", "0"], "--max_tokens"),
        (["run", "--prompt", "a", "--max-tokens", "x"], "whole number"),
        (["run", "--prompt", "a", "--temperature", "-1"], "--temperature"),
        (["run", "--prompt", "a", "--top_p", "0"], "--top_p"),
        (["run", "--prompt", "a", "--min_p", "1"], "--min_p"),
        (["chat", "--context_overflow", "never"], "ask, drop or stop, not 'never'"),
        (["tokenize"], "give one of --text"),
        (["tokenize", "--text", "a", "--decode", "1"], "give one of --text"),
        (["render"], "--messages"),
        (["score"], "--file"),
        (["bench", "--repeat", "0"], "--repeat"),
        (["bench", "--prompt_tokens", "0", "--gen_tokens", "0"], "both 0"),
        (["--unknown"], "unknown option '--unknown'"),
    ]
    with Session() as s:
        for arguments, part in cases:
            done = s.run(*arguments, model=False, code=2)
            contains(done.stderr, part, arguments)
            equal(done.stdout, b"", arguments)


def missing_and_damaged_packages():
    with Session() as s:
        commands = (["run", "--prompt", "a"], ["chat"], ["tokenize", "--text", "a"], ["bench"],
                    ["score", "--file", s.write("t.txt", "some text")], ["plan"],
                    ["render", "--messages", s.write("m.json", "[]")])
        for arguments in commands:
            done = s.run(*arguments, model=False, code=1)
            contains(done.stderr, "offering_int4_binary", arguments)
            contains(done.stderr, "bake_model", arguments)
            done = s.run(*arguments, "--model", s.path("nowhere"), model=False, code=1)
            contains(done.stderr, "nowhere", arguments)
        copy = s.path("copy")
        shutil.copytree(PACKAGE, copy)
        with open(os.path.join(copy, "tokenizer.bin"), "r+b") as file:
            file.seek(1000)
            byte = file.read(1)
            file.seek(1000)
            file.write(bytes([byte[0] ^ 1]))
        done = s.run("run", "--prompt", "a", "--model", copy, model=False, code=1)
        contains(done.stderr, "tokenizer.bin")


def plans_are_checked_first():
    with Session() as s:
        done = s.run("run", "--prompt", "a", "--plan", "prefill=npu,decode=cpu", code=1)
        contains(done.stderr, "no device 'npu'")
        contains(done.stderr, "present: cpu")
        contains(s.run("run", "--prompt", "a", "--plan", "tpu", code=1).stderr, "'tpu'")
        done = s.run("run", "--prompt", "a", "--plan", "cpu@0-1000", code=1)
        contains(done.stderr, "the model has layers")
        equal(s.processes(), [], "processes left")


def prompts_that_are_not_utf8():
    with Session() as s:
        bad = s.write("bad.txt", b"abc\xff")
        for arguments in (["run", "--prompt_file", bad], ["tokenize", "--file", bad],
                          ["score", "--file", bad]):
            contains(s.run(*arguments, code=1).stderr, "byte offset 3", arguments)
        contains(s.run("run", "--prompt_file", "-", stdin=b"\xc3", code=1).stderr, "byte offset 0")
        contains(s.run("run", "--prompt_file", s.path("none"), code=1).stderr, "none")
        equal(s.processes(), [], "processes left")


def tokenize_there_and_back():
    text = "Hello  world, caf\u00e9 \U0001f600\n\tx = 1;\n"
    with Session() as s:
        ids = s.json("tokenize", "--text", text, "--no_special")["ids"]
        assert len(ids) > 5 and all(isinstance(i, int) for i in ids), ids
        equal(s.json("tokenize", "--file", s.write("t", text), "--no_special")["ids"], ids)
        equal(s.json("tokenize", "--file", "-", "--no_special", stdin=text)["ids"], ids)
        joined = ",".join(map(str, ids))
        equal(s.run("tokenize", "--text", text, "--no_special").stdout.decode(), joined + "\n")
        equal(s.json("tokenize", "--decode", joined)["text"], text)
        equal(s.run("tokenize", "--decode", str(ids)).stdout.decode(), text)
        equal(s.json("tokenize", "--text", "")["ids"], [])
        done = s.run("tokenize", "--decode", "1,99999999", code=1)
        contains(done.stderr, "'99999999' is no token id")


def control_tokens():
    with Session() as s:
        one = s.json("tokenize", "--text", "<|im_end|>", "--no_special")["ids"]
        equal(len(one), 1, one)
        plain = s.json("tokenize", "--text", "<|im_end|>", "--no_special", "--no_parse_special")
        assert len(plain["ids"]) > 1, plain
        equal(s.json("tokenize", "--decode", str(one[0]))["text"], "<|im_end|>")
        equal(s.json("tokenize", "--decode", str(one[0]), "--no_special")["text"], "")


def a_tokenizer_needs_no_weights():
    with Session() as s:
        copy = s.path("copy")
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("weights.bin"))
        model = ("--model", copy)
        assert s.json("tokenize", "--text", "a b", *model, model=False)["ids"]
        messages = s.write("m.json", '[{"role":"user","content":"hi"}]')
        contains(s.json("render", "--messages", messages, *model, model=False)["text"], "hi")
        contains(s.run("run", "--prompt", "a", *model, model=False, code=1).stderr, "weights.bin")


def render_with_the_packages_template():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    frame = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    with Session() as s:
        path = s.write("m.json", json.dumps(messages))
        equal(s.run("render", "--messages", path).stdout.decode(),
              frame + "<|im_start|>assistant\n")
        equal(s.json("render", "--messages", path, "--no_generation_prompt")["text"], frame)
        equal(s.json("render", "--messages", "-", stdin=json.dumps({"messages": messages}))["text"],
              frame + "<|im_start|>assistant\n")


def render_with_a_template_of_its_own():
    template = ("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
                "{{ tools | length if tools }}{{ x }}{{ strftime_now('%Y') }}{{ eos_token }}")
    with Session() as s:
        path = s.write("t.jinja", template)
        tools = s.write("tools.json", '[{"type":"function"}]')
        messages = s.write("m.json", '{"messages":[{"role":"user","content":"M"}],"x":"X"}')
        out = s.run("render", "--messages", messages, "--template", path, "--tools", tools, "--bos",
                    "B", "--eos", "E", "--now", "86400000", model=False).stdout.decode()
        equal(out, "BM1X1972E")
        broken = s.write("broken.jinja", "a\n{% endfor %}")
        done = s.run("render", "--messages", messages, "--template", broken, model=False, code=1)
        contains(done.stderr, "broken.jinja:2")
        for content, part in (("{", "bad.json:1"), ("{}", "no array of messages")):
            done = s.run("render", "--messages", s.write("bad.json", content), "--template", path,
                         model=False, code=1)
            contains(done.stderr, part)
        raises = s.write("r.jinja", "{{ raise_exception('no such role') }}")
        done = s.run("render", "--messages", messages, "--template", raises, model=False, code=1)
        contains(done.stderr, "no such role")


def a_full_disk_is_an_error():
    if not os.path.exists("/dev/full"):
        return
    with Session() as s, open("/dev/full", "wb") as full:
        import subprocess
        done = subprocess.run(s.command("tokenize", "--text", "a"), env=s.environment, stdout=full,
                              stderr=subprocess.PIPE, timeout=60)
        equal(done.returncode, 1)
        contains(done.stderr, "stdout")


run_tests([help_and_version, wrong_command_lines, missing_and_damaged_packages,
           plans_are_checked_first, prompts_that_are_not_utf8, tokenize_there_and_back,
           control_tokens, a_tokenizer_needs_no_weights, render_with_the_packages_template,
           render_with_a_template_of_its_own, a_full_disk_is_an_error])
