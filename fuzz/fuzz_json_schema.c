/* Fuzz target: a JSON schema, compiled and followed. The last bytes of the input pick the tokens.
 */
#include "fuzz_grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ofr_grammar *grammar = NULL;
    ofr_error err;
    size_t picks = size < 24 ? size : 24;
    json_t *schema =
        size <= 4096 ? json_loadb((const char *)data, size, JSON_DECODE_ANY, NULL) : NULL;
    if (schema && ofr_grammar_from_json_schema(schema, &grammar, &err) == 0)
        fuzz_follow(grammar, data + size - picks, picks);
    ofr_grammar_free(grammar);
    json_decref(schema);
    return 0;
}
