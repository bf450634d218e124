/* Shared memory: nameless, private, zeroed, and never mapped beyond its end. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/shm.h"

static void a_segment_is_private_and_zero(void **state)
{
    (void)state;
    ofr_error err = {0};
    int fd = -1;
    mode_t mask = umask(0);
    assert_int_equal(ofr_shm_create(3 * 4096, &fd, &err), 0);
    umask(mask);
    struct stat info;
    assert_int_equal(fstat(fd, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_int_equal(info.st_nlink, 0); /* unlinked already */
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(ofr_shm_committed(fd), 0);
    void *base = NULL;
    assert_int_equal(ofr_shm_map(fd, 3 * 4096, &base, &err), 0);
    static const char zeros[3 * 4096];
    assert_memory_equal(base, zeros, sizeof zeros);
    ofr_shm_unmap(base, 3 * 4096);
    close(fd);
}

static void a_segment_that_is_too_small_is_refused(void **state)
{
    (void)state;
    ofr_error err = {0};
    int fd = -1;
    void *base = NULL;
    assert_int_equal(ofr_shm_create(4096, &fd, &err), 0);
    assert_int_equal(ofr_shm_map(fd, 2 * 4096, &base, &err), OFR_EPROTOCOL);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(ofr_shm_map(fd, 4096, &base, &err), OFR_EPROTOCOL);
    assert_null(base);
    close(fd);
}

static void more_than_there_is_names_the_fix(void **state)
{
    (void)state;
    ofr_error err = {0};
    int fd = -1;
    uint64_t left = 0, total = 0;
    assert_int_equal(ofr_shm_space(&left, &total, &err), 0);
    if (total == INT64_MAX)
        skip();
    assert_int_equal(ofr_shm_create(left + ((uint64_t)1 << 32), &fd, &err), OFR_ENOSPACE);
    assert_non_null(strstr(err.text, "remount"));
    assert_int_equal(ofr_shm_create(0, &fd, &err), OFR_EINVAL);
    assert_int_equal(fd, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_segment_is_private_and_zero),
        cmocka_unit_test(a_segment_that_is_too_small_is_refused),
        cmocka_unit_test(more_than_there_is_names_the_fix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
