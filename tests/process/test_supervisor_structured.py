"""Structured output on a real model: grammars and schemas of `run`, formats of the server through
the official client."""
import json
import re

from support import server_process, supervisor_process as process
from support.server_process import CHAT, Server, user
from support.supervisor_process import Session, contains, equal

server_process.require()
try:
    import openai
except ImportError:
    process.skip("the Python package openai is missing (tests/requirements.txt)")

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 18, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["kind", "quick", "old"]}, "minItems": 1,
                 "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
ASK = user("Describe a person. Answer in words, not JSON.")


def check_person(text):
    person = json.loads(text)
    assert list(person) == ["name", "age", "tags"], person
    assert len(person["name"]) <= 20 and 18 <= person["age"] <= 99, person
    assert 1 <= len(person["tags"]) <= 3 and set(person["tags"]) <= {"kind", "quick", "old"}, person


def run_follows_a_grammar(s, _):
    path = s.write("g", 'root ::= item{2,4} "!"\nitem ::= [a-z]{1,5} ","\n')
    for seed in ("1", "2", "3"):
        r = s.json("run", "--prompt", "Hello", "--grammar", path, "--temperature", "1.5", "--seed", seed)
        assert re.fullmatch(r"([a-z]{1,5},){2,4}!", r["text"]), r
        equal(r["finish_reason"], "stop")
    cut = s.run("run", "--prompt", "Hello", "--grammar", path, "--max_tokens", "1")
    contains(cut.stderr, "cut before it matches the whole grammar")


def run_follows_a_schema(s, _):
    path = s.write("schema", json.dumps(PERSON))
    for seed in ("1", "2"):
        r = s.json("run", "--prompt", "Who are you?", "--json_schema", path, "--temperature", "1.2", "--seed", seed)
        check_person(r["text"])
        equal(r["finish_reason"], "stop")


def run_refuses(s, _):
    bad = s.write("bad", 'root ::= "a" | nope')
    contains(s.run("run", "--prompt", "x", "--grammar", bad, code=1).stderr, "rule 'nope' is not defined")
    schema = s.write("bad_schema", '{"contains": {}}')
    contains(s.run("run", "--prompt", "x", "--json_schema", schema, code=1).stderr, "'contains' is not supported")
    contains(s.run("run", "--prompt", "x", "--grammar", bad, "--json_schema", schema, code=2).stderr, "one of")
    contains(s.run("run", "--prompt", "x", "--grammar", bad, "--ignore_eos", code=2).stderr, "ignore_eos")
    contains(s.run("run", "--prompt", "x", "--grammar", s.path("none"), code=1).stderr, "none")


def formats_of_chat(_, client):
    create = client.chat.completions.create
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    whole = create(model="", messages=ASK, response_format=schema, seed=1, n=3)
    for choice in whole.choices:
        check_person(choice.message.content)
        equal(choice.finish_reason, "stop")
    text = "".join(c.delta.content or "" for chunk in
                   create(model="", messages=ASK, response_format=schema, seed=2, stream=True)
                   for c in chunk.choices)
    check_person(text)
    free = create(model="", messages=user("Give me a small JSON object."), seed=3, max_tokens=300,
                  response_format={"type": "json_object"}, temperature=0).choices[0]
    assert free.finish_reason == "length" or isinstance(json.loads(free.message.content), dict), free
    assert free.message.content.startswith("{"), free
    plain = create(model="", messages=ASK, response_format={"type": "text"}, max_tokens=5)
    assert plain.choices[0].message.content, plain
    logged = create(model="", messages=ASK, response_format=schema, logprobs=True, seed=1)
    equal("".join(t.token for t in logged.choices[0].logprobs.content), logged.choices[0].message.content)


def formats_elsewhere(server, client):
    answer = client.chat.completions.create(model="", messages=ASK, extra_body={
        "grammar": 'root ::= "yes" | "no"'}).choices[0]
    assert answer.message.content in ("yes", "no"), answer
    done = client.completions.create(model="", prompt="1 + 1 =", max_tokens=50,
                                     extra_body={"grammar": "root ::= \" \" [0-9]{3} \".\""})
    assert re.fullmatch(r" \d{3}\.", done.choices[0].text), done
    response = client.responses.create(model="", input="Describe a person.", text={
        "format": {"type": "json_schema", "name": "person", "schema": PERSON}})
    check_person(response.output_text)


def refusals_of_chat(server, _):
    def refused(body, *words):
        error = server.json(CHAT, {"messages": ASK, **body}, status=400)["error"]
        equal(error["type"], "invalid_request_error")
        for word in words:
            contains(error["message"], word)
        return error
    equal(refused({"response_format": {"type": "xml"}}, "xml")["param"], "response_format")
    refused({"response_format": {"type": "json_schema"}}, "schema")
    refused({"response_format": {"type": "json_schema", "json_schema": {"schema": {"uniqueItems": True}}}},
            "'uniqueItems' is not supported")
    equal(refused({"grammar": "root ::= x"}, "line 1", "'x' is not defined")["param"], "grammar")
    refused({"grammar": "root ::= \"x\"", "response_format": {"type": "json_object"}}, "exclude")
    refused({"grammar": "root ::= \"x\"", "ignore_eos": True}, "exclude")
    refused({"response_format": {"type": "json_schema", "json_schema": {"schema": False}}}, "no text at all")


def main():
    with Session() as session:
        for test in (run_follows_a_grammar, run_follows_a_schema, run_refuses):
            test(session, None)
            print("ok", test.__name__)
        with Server(session) as server:
            client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
            for test in (formats_of_chat, formats_elsewhere, refusals_of_chat):
                test(server, client)
                print("ok", test.__name__)


main()
