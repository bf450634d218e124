"""The server through the official client and curl: every endpoint, streaming and whole, and errors.

What a model says differs between machines: each set of kernels rounds its logits differently, and so does
a batch of another shape. Hence no test here expects a text but where the model is sure of it (MAT), and what
a text is to show is compelled (`logit_bias`) or computed from the log-probabilities of the same answer."""
import collections
import json
import math
import shutil
import subprocess
import sys

from support import server_process, supervisor_process as process
from support.server_process import CHAT, Server, user

server_process.require()
try:
    import openai
except ImportError:
    process.skip("the Python package openai is missing (tests/requirements.txt)")

FRANCE = user("What is the capital of France?")
STORY = user("Tell me a long story about a river.")
MAT = "the cat sat on the mat, " * 6 + "the cat"  # the next tokens lead by 3.6 and more
equal = process.equal


def expect(condition, *what):
    if not condition:
        raise AssertionError(" ".join(str(w) for w in what))


def raises(kind, call, *parts):
    try:
        call()
    except kind as error:
        for part in parts:
            process.contains(str(error), part)
        return error
    raise AssertionError(f"no {kind.__name__}")


def chat_whole_and_streamed(client, model, _):
    whole = client.chat.completions.create(model=model, messages=FRANCE, temperature=0, max_tokens=24)
    choice = whole.choices[0]
    expect("Paris" in choice.message.content, choice)
    equal((whole.object, choice.message.role, whole.model), ("chat.completion", "assistant", model))
    equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens)
    expect(whole.usage.completion_tokens <= 24 and whole.usage.prompt_tokens > 5, whole.usage)
    text, roles, finish, usage = "", [], [], []
    for chunk in client.chat.completions.create(model=model, messages=FRANCE, temperature=0,
                                                max_tokens=24, stream=True,
                                                stream_options={"include_usage": True}):
        if chunk.usage:
            usage.append(chunk.usage)
        for c in chunk.choices:
            text += c.delta.content or ""
            roles += [c.delta.role] if c.delta.role else []
            finish += [c.finish_reason] if c.finish_reason else []
    expect("Paris" in text, text)
    equal((roles, len(finish), len(usage)), (["assistant"], 1, 1))
    expect(finish[0] in ("stop", "length"), finish)
    equal(usage[0].prompt_tokens, whole.usage.prompt_tokens)
    expect(usage[0].prompt_tokens_details.cached_tokens > 0, "the same prompt is not forwarded again")


def end_of_turn(server):
    ids = server.json("/tokenize", {"prompt": "<|im_end|>", "add_special_tokens": False})["tokens"]
    equal(len(ids), 1, "the token that ends a turn")
    return {str(ids[0]): 100}


def finish_reasons(client, model, server):
    cut = client.chat.completions.create(model=model, messages=FRANCE, max_completion_tokens=3)
    equal((cut.choices[0].finish_reason, cut.usage.completion_tokens), ("length", 3))
    end = client.chat.completions.create(model=model, messages=FRANCE, temperature=0, max_tokens=9,
                                         logit_bias=end_of_turn(server))
    equal((end.choices[0].finish_reason, end.choices[0].message.content, end.usage.completion_tokens),
          ("stop", "", 1), "the model's own end")
    full = client.completions.create(model=model, prompt="a b c d e f g", max_tokens=5000,
                                     extra_body={"ignore_eos": True})
    equal(full.choices[0].finish_reason, "length", "the context is full")
    equal(full.usage.total_tokens, 512)
    some = client.chat.completions.create(model=model, messages=user("Hi"), temperature=0,
                                          max_tokens=40, extra_body={"min_tokens": 40})
    equal(some.usage.completion_tokens, 40, "min_tokens")


def stop_texts(client, model, _):
    request = dict(model=model, messages=FRANCE, temperature=0, max_tokens=24,
                   extra_body={"cache_prompt": False})
    plain = client.chat.completions.create(**request).choices[0].message.content
    stop = plain[6:11]
    for streamed in (False, True):
        answer = client.chat.completions.create(stop=[stop, "never there"], stream=streamed, **request)
        if streamed:
            chunks = [c.choices[0] for c in answer]
            text = "".join(c.delta.content or "" for c in chunks)
            finish = chunks[-1].finish_reason
        else:
            text, finish = answer.choices[0].message.content, answer.choices[0].finish_reason
        equal((text, finish), (plain[:plain.index(stop)], "stop"), f"streamed: {streamed}")


def several_choices(client, model, _):
    request = dict(model=model, messages=STORY, n=3, temperature=2, seed=11, max_tokens=24)
    first = client.chat.completions.create(**request)
    equal([c.index for c in first.choices], [0, 1, 2])
    expect(len({c.message.content for c in first.choices}) > 1, "all alike", first.choices)
    texts = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(stream=True, **request):
        for c in chunk.choices:
            texts[c.index] += c.delta.content or ""
    expect(all(texts.values()), texts)
    one = client.chat.completions.create(**dict(request, n=1, extra_body={"cache_prompt": False}))
    two = client.chat.completions.create(**dict(request, n=1, extra_body={"cache_prompt": False}))
    equal(one.choices[0].message.content, two.choices[0].message.content, "the same seed")


def log_probabilities(client, model, _):
    answer = client.chat.completions.create(model=model, messages=STORY, temperature=0, max_tokens=8,
                                            logprobs=True, top_logprobs=5)
    entries = answer.choices[0].logprobs.content
    equal(len(entries), 8)
    equal("".join(e.token for e in entries), answer.choices[0].message.content)
    for entry in entries:
        equal(len(entry.top_logprobs), 5)
        equal(entry.top_logprobs[0].token, entry.token, "greedy takes the likeliest")
        expect(entry.logprob <= 0 and entry.bytes == list(entry.token.encode()), entry)
        values = [t.logprob for t in entry.top_logprobs]
        equal(values, sorted(values, reverse=True))
        expect(sum(math.exp(v) for v in values) <= 1.0001, values)
    plain = client.completions.create(model=model, prompt="One two three", max_tokens=4, temperature=0,
                                      logprobs=2)
    lp = plain.choices[0].logprobs
    equal((len(lp.tokens), len(lp.token_logprobs), len(lp.top_logprobs)), (4, 4, 4))
    equal("".join(lp.tokens), plain.choices[0].text)
    streamed = [e for c in client.chat.completions.create(
        model=model, messages=STORY, temperature=0, max_tokens=8, logprobs=True, stream=True)
        if c.choices and c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    equal(len(streamed), 8, "log-probabilities of the stream")


def bias_and_penalties(client, model, server):
    ids = server.json("/tokenize", {"prompt": " zebra", "add_special_tokens": False})["tokens"]
    answer = client.chat.completions.create(model=model, messages=FRANCE, temperature=0, max_tokens=5,
                                            logit_bias={str(ids[0]): 100})
    text = server.json("/detokenize", {"tokens": ids[:1] * 5})["prompt"]
    equal(answer.choices[0].message.content, text, "a bias of 100")
    for penalties in ({}, {"presence_penalty": 2}, {"frequency_penalty": 2},
                      {"frequency_penalty": 0.5, "presence_penalty": 1.5}):
        turned = turned_choices(client, model, **penalties)
        expect((turned > 0) == bool(penalties), penalties, "turned", turned, "choices")
    turned_choices(client, model, presence_penalty=-2, frequency_penalty=-0.1)


def turned_choices(client, model, presence_penalty=0, frequency_penalty=0):
    """Checks every greedy choice against the log-probabilities that came with it; returns how many
    are not what they would have been without the penalties."""
    answer = client.chat.completions.create(
        model=model, messages=STORY, temperature=0, max_tokens=80, logprobs=True, top_logprobs=20,
        presence_penalty=presence_penalty, frequency_penalty=frequency_penalty,
        extra_body={"ignore_eos": True})
    seen, turned = collections.Counter(), 0
    for entry in answer.choices[0].logprobs.content:
        def after(e):
            return e.logprob - presence_penalty * (e.token in seen) - frequency_penalty * seen[e.token]
        best = max(map(after, entry.top_logprobs))
        expect(after(entry) >= best - 1e-3, entry, seen)
        turned += entry.logprob < entry.top_logprobs[0].logprob - 1e-3
        seen[entry.token] += 1
    return turned


def completions(client, model, _):
    ids = [504, 260, 1118]
    answer = client.completions.create(model=model, prompt=[MAT, "Grass is"], max_tokens=4,
                                       temperature=0, n=2)
    equal([c.index for c in answer.choices], [0, 1, 2, 3])
    equal(answer.choices[0].text, answer.choices[1].text, "greedy")
    echoed = client.completions.create(model=model, prompt=MAT, max_tokens=4, temperature=0,
                                       echo=True)
    equal(echoed.choices[0].text, MAT + answer.choices[0].text)
    equal(client.completions.create(model=model, prompt=ids, max_tokens=2).usage.prompt_tokens, 3)
    text = "".join(c.choices[0].text for c in client.completions.create(
        model=model, prompt=MAT, max_tokens=4, temperature=0, stream=True) if c.choices)
    equal(text, answer.choices[0].text)


def responses(client, model, server):
    answer = client.responses.create(model=model, instructions="Be brief.", temperature=0,
                                     input="What is the capital of France?", max_output_tokens=4)
    expect(answer.output_text, answer)
    equal(answer.usage.output_tokens, 4)
    equal((answer.status, answer.incomplete_details.reason), ("incomplete", "max_output_tokens"))
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "Say yes."}]}]
    seen, text = [], ""
    end = {"min_tokens": 5, "logit_bias": end_of_turn(server)}
    with client.responses.stream(model=model, input=parts, temperature=0, extra_body=end) as stream:
        for event in stream:
            seen.append(event.type)
            text += event.delta if event.type == "response.output_text.delta" else ""
        final = stream.get_final_response()
    equal((seen[0], seen[-1]), ("response.created", "response.completed"))
    equal(final.output_text, text)
    expect(text and final.usage.output_tokens == 6, final)
    equal(final.status, "completed")


def embeddings(client, model, _):
    words = ["The cat sat on the mat.", "A cat was sitting on a mat.", "Stocks fell sharply on Monday."]
    answer = client.embeddings.create(model=model, input=words)
    a, b, c = ([x for x in d.embedding] for d in answer.data)
    expect(abs(sum(x * x for x in a) - 1) < 1e-4, "length 1")
    dot = lambda x, y: sum(p * q for p, q in zip(x, y))
    expect(dot(a, b) > dot(a, c), dot(a, b), dot(a, c))
    floats = client.embeddings.create(model=model, input=words[0], encoding_format="float")
    expect(max(abs(x - y) for x, y in zip(floats.data[0].embedding, a)) < 1e-3)
    long = client.embeddings.create(model=model, input=[[504] * 500])
    expect(long.usage.prompt_tokens == 500 and all(map(math.isfinite, long.data[0].embedding)))


def models_and_text(client, model, server):
    equal([m.id for m in client.models.list()], [model])
    equal(client.models.retrieve(model).id, model)
    for text in ("Hello, world! Zażółć gęślą jaźń \u00e9\U0001f600", "", " two  spaces\n"):
        ids = server.json("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
        equal(server.json("/detokenize", {"tokens": ids})["prompt"], text)
    count = server.json("/tokenize", {"messages": FRANCE})["count"]
    usage = client.chat.completions.create(model=model, messages=FRANCE, max_tokens=1).usage
    equal(count, usage.prompt_tokens)
    equal(server.json("/health"), {"status": "ok"})


def errors(client, model, server):
    chat = client.chat.completions.create
    error = raises(openai.BadRequestError, lambda: chat(model=model, messages=[]), "messages")
    equal((error.status_code, error.type, error.param), (400, "invalid_request_error", "messages"))
    error = raises(openai.NotFoundError, lambda: chat(model="gpt-none", messages=FRANCE), "gpt-none")
    equal(error.code, "model_not_found")
    long = raises(openai.BadRequestError, lambda: chat(model=model, messages=user("word " * 3000)))
    equal(long.code, "context_length_exceeded")
    raises(openai.BadRequestError, lambda: chat(model=model, messages=[
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]), "text only")
    for name, value in (("temperature", -1), ("temperature", "hot"), ("top_p", 2), ("n", 0), ("n", 1.5),
                        ("max_tokens", 0), ("stop", 7), ("logit_bias", {"x": 1}), ("top_logprobs", 99),
                        ("logit_bias", {"1": 1000}), ("stream", "yes"), ("seed", "a")):
        body = {"model": model, "messages": FRANCE, "logprobs": True, name: value}
        equal(server.json(CHAT, body, 400)["error"]["param"], name, f"{name}={value!r}")
    for body in ("", "{", "[]", "null", '{"messages":', "\xff"):
        expect(server.json(CHAT, body.encode("latin-1"), 400)["error"]["message"], body)
    equal(server.json("/nowhere", status=404)["error"]["code"], "unknown_url")
    equal(server.json(CHAT, status=405, method="GET")["error"]["code"], "method_not_allowed")
    equal(server.json(CHAT, b"x" * 9000000, 413)["error"]["code"], "request_too_large")
    foreign = {"Origin": "http://evil.example"}
    equal(server.json(CHAT, {"messages": FRANCE}, 403, headers=foreign)["error"]["code"], "unknown_origin")
    rebound = {"Host": "evil.example:80"}
    equal(server.json("/v1/models", status=403, headers=rebound)["error"]["code"], "unknown_host")
    _, headers, _ = server.request("/v1/models")
    expect("Access-Control-Allow-Origin" not in headers, "CORS is off")


def with_curl(_, model, server):
    if not shutil.which("curl"):
        return
    run = subprocess.run(["curl", "-sSN", server.url + CHAT, "-H", "Content-Type: application/json", "-d",
                          json.dumps({"messages": FRANCE, "stream": True, "max_tokens": 4})],
                         capture_output=True, text=True, timeout=120, check=True)
    lines = [line for line in run.stdout.splitlines() if line]
    expect(all(line.startswith("data: ") for line in lines), run.stdout)
    equal(lines[-1], "data: [DONE]")
    run = subprocess.run(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", server.url + CHAT, "-d", "{}"],
                         capture_output=True, text=True, timeout=120, check=True)
    equal(run.stdout, "400")


def figures(_, model, server):
    _, headers, data = server.request("/metrics")
    text = data.decode()
    expect(headers["Content-Type"].startswith("text/plain; version=0.0.4"), headers)
    for name in ("offering_time_to_first_token_seconds_bucket", "offering_inter_token_seconds_sum",
                 "offering_handoff_bytes_copied_total", "offering_kv_committed_bytes", "offering_info",
                 "offering_worker_restarts_total", 'endpoint="/v1/chat/completions",result="4xx"'):
        process.contains(text, name)
    for line in text.splitlines():
        expect(line.startswith("# ") or float(line.rsplit(" ", 1)[1]) >= 0, line)
    expect(server.metric("offering_generated_tokens_total") > 100)
    status = server.json("/status")
    expect(status["executive"]["workers"][0]["device"] and status["slots"], status)


def keys_and_addresses():
    with process.Session() as session:
        path = session.write("keys", "# ours\nsecret-one\n\n  secret-two \n")
        refused = session.run("serve", "--host", "0.0.0.0", "--port", "0", code=1)
        process.contains(refused.stderr, "--api_key_file")
        empty = session.run("serve", "--api_key_file", session.write("none", "#\n"), code=1)
        process.contains(empty.stderr, "has no key")
        with Server(session, "--context", "512", "--api_key_file", path) as server:
            for key in (None, "Bearer wrong", "secret-one", "Bearer secret-on", "Bearer "):
                headers = {"Authorization": key} if key else {}
                error = server.json(CHAT, {"messages": FRANCE}, 401, headers=headers)["error"]
                equal(error["code"], "invalid_api_key", key)
            for key in ("secret-one", "secret-two"):
                server.json(CHAT, {"messages": FRANCE, "max_tokens": 1},
                            headers={"Authorization": "Bearer " + key})
            equal(server.request("/health")[0], 200)
            equal(server.request("/")[0], 200)
            equal(server.request("/status")[0], 401)
            secret = openai.OpenAI(base_url=server.url + "/v1", api_key="secret-two", max_retries=0)
            expect(list(secret.models.list()))
            busy = session.run("serve", "--port", str(server.port), code=1)
            process.contains(busy.stderr, str(server.port))


def main():
    failed = 0
    with process.Session() as session, Server(session, "--context", "512", "--slots", "4") as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        model = client.models.list().data[0].id
        for test in (chat_whole_and_streamed, finish_reasons, stop_texts, several_choices,
                     log_probabilities, bias_and_penalties, completions, responses, embeddings,
                     models_and_text, errors, with_curl, figures):
            try:
                test(client, model, server)
                print("ok  ", test.__name__, flush=True)
            except Exception as error:  # one failure must not hide the others
                failed += 1
                print("FAIL", test.__name__, type(error).__name__, error, flush=True)
        expect(not any("capital" in line for line in server.log), "prompts are logged")
    try:
        keys_and_addresses()
        print("ok   keys_and_addresses")
    except AssertionError as error:
        failed += 1
        print("FAIL keys_and_addresses", error)
    sys.exit(1 if failed else 0)


main()
