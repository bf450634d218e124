/* Fuzz target: GBNF, compiled and followed. The last bytes of the input pick the tokens. */
#include "fuzz_grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ofr_grammar *grammar = NULL;
    ofr_error err;
    size_t picks = size < 24 ? size : 24;
    if (size <= 4096 && ofr_grammar_from_gbnf((const char *)data, size, &grammar, &err) == 0)
        fuzz_follow(grammar, data + size - picks, picks);
    ofr_grammar_free(grammar);
    return 0;
}
