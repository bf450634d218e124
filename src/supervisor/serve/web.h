/* The web page: files of web/, part of the program. */
#ifndef OFR_SUPERVISOR_SERVE_WEB_H
#define OFR_SUPERVISOR_SERVE_WEB_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ofr_web_asset {
    const char *path; /* of the URL */
    const char *content_type;
    const unsigned char *data; /* [size] */
    size_t size;
} ofr_web_asset;

/* False where there is none. */
bool ofr_web_find(const char *path, ofr_web_asset *ret_asset);

#endif
