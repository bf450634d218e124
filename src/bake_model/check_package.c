/* Which files of a package are graphs, and what is found in them. */
#include "bake_model/check_package.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "graph/decoder.h"
#include "graph/ir_check.h"
#include "graph/ladder.h"
#include "package/package.h"

typedef struct check {
    const ofr_package *package;
    ofr_check_result *result;
    const char *file;
} check;

static void add(check *c, bool is_error, const char *node, const char *what)
{
    ofr_check_result *r = c->result;
    if (is_error)
        r->n_errors++;
    else
        r->n_warnings++;
    for (size_t i = 0; i < r->n_findings; i++) {
        if (r->findings[i].is_error == is_error && strcmp(r->findings[i].what, what) == 0) {
            r->findings[i].count++;
            return;
        }
    }
    if (r->n_findings == OFR_CHECK_FINDINGS_MAX)
        return; /* counted */
    ofr_check_finding *f = &r->findings[r->n_findings++];
    *f = (ofr_check_finding){.is_error = is_error, .count = 1};
    snprintf(f->file, sizeof f->file, "%s", c->file);
    snprintf(f->node, sizeof f->node, "%s", node);
    snprintf(f->what, sizeof f->what, "%s", what);
}

static void on_finding(void *user, const ofr_ir_finding *finding)
{
    add(user, finding->is_error, finding->node, finding->what);
}

/* `binary_bytes`: of the file that its constants lie in. */
static int check_text(check *c, const char *file, enum ofr_ir_check_kind kind,
                      uint64_t binary_bytes, ofr_error *err)
{
    char *text = NULL;
    size_t size = 0;
    int r = ofr_package_read_file(c->package, file, &text, &size, err);
    if (r < 0)
        return r;
    c->file = file;
    ofr_ir_check_options options = {
        .kind = kind, .binary_bytes = binary_bytes, .report = on_finding, .user = c};
    ofr_error unreadable = {0};
    r = ofr_ir_check(text, size, &options, &unreadable);
    if (r == OFR_EFORMAT || r == OFR_ELIMIT) {
        add(c, true, "", unreadable.text);
        r = 0;
    } else if (r < 0) {
        ofr_fail(err, r, "%s: %s", file, unreadable.text);
    }
    free(text);
    return r;
}

static int check_graph(check *c, const char *file, enum ofr_ir_check_kind kind, ofr_error *err)
{
    size_t weights = 0;
    ofr_package_weights(c->package, &weights);
    c->result->n_graphs++;
    return check_text(c, file, kind, weights, err);
}

/* A graph that the ladder needs and the package lacks is an error, too. */
static int check_expected(check *c, const char *file, enum ofr_ir_check_kind kind, ofr_error *err)
{
    if (ofr_package_has_file(c->package, file))
        return check_graph(c, file, kind, err);
    c->file = file;
    add(c, true, "", "the package has no such graph; bake it again");
    return 0;
}

static int check_blocks(check *c, uint32_t kind, uint32_t tokens, ofr_error *err)
{
    ofr_ladder pasts;
    ofr_ladder_pasts(ofr_package_params(c->package)->context_length, &pasts);
    int r = 0;
    for (uint32_t i = 0; i < pasts.n && r == 0; i++) {
        char name[64];
        ofr_ladder_block_name(kind, tokens, pasts.steps[i], name, sizeof name);
        r = check_expected(c, name, OFR_IR_CHECK_FOLDED, err);
    }
    return r;
}

/* Chunk lengths are those that the first kind of layer has a graph for. */
static int check_chunks(check *c, uint32_t n_kinds, ofr_error *err)
{
    int r = 0;
    for (uint32_t tokens = 1; tokens <= OFR_LADDER_CHUNK_MAX && r == 0; tokens++) {
        char name[64];
        ofr_ladder_block_name(0, tokens, 0, name, sizeof name);
        if (tokens > 1 && !ofr_package_has_file(c->package, name))
            continue;
        for (uint32_t kind = 0; kind < n_kinds && r == 0; kind++)
            r = check_blocks(c, kind, tokens, err);
        snprintf(name, sizeof name, "prefill_%u.xml", tokens);
        if (r == 0 && tokens > 1)
            r = check_expected(c, name, OFR_IR_CHECK_WHOLE, err);
    }
    return r;
}

/* openvino_model.bin must be weights.bin under another name: constants of the graph lie there. */
static void check_link(check *c)
{
    struct stat weights, other;
    char *a = ofr_path_join(ofr_package_directory(c->package), "weights.bin");
    char *b = ofr_path_join(ofr_package_directory(c->package), "openvino_model.bin");
    c->file = "openvino_model.bin";
    if (!a || !b || stat(a, &weights) < 0 || stat(b, &other) < 0)
        add(c, false, "",
            "it is missing, so OpenVINO GenAI cannot load the package: link it to weights.bin");
    else if (weights.st_ino != other.st_ino || weights.st_dev != other.st_dev)
        add(c, false, "",
            "it is a copy of weights.bin, not a link to it: the package takes twice the disk, and "
            "the copy was not verified");
    free(a);
    free(b);
}

/* The tokenizer's graphs: a package has all of their files or, for a vocabulary that they cannot
 * express, none. */
static int check_tokenizer(check *c, ofr_error *err)
{
    static const char *const files[2][2] = {
        {"openvino_tokenizer.xml", "openvino_tokenizer.bin"},
        {"openvino_detokenizer.xml", "openvino_detokenizer.bin"}};
    bool any = false;
    for (size_t i = 0; i < 4; i++)
        any |= ofr_package_has_file(c->package, files[i / 2][i % 2]);
    int r = 0;
    for (size_t i = 0; i < 2 && any && r == 0; i++) {
        const char *missing = !ofr_package_has_file(c->package, files[i][0])   ? files[i][0]
                              : !ofr_package_has_file(c->package, files[i][1]) ? files[i][1]
                                                                               : NULL;
        if (missing) {
            c->file = missing;
            add(c, true, "", "the package has other files of the tokenizer's graphs, but not this");
            continue;
        }
        char *path = ofr_path_join(ofr_package_directory(c->package), files[i][1]);
        struct stat bin;
        if (!path)
            r = ofr_fail(err, OFR_ENOMEM, "out of memory");
        else if (stat(path, &bin) < 0)
            r = ofr_fail_errno(err, errno, "%s", path);
        else
            r = check_text(c, files[i][0], OFR_IR_CHECK_TOKENIZER, (uint64_t)bin.st_size, err);
        free(path);
    }
    return r;
}

static int check_all(check *c, ofr_error *err)
{
    ofr_graph_source source = ofr_graph_source_package(c->package);
    uint32_t *kinds = calloc(source.params->n_layers, sizeof *kinds), n_kinds = 0;
    if (!kinds)
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    int r = ofr_graph_layer_kinds(&source, kinds, &n_kinds, err);
    free(kinds);
    if (r == 0)
        r = check_chunks(c, n_kinds, err);
    if (r == 0)
        r = check_expected(c, "decode.xml", OFR_IR_CHECK_WHOLE, err);
    if (r == 0)
        r = check_expected(c, "openvino_model.xml", OFR_IR_CHECK_STATEFUL, err);
    if (r == 0)
        check_link(c);
    return r < 0 ? r : check_tokenizer(c, err);
}

int ofr_check_package(const char *directory, ofr_check_result *ret_result, ofr_error *err)
{
    ofr_package *package = NULL;
    int r = ofr_package_open(directory, OFR_PACKAGE_VERIFY_ALL, &package, err);
    if (r < 0)
        return r;
    *ret_result = (ofr_check_result){0};
    check c = {.package = package, .result = ret_result, .file = "model.json"};
    ret_result->findings = calloc(OFR_CHECK_FINDINGS_MAX, sizeof *ret_result->findings);
    char first[64];
    ofr_ladder_block_name(0, 1, 0, first, sizeof first);
    if (!ret_result->findings)
        r = ofr_fail(err, OFR_ENOMEM, "%s: out of memory", directory);
    else if (!ofr_package_has_file(package, first) &&
             !ofr_package_has_file(package, "openvino_model.xml"))
        add(&c, true, "", ofr_graph_explain_absence(package));
    else
        r = check_all(&c, err);
    ofr_package_close(package);
    if (r < 0)
        ofr_check_result_done(ret_result);
    return r;
}

static json_t *findings_json(const ofr_check_result *result, bool errors)
{
    json_t *list = json_array();
    for (size_t i = 0; i < result->n_findings; i++) {
        const ofr_check_finding *f = &result->findings[i];
        if (f->is_error == errors)
            json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I}", "file", f->file, "node",
                                                  f->node, "what", f->what, "count",
                                                  (json_int_t)f->count));
    }
    return list;
}

void ofr_check_print(const ofr_check_result *result, const char *directory, bool json, FILE *out)
{
    if (json) {
        json_t *root =
            json_pack("{s:s, s:I, s:b, s:o, s:o}", "path", directory, "graphs",
                      (json_int_t)result->n_graphs, "ok", result->n_errors == 0, "errors",
                      findings_json(result, true), "warnings", findings_json(result, false));
        if (root)
            json_dumpf(root, out, JSON_COMPACT);
        json_decref(root);
        fputc('\n', out);
        return;
    }
    for (size_t i = 0; i < result->n_findings; i++) {
        const ofr_check_finding *f = &result->findings[i];
        fprintf(out, "%s: %s: %s%s%s%s", f->is_error ? "error" : "warning", f->file,
                f->node[0] ? "'" : "", f->node, f->node[0] ? "': " : "", f->what);
        if (f->count > 1)
            fprintf(out, " (and %" PRIu64 " more such)", f->count - 1);
        fputc('\n', out);
    }
    fprintf(out, "%s: %u graphs, %" PRIu64 " errors, %" PRIu64 " warnings\n", directory,
            result->n_graphs, result->n_errors, result->n_warnings);
}

void ofr_check_result_done(ofr_check_result *result)
{
    free(result->findings);
    *result = (ofr_check_result){0};
}
