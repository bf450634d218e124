/* Text that comes from a file or from standard input. */
#include "supervisor/input.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/utf8.h"

static int read_stdin(char **ret_text, size_t *ret_size, ofr_error *err)
{
    char *text = NULL;
    size_t size = 0, room = 0;
    for (;;) {
        if (size + 1 >= room) {
            room = room ? room * 2 : 65536;
            char *grown = realloc(text, room);
            if (!grown) {
                free(text);
                return ofr_fail(err, OFR_ENOMEM, "stdin: no memory for %zu bytes", room);
            }
            text = grown;
        }
        ssize_t n = read(STDIN_FILENO, text + size, room - size - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int errnum = errno;
            free(text);
            return ofr_fail_errno(err, errnum, "stdin: cannot read");
        }
        if (n == 0)
            break;
        size += (size_t)n;
        if (size > OFR_INPUT_CAP) {
            free(text);
            return ofr_fail(err, OFR_ELIMIT, "stdin: more than %d bytes", OFR_INPUT_CAP);
        }
    }
    text[size] = '\0';
    *ret_text = text;
    *ret_size = size;
    return 0;
}

int ofr_input_read(const char *path, char **ret_text, size_t *ret_size, ofr_error *err)
{
    if (strcmp(path, "-") == 0)
        return read_stdin(ret_text, ret_size, err);
    void *data = NULL;
    int r = ofr_file_read(path, OFR_INPUT_CAP, &data, ret_size, err);
    if (r == 0)
        *ret_text = data;
    return r;
}

int ofr_input_check_utf8(const char *what, const char *text, size_t size, ofr_error *err)
{
    size_t offset = 0;
    if (ofr_utf8_validate(text, size, &offset))
        return 0;
    return ofr_fail(err, OFR_EUTF8, "%s is not valid UTF-8 at byte offset %zu (byte 0x%02x)", what,
                    offset, (unsigned char)text[offset]);
}
