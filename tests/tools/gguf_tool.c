/* Dequantizes one tensor of a GGUF file to a file of floats: gguf_tool FILE TENSOR OUT. */
#include <stdio.h>
#include <stdlib.h>

#include "bake_model/gguf_dequantize.h"
#include "base/file.h"

int main(int argc, char **argv)
{
    ofr_error err = {0};
    ofr_gguf *gguf = NULL;
    if (argc != 4 || ofr_gguf_open(argv[1], &gguf, &err) < 0) {
        fprintf(stderr, "gguf_tool: %s\n", err.text);
        return 1;
    }
    const ofr_gguf_tensor *tensor = ofr_gguf_find_tensor(gguf, argv[2]);
    size_t n = tensor ? (size_t)(tensor->rows * tensor->dims[0]) : 0;
    float *values = calloc(n + 1, sizeof *values);
    void *raw = malloc(tensor ? (size_t)tensor->bytes : 1);
    int failed = !tensor || !values || !raw;
    if (!failed)
        failed = ofr_gguf_read(gguf, tensor, 0, raw, (size_t)tensor->bytes, &err) < 0;
    if (!failed) {
        ofr_gguf_dequantize(tensor->type, raw, n, values);
        failed = ofr_file_replace(argv[3], values, n * sizeof *values, 0644, &err) < 0;
    }
    if (failed)
        fprintf(stderr, "gguf_tool: %s\n", err.text);
    free(raw);
    free(values);
    ofr_gguf_close(gguf);
    return failed;
}
