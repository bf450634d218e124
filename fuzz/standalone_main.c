/* Drives a fuzz target without libFuzzer: every file of a corpus folder, then seeded mutations.
 * Usage: fuzz_<name> <mutations> <corpus folder>. The same inputs in every run. */
#include <dirent.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 1 << 16, SEEDS_MAX = 256 };

struct seed {
    uint8_t *data;
    size_t size;
};

/* xorshift64* (Vigna, 2016): reproducible everywhere. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

static size_t load_seeds(const char *folder, struct seed *seeds)
{
    size_t count = 0;
    struct dirent **names = NULL;
    int n = scandir(folder, &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        FILE *file = names[i]->d_name[0] == '.' || count == SEEDS_MAX ? NULL : fopen(path, "rb");
        if (file) {
            uint8_t *data = malloc(INPUT_MAX);
            if (data)
                seeds[count++] = (struct seed){data, fread(data, 1, INPUT_MAX, file)};
            fclose(file);
        }
        free(names[i]);
    }
    free(names);
    return count;
}

static size_t mutate(uint8_t *data, size_t size, uint64_t *random)
{
    unsigned edits = 1 + (unsigned)(next_random(random) % 8);
    for (unsigned e = 0; e < edits; e++) {
        uint64_t r = next_random(random);
        size_t at = size ? (size_t)(r >> 8) % size : 0;
        switch (r % 6) {
        case 0: /* flip a bit */
            if (size)
                data[at] ^= (uint8_t)(1u << (r >> 60 & 7));
            break;
        case 1: /* any byte */
            if (size)
                data[at] = (uint8_t)(r >> 40);
            break;
        case 2: /* cut */
            size = at;
            break;
        case 3: /* insert a byte */
            if (size < INPUT_MAX) {
                memmove(data + at + 1, data + at, size - at);
                data[at] = (uint8_t)(r >> 40);
                size++;
            }
            break;
        case 4: /* remove bytes */
            if (size) {
                size_t length = 1 + (size_t)(r >> 48) % 16;
                if (length > size - at)
                    length = size - at;
                memmove(data + at, data + at + length, size - at - length);
                size -= length;
            }
            break;
        default: /* an extreme number */
            if (size - at >= 8 && size >= 8) {
                static const uint64_t extremes[] = {
                    0, 1, UINT32_MAX, UINT64_MAX, (uint64_t)1 << 31, (uint64_t)1 << 63};
                memcpy(data + at, &extremes[(r >> 40) % 6], 8);
            }
            break;
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s MUTATIONS CORPUS_FOLDER\n", argv[0]);
        return 2;
    }
    struct seed seeds[SEEDS_MAX];
    size_t n_seeds = load_seeds(argv[2], seeds);
    if (!n_seeds) {
        fprintf(stderr, "%s: no seeds\n", argv[2]);
        return 1;
    }
    for (size_t i = 0; i < n_seeds; i++)
        LLVMFuzzerTestOneInput(seeds[i].data, seeds[i].size);
    uint64_t random = UINT64_C(0x9E3779B97F4A7C15);
    uint8_t *buffer = malloc(INPUT_MAX + 1);
    if (!buffer)
        return 1;
    unsigned long mutations = strtoul(argv[1], NULL, 10);
    for (unsigned long i = 0; i < mutations; i++) {
        const struct seed *seed = &seeds[next_random(&random) % n_seeds];
        memcpy(buffer, seed->data, seed->size);
        size_t size = mutate(buffer, seed->size, &random);
        /* An exact allocation lets AddressSanitizer see a read past the end. */
        uint8_t *exact = malloc(size ? size : 1);
        if (!exact)
            break;
        memcpy(exact, buffer, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    free(buffer);
    for (size_t i = 0; i < n_seeds; i++)
        free(seeds[i].data);
    printf("%zu seeds, %lu mutations\n", n_seeds, mutations);
    return 0;
}
