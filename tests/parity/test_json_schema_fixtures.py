"""Every schema of the JSON-Schema test suite's fixtures: its valid instances can be written in its
grammar, its invalid ones cannot, or the schema is refused by the name of what is not supported."""
import glob
import itertools
import json
import os
import subprocess
import sys
import tempfile

FOLDER = os.path.join(os.environ["OFFERING_SOURCE_DIR"], "..", "shared", "fixtures", "json_schema")
TOOL = os.path.join(os.environ["OFFERING_BUILD_DIR"], "tests", "tools", "grammar_tool")
# Groups that may be refused, with words of the reason. Nothing else may.
REFUSED = {
    ("defs.json", "validate definition against metaschema"): "other documents",
    ("ref.json", "remote ref, containing refs itself"): "other documents",
    ("ref.json", "ref creates new scope when adjacent to keywords"): "'unevaluatedProperties'",
}


def spell(value):
    """The texts of a value: whole numbers without a point, members in every order."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return [json.dumps(value, ensure_ascii=False)]
    if isinstance(value, (int, float)):
        return [json.dumps(int(value) if value == int(value) else value)]
    if isinstance(value, list):
        return ["[" + ",".join(items) + "]" for items in itertools.product(*map(spell, value))]
    texts = []
    for order in itertools.permutations(value):
        pairs = [[json.dumps(key, ensure_ascii=False) + ":" + text for text in spell(value[key])]
                 for key in order]
        texts += ["{" + ",".join(chosen) + "}" for chosen in itertools.product(*pairs)]
    return texts


def run(schema, texts):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(schema, file)
        file.flush()
        done = subprocess.run([TOOL, "schema", file.name, "accept"], input=json.dumps(texts),
                              capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (schema, done.returncode, done.stderr)
    return json.loads(done.stdout)


def main():
    files = sorted(glob.glob(os.path.join(FOLDER, "*.json")))
    if not files or not os.path.exists(TOOL):
        print("no fixtures, or no grammar_tool")
        sys.exit(77)
    counts = {"valid": 0, "invalid": 0, "groups": 0, "refused": 0}
    problems = []
    for path in files:
        name = os.path.basename(path)
        for group in json.load(open(path)):
            counts["groups"] += 1
            spelled = [spell(test["data"]) for test in group["tests"]]
            result = run(group["schema"], [text for texts in spelled for text in texts])
            where = (name, group["description"])
            if "refused" in result:
                counts["refused"] += 1
                error = result["error"]
                # A schema that nothing satisfies has no grammar: right if no instance is valid.
                if "allows no text at all" in error and not any(t["valid"] for t in group["tests"]):
                    continue
                if where not in REFUSED or REFUSED[where] not in error:
                    problems.append(f"{where}: refused: {error}")
                continue
            at = 0
            for test, texts in zip(group["tests"], spelled):
                accepted = result["accepted"][at:at + len(texts)]
                at += len(texts)
                counts["valid" if test["valid"] else "invalid"] += 1
                if any(accepted) != test["valid"]:
                    problems.append(f"{where}: {test['description']}: {texts[0]} is "
                                    f"{'valid' if test['valid'] else 'invalid'}; the grammar says "
                                    f"{'yes' if any(accepted) else 'no'}")
    print("\n".join(problems))
    print(counts)
    sys.exit(1 if problems else 0)


main()
