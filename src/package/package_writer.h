/* Writes a package: streaming, resumable, all or nothing.
 *
 * Everything goes to "<output>.partial", which takes the output's place in one rename when the
 * package is complete. A writer that is closed without finishing leaves the partial directory for a
 * later run to continue from; the output itself is never half-written. One thread. */
#ifndef OFR_PACKAGE_PACKAGE_WRITER_H
#define OFR_PACKAGE_PACKAGE_WRITER_H

#include "package/package.h"

typedef struct ofr_package_writer ofr_package_writer;

enum { OFR_PACKAGE_NOTE_MAX = 256 };

typedef struct ofr_package_writer_options {
    const char *output;      /* directory to be made; parent must exist */
    const char *source;      /* identity of the source (path, size, sha256 or revision): a partial
                                directory of another source or of other options is discarded */
    bool overwrite;          /* replace an existing package; any other non-empty directory is
                                refused either way */
    uint64_t expected_bytes; /* of weights.bin, to refuse at once when the disk is too small; 0:
                                unknown */
    /* The tensors in the order in which they lie in weights.bin (name, dtype, shape, group_size);
     * they may then be written in any order, and all must be. What is not among them lies behind
     * them, as it is written. */
    const ofr_tensor *tensors;
    size_t n_tensors;
} ofr_package_writer_options;

int ofr_package_writer_open(const ofr_package_writer_options *options,
                            ofr_package_writer **ret_writer, ofr_error *err);
/* What ofr_package_writer_open would say about the output, before any work is done for it. */
int ofr_package_writer_check(const char *output, bool overwrite, ofr_error *err);
/* Without a successful finish: keeps what is complete for resuming. Accepts NULL; returns NULL. */
ofr_package_writer *ofr_package_writer_close(ofr_package_writer *writer);
/* As close, but keeps nothing: a later run could not do better with it. */
ofr_package_writer *ofr_package_writer_discard(ofr_package_writer *writer);

/* True if a resumed partial directory already holds this tensor, complete and with a good checksum;
 * the caller then skips it. Tensors must be added in the same order in every run. */
bool ofr_package_writer_has(ofr_package_writer *writer, const char *name);
/* The note that the tensor accepted last was ended with; "-" where none was. Valid until the next
 * call. */
const char *ofr_package_writer_note(const ofr_package_writer *writer);

/* A tensor is announced, written in order in as many pieces as the caller likes (all data, then all
 * scales: both streams may be interleaved), and ended. `spec` gives name, dtype, shape, group_size.
 */
int ofr_package_writer_begin(ofr_package_writer *writer, const ofr_tensor *spec, ofr_error *err);
int ofr_package_writer_data(ofr_package_writer *writer, const void *data, size_t size,
                            ofr_error *err);
int ofr_package_writer_scales(ofr_package_writer *writer, const void *scales, size_t size,
                              ofr_error *err);
/* `note` (printable, without blanks, below OFR_PACKAGE_NOTE_MAX bytes; NULL: none) is kept in the
 * state file for a later run. */
int ofr_package_writer_end(ofr_package_writer *writer, const char *note, ofr_error *err);

/* A tensor that was ended or taken over from an earlier run, with its place in weights.bin; NULL:
 * none of this name. Valid until the next tensor is begun. */
const ofr_tensor *ofr_package_writer_tensor(const ofr_package_writer *writer, const char *name);

/* Bytes of weights.bin so far. */
uint64_t ofr_package_writer_bytes(const ofr_package_writer *writer);

/* A small whole file ("tokenizer.bin", "chat_template.jinja", "golden.json"). */
int ofr_package_writer_file(ofr_package_writer *writer, const char *name, const void *data,
                            size_t size, ofr_error *err);

/* `name` becomes another name of weights.bin: a hard link, or a symbolic one where the file system
 * has no hard links. model.json does not list it; a package is complete without it. */
int ofr_package_writer_link(ofr_package_writer *writer, const char *name, ofr_error *err);

/* Writes model.json with the checksums, syncs, renames. `extra_json` (may be NULL) is an object
 * whose members are added to model.json ("source", "quantization", ...). `params` is NULL for a
 * package of a tokenizer only: it has no weights.bin. */
int ofr_package_writer_finish(ofr_package_writer *writer, const ofr_model_params *params,
                              const char *extra_json, ofr_error *err);

#endif
