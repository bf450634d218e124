/* A repository of the model hub: what is in it, small files, and ranges of large ones.
 *
 * The interface of the hub (huggingface.co, or what HF_ENDPOINT names):
 *   GET <endpoint>/api/models/<id>/revision/<revision>?blobs=true
 *       {"sha": "<commit>", "siblings": [{"rfilename", "size", "blobId", "lfs": {"sha256"}}, ...]}
 *   GET <endpoint>/<id>/resolve/<commit>/<file>
 *       the bytes, or a redirect to a host that has them
 * The commit is taken once, so that all files are of one revision. A token goes to the endpoint
 * only, never to where it redirects, and never over plain http but to this machine. */
#ifndef OFR_BAKE_MODEL_HUB_H
#define OFR_BAKE_MODEL_HUB_H

#include "bake_model/hf_source.h"

typedef struct ofr_hub ofr_hub;

typedef struct ofr_hub_options {
    const char *model_id;                /* ORG/NAME */
    const char *revision;                /* branch, tag or commit; NULL: main */
    unsigned connections;                /* at once, for large files */
    unsigned timeout_s;                  /* without a byte */
    unsigned retries;                    /* in a row without progress */
    const volatile sig_atomic_t *cancel; /* or NULL */
    int progress_fd;
} ofr_hub_options;

/* Asks the endpoint what is in the repository. Endpoint and token come from the environment:
 * HF_ENDPOINT; HF_TOKEN, else the file HF_TOKEN_PATH, $HF_HOME/token or ~/.cache/huggingface/token.
 * The texts of `options` are borrowed until close. */
int ofr_hub_open(const ofr_hub_options *options, ofr_hub **ret_hub, ofr_error *err);
/* Accepts NULL; returns NULL. No fetch may run. */
ofr_hub *ofr_hub_close(ofr_hub *hub);

const char *ofr_hub_commit(const ofr_hub *hub);
/* The i-th file's path in the repository; NULL behind the last. */
const char *ofr_hub_file_name(const ofr_hub *hub, size_t index);

/* As ofr_hf_files has them; `hub` is the context. */
void ofr_hub_files(ofr_hub *hub, ofr_hf_files *ret_files);
/* Makes a source read its remote files from this hub. */
void ofr_hub_attach(ofr_hub *hub, ofr_source *source);
/* Makes <directory>/<base name> hold the file, checked; what an earlier call left is used. 1, or 0
 * where the repository has no such file. */
int ofr_hub_download(ofr_hub *hub, const char *name, const char *directory, ofr_error *err);

#endif
