/* Where the hub's own tools keep endpoint and token. */
#include "bake_model/hub_token.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { TOKEN_CAP = 4096 };

static const char *from_environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

int ofr_hub_endpoint(char **ret_endpoint, ofr_error *err)
{
    const char *value = from_environment("HF_ENDPOINT");
    *ret_endpoint = strdup(value ? value : "https://huggingface.co");
    if (!*ret_endpoint)
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    size_t n = strlen(*ret_endpoint);
    while (n > 0 && (*ret_endpoint)[n - 1] == '/')
        (*ret_endpoint)[--n] = '\0';
    return 0;
}

static char *token_path(void)
{
    const char *value = from_environment("HF_TOKEN_PATH");
    char *path = NULL;
    int n;
    if (value)
        return strdup(value);
    if ((value = from_environment("HF_HOME")))
        n = asprintf(&path, "%s/token", value);
    else if ((value = from_environment("XDG_CACHE_HOME")))
        n = asprintf(&path, "%s/huggingface/token", value);
    else if ((value = from_environment("HOME")))
        n = asprintf(&path, "%s/.cache/huggingface/token", value);
    else
        return NULL;
    return n < 0 ? NULL : path;
}

/* Cuts white space off both ends; false: it cannot be a token. */
static bool clean(char *text)
{
    size_t begin = strspn(text, " \t\r\n"), n = strlen(text + begin);
    memmove(text, text + begin, n + 1);
    while (n > 0 && strchr(" \t\r\n", text[n - 1]))
        text[--n] = '\0';
    for (size_t i = 0; i < n; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return false;
    return n < TOKEN_CAP;
}

int ofr_hub_token(char **ret_token, ofr_error *err)
{
    const char *value = from_environment("HF_TOKEN");
    char *path = value ? NULL : token_path(), *token = value ? strdup(value) : NULL;
    void *data = NULL;
    size_t size;
    /* A file that cannot be read is as good as none: the hub says so where a token is needed. */
    if (path && ofr_file_read(path, TOKEN_CAP, &data, &size, NULL) == 0)
        token = data;
    *ret_token = NULL;
    if (token && !clean(token)) {
        int r = ofr_fail(err, OFR_EINVAL, "%s: holds no token of the hub (hf_...)",
                         path ? path : "HF_TOKEN");
        free(token);
        free(path);
        return r;
    }
    free(path);
    if (token && !*token) {
        free(token);
        token = NULL;
    }
    *ret_token = token;
    return 0;
}
