/* config.json and generation_config.json, from the parameters and the tokenizer's image, and the
 * image as graphs. */
#include "bake_model/bake_genai.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/tokenizer_graph.h"
#include "tokenizer/tokenizer.h"

/* Takes over `root`. */
static int keep(ofr_package_writer *writer, const char *name, json_t *root, ofr_error *err)
{
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    int r = text ? ofr_package_writer_file(writer, name, text, strlen(text), err)
                 : ofr_fail(err, OFR_ENOMEM, "%s: out of memory", name);
    free(text);
    json_decref(root);
    return r;
}

static json_t *config(const ofr_model_params *p)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "model_type",
                     p->architecture, "vocab_size", (json_int_t)p->vocab_size, "hidden_size",
                     (json_int_t)p->d_model, "num_hidden_layers", (json_int_t)p->n_layers,
                     "num_attention_heads", (json_int_t)p->n_heads, "num_key_value_heads",
                     (json_int_t)p->n_kv_heads, "head_dim", (json_int_t)p->head_dim,
                     "intermediate_size", (json_int_t)p->d_ff, "max_position_embeddings",
                     (json_int_t)p->context_length, "tie_word_embeddings", (int)p->tied_embedding);
}

static json_t *generation(const ofr_tokenizer *tokenizer)
{
    size_t n = 0;
    const int32_t *ids = ofr_tokenizer_stop_ids(tokenizer, &n);
    ofr_tokenizer_info info;
    ofr_tokenizer_get_info(tokenizer, &info);
    json_t *root = json_object(), *stop = json_array();
    int bad = json_object_set(root, "eos_token_id", stop);
    for (size_t i = 0; i < n; i++)
        bad |= json_array_append_new(stop, json_integer(ids[i]));
    json_decref(stop);
    if (info.bos_id >= 0)
        bad |= json_object_set_new(root, "bos_token_id", json_integer(info.bos_id));
    if (info.pad_id >= 0)
        bad |= json_object_set_new(root, "pad_token_id", json_integer(info.pad_id));
    if (!bad)
        return root;
    json_decref(root);
    return NULL;
}

static int write_configs(ofr_package_writer *writer, const ofr_bake_source *source, ofr_error *err)
{
    ofr_tokenizer *tokenizer = NULL;
    int r = ofr_tokenizer_open(source->tokenizer, source->tokenizer_size, &tokenizer, err);
    if (r == 0)
        r = keep(writer, "config.json", config(&source->model.params), err);
    if (r == 0)
        r = keep(writer, "generation_config.json", generation(tokenizer), err);
    ofr_tokenizer_close(tokenizer);
    return r;
}

/* Takes over what `graph` owns. */
static int keep_graph(ofr_package_writer *writer, const char *xml, const char *bin,
                      ofr_tokenizer_graph *graph, ofr_error *err)
{
    int r = ofr_package_writer_file(writer, xml, graph->xml, graph->xml_size, err);
    if (r == 0)
        r = ofr_package_writer_file(writer, bin, graph->constants.bytes, graph->constants.size,
                                    err);
    ofr_tokenizer_graph_done(graph);
    return r;
}

/* One after the other: both hold all texts of the vocabulary. */
static int write_tokenizer(ofr_package_writer *writer, const ofr_bake_source *source,
                           ofr_bake_result *result, ofr_error *err)
{
    ofr_error reason = {0};
    ofr_tokenizer_graph graph = {0};
    char *template =
        source->chat_template ? strndup(source->chat_template, source->chat_template_size) : NULL;
    if (source->chat_template && !template)
        return ofr_fail(err, OFR_ENOMEM, "openvino_tokenizer.xml: out of memory");
    int r = ofr_tokenizer_graph_encoder(source->tokenizer, source->tokenizer_size, template, &graph,
                                        &reason);
    free(template);
    if (r == OFR_EUNSUPPORTED) {
        snprintf(result->tokenizer_left_out, sizeof result->tokenizer_left_out, "%.255s",
                 reason.text);
        return 0;
    }
    if (r < 0)
        return ofr_fail(err, r, "%s", reason.text);
    r = keep_graph(writer, "openvino_tokenizer.xml", "openvino_tokenizer.bin", &graph, err);
    if (r == 0)
        r = ofr_tokenizer_graph_decoder(source->tokenizer, source->tokenizer_size, &graph, err);
    return r < 0 ? r
                 : keep_graph(writer, "openvino_detokenizer.xml", "openvino_detokenizer.bin",
                              &graph, err);
}

int ofr_bake_genai(ofr_package_writer *writer, const ofr_bake_source *source,
                   ofr_bake_result *result, ofr_error *err)
{
    int r = write_configs(writer, source, err);
    return r < 0 ? r : write_tokenizer(writer, source, result, err);
}
