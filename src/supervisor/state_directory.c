/* The state directory of the user (XDG Base Directory Specification). */
#include "supervisor/state_directory.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

int ofr_state_path(const char *name, char **ret_path, ofr_error *err)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *directory = NULL;
    int n = -1;
    if (state && state[0] == '/')
        n = asprintf(&directory, "%s/offering", state);
    else if (home && home[0] == '/')
        n = asprintf(&directory, "%s/.local/state/offering", home);
    else
        return ofr_fail(err, OFR_ENOENT, "neither XDG_STATE_HOME nor HOME names a directory");
    if (n < 0)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a path");
    int r = ofr_directory_make(directory, 0700, err);
    if (r == 0) {
        *ret_path = ofr_path_join(directory, name);
        if (!*ret_path)
            r = ofr_fail(err, OFR_ENOMEM, "no memory for a path");
    }
    free(directory);
    return r;
}
