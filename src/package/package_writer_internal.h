/* What the two files of the package writer share: package_writer.c writes, package_writer_state.c
 * keeps the state file of the partial directory and takes up what an earlier run has done. */
#ifndef OFR_PACKAGE_PACKAGE_WRITER_INTERNAL_H
#define OFR_PACKAGE_PACKAGE_WRITER_INTERNAL_H

#include "base/sha256.h"
#include "package/package_json.h"
#include "package/package_writer.h"

enum { HEX = OFR_SHA256_HEX_SIZE };

#define OFR_PACKAGE_STATE_NAME "bake_state"

typedef struct written_tensor {
    ofr_tensor spec; /* name owned */
    char sha256_data[HEX], sha256_scales[HEX];
    char note[OFR_PACKAGE_NOTE_MAX];
} written_tensor;

struct ofr_package_writer {
    char *output, *partial, *parent;
    bool overwrite;
    bool locked; /* the partial directory is ours */
    int weights_fd, state_fd;
    char *weights_path, *state_path;
    written_tensor *tensors; /* [n_resumed] from the state file, then appended */
    size_t n_tensors;        /* accepted in this run */
    size_t n_resumed;        /* known from the state file: tensors[n_tensors .. n_resumed) wait */
    size_t capacity;
    ofr_tensor *plan; /* [n_plan], placed; names owned; what is not in it is appended */
    size_t n_plan;
    uint64_t plan_end; /* 0: no plan */
    size_t plan_next;  /* where the next tensor is likely to be found */
    uint64_t end;      /* of weights.bin so far, with all that is planned */
    bool active;
    uint64_t data_done, scales_done;
    ofr_sha256 data_sha, scales_sha;
    ofr_package_file files[OFR_PACKAGE_MAX_FILES];
    size_t n_files;
};

/* Where the tensor goes: where the plan has it, or behind what is there. Fills in its places. */
int ofr_package_writer_place(ofr_package_writer *writer, ofr_tensor *spec, uint64_t *ret_end,
                             ofr_error *err);
/* Places the tensors of the plan behind each other. */
int ofr_package_writer_take_plan(ofr_package_writer *writer, const ofr_tensor *tensors, size_t n,
                                 ofr_error *err);
/* Sets tensors[at], with room for it; its name is then the writer's. */
int ofr_package_writer_append(ofr_package_writer *writer, const written_tensor *tensor, size_t at,
                              ofr_error *err);

/* Makes or opens the partial directory and locks it; starts afresh, or takes up what is there of
 * the same source. */
int ofr_package_state_open(ofr_package_writer *writer, const char *source, ofr_error *err);
/* Notes a finished tensor. */
int ofr_package_state_add(const ofr_package_writer *writer, const written_tensor *tensor,
                          ofr_error *err);
/* The caller goes another way than the earlier run did: what that run finished from here on is of
 * no use, and its lines must not stay in the state file. */
int ofr_package_state_drop_waiting(ofr_package_writer *writer, ofr_error *err);

#endif
