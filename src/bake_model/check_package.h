/* bake_model --check: is a package whole, and are its graphs such that an NPU takes them? */
#ifndef OFR_BAKE_MODEL_CHECK_PACKAGE_H
#define OFR_BAKE_MODEL_CHECK_PACKAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

enum { OFR_CHECK_FINDINGS_MAX = 256 };

/* The same said of other operations and files is counted, not repeated. */
typedef struct ofr_check_finding {
    bool is_error;
    char file[64], node[256]; /* where it was found first; node "": the whole file */
    char what[384];
    uint64_t count;
} ofr_check_finding;

typedef struct ofr_check_result {
    uint32_t n_graphs;
    uint64_t n_errors, n_warnings; /* all that were found */
    ofr_check_finding *findings;   /* [n_findings], owned */
    size_t n_findings;
} ofr_check_result;

/* Opens the package, compares every checksum, then judges each graph. An error where the package
 * cannot be opened; what is wrong with graphs is in the result. */
int ofr_check_package(const char *directory, ofr_check_result *ret_result, ofr_error *err);
void ofr_check_print(const ofr_check_result *result, const char *directory, bool json, FILE *out);
void ofr_check_result_done(ofr_check_result *result); /* accepts a zeroed one */

#endif
