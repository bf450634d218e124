/* A GGUF file as the source of a bake, or several that one was split into.
 *
 * The parts of a split model are named NAME-00001-of-0000N.gguf and so on. Each is a GGUF file with
 * tensors of its own and the keys split.no (from 0), split.count and split.tensors.count (of all
 * parts); the first has the other metadata. */
#ifndef OFR_BAKE_MODEL_GGUF_SOURCE_H
#define OFR_BAKE_MODEL_GGUF_SOURCE_H

#include "bake_model/bake.h"
#include "bake_model/bake_source.h"

/* Adds file `name` to the source; OFR_ENOENT where there is none. */
typedef int (*ofr_gguf_add)(void *context, const char *name, ofr_source *source, uint32_t *ret_file,
                            ofr_error *err);

/* Fills a source that has no files yet. `name` is that of the file, or of the first part; the
 * others' names are made from it. */
int ofr_gguf_source_load(const ofr_bake_options *options, const char *name, ofr_gguf_add add,
                         void *context, ofr_bake_source *source, ofr_error *err);
/* Of a split model, but not its first part: what a choice between files passes over. */
bool ofr_gguf_is_later_part(const char *name);

#endif
