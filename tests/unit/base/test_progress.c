/* Progress lines: what they say, that they fit, and that a log stays short. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/progress.h"

static void a_line_has_bytes_rate_and_time_left(void **state)
{
    (void)state;
    ofr_progress progress = {
        .label = "quantizing", .total_bytes = 100 << 20, .done_bytes = 25 << 20};
    char line[256];
    ofr_progress_format(&progress, 5, 0, line, sizeof line);
    assert_string_equal(line, "quantizing:  25 %, 25.0 MiB of 100 MiB, 5.0 MiB/s, 0:15 left");
    ofr_progress_format(&progress, 5, 120, line, sizeof line);
    assert_non_null(strstr(line, "[#######.......................]  25 %"));
    progress.skipped_bytes = 20 << 20; /* of an earlier run: 5 MiB in 5 s */
    ofr_progress_format(&progress, 5, 0, line, sizeof line);
    assert_non_null(strstr(line, "1.0 MiB/s, 1:15 left"));
    progress.done_bytes = progress.skipped_bytes;
    ofr_progress_format(&progress, 5, 0, line, sizeof line);
    assert_non_null(strstr(line, "0 B/s, ? left"));
    progress.done_bytes = progress.total_bytes;
    ofr_progress_format(&progress, 3725, 0, line, sizeof line);
    assert_non_null(strstr(line, "100 %, 100 MiB"));
    assert_non_null(strstr(line, "took 1:02:05"));
}

static void any_width_fits(void **state)
{
    (void)state;
    ofr_progress progress = {.label = "quantizing", .total_bytes = UINT64_MAX};
    for (unsigned columns = 0; columns < 300; columns++)
        for (int i = 0; i < 5; i++) {
            char line[256];
            progress.done_bytes = UINT64_MAX / 4 * (uint64_t)i;
            ofr_progress_format(&progress, 1e-9, columns, line, sizeof line);
            if (strchr(line, '['))
                assert_true(strlen(line) < columns);
        }
}

static void a_log_gets_one_line_and_quiet_gets_none(void **state)
{
    (void)state;
    for (int quiet = 0; quiet < 2; quiet++) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        ofr_progress progress;
        ofr_progress_begin(&progress, quiet ? -1 : ends[1], "reading", 1000);
        for (int i = 0; i < 1000; i++)
            ofr_progress_add(&progress, 1);
        ofr_progress_end(&progress);
        close(ends[1]);
        char text[512] = "";
        ssize_t n = read(ends[0], text, sizeof text - 1);
        close(ends[0]);
        if (quiet) {
            assert_int_equal(n, 0);
            continue;
        }
        assert_true(n > 0);
        assert_null(strchr(text, '\r'));
        assert_ptr_equal(strchr(text, '\n'), text + n - 1);
        assert_ptr_equal(strstr(text, "reading: 100 %, 1000 B"), text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_has_bytes_rate_and_time_left),
        cmocka_unit_test(any_width_fits),
        cmocka_unit_test(a_log_gets_one_line_and_quiet_gets_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
