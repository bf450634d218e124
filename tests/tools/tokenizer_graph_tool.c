/* tokenizer_graph_tool TOKENIZER.bin DIR: openvino_tokenizer.xml and .bin, openvino_detokenizer.xml
 * and .bin, as a bake writes them. Exit 77 and the reason where the kind has none. */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "graph/tokenizer_graph.h"

static int keep(const char *directory, const char *name, const void *data, size_t size)
{
    char *path = ofr_path_join(directory, name);
    FILE *f = path ? fopen(path, "wbe") : NULL;
    int bad = !f || fwrite(data, 1, size, f) != size;
    bad |= f && fclose(f) != 0;
    if (bad)
        fprintf(stderr, "tokenizer_graph_tool: %s: cannot be written\n", name);
    free(path);
    return bad;
}

int main(int argc, char **argv)
{
    ofr_error err = {0};
    ofr_tokenizer_graph encoder = {0}, decoder = {0};
    void *image = NULL;
    size_t size = 0;
    if (argc != 3) {
        fprintf(stderr, "usage: tokenizer_graph_tool TOKENIZER.bin DIR\n");
        return 2;
    }
    int r = ofr_file_read(argv[1], 1 << 30, &image, &size, &err);
    if (r == 0)
        r = ofr_tokenizer_graph_encoder(image, size, NULL, &encoder, &err);
    if (r == 0)
        r = ofr_tokenizer_graph_decoder(image, size, &decoder, &err);
    free(image);
    if (r < 0) {
        printf("%s\n", err.text);
        return r == OFR_EUNSUPPORTED ? 77 : 1;
    }
    r = keep(argv[2], "openvino_tokenizer.xml", encoder.xml, encoder.xml_size) |
        keep(argv[2], "openvino_tokenizer.bin", encoder.constants.bytes, encoder.constants.size) |
        keep(argv[2], "openvino_detokenizer.xml", decoder.xml, decoder.xml_size) |
        keep(argv[2], "openvino_detokenizer.bin", decoder.constants.bytes, decoder.constants.size);
    ofr_tokenizer_graph_done(&encoder);
    ofr_tokenizer_graph_done(&decoder);
    return r;
}
