/* Files: reading with a cap, replacement that is all or nothing, directories, paths. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"

static char directory[] = "/tmp/offering_test_file_XXXXXX";

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(directory) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return ofr_directory_remove(directory, NULL);
}

/* In a static buffer: valid until the next call. */
static const char *in_directory(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static void replace_and_read(void **state)
{
    (void)state;
    ofr_error err = {0};
    const char *path = in_directory("a");
    void *data;
    size_t size;
    assert_int_equal(ofr_file_read(path, 10, &data, &size, &err), OFR_ENOENT);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(ofr_file_replace(path, "one", 3, 0640, &err), 0);
    assert_int_equal(ofr_file_replace(path, "second", 6, 0640, &err), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(ofr_file_read(path, 6, &data, &size, &err), 0);
    assert_int_equal(size, 6);
    assert_string_equal(data, "second");
    free(data);
    assert_int_equal(ofr_file_read(path, 5, &data, &size, &err), OFR_ELIMIT);
    ofr_file_map map;
    assert_int_equal(ofr_file_map_open(path, &map, &err), 0);
    assert_int_equal(map.size, 6);
    assert_memory_equal(map.data, "second", 6);
    assert_int_equal(fcntl(map.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    ofr_file_map_close(&map);
    ofr_file_map_close(&map);
    /* A place that cannot be written: the file stays, and no temporary file does. */
    assert_int_equal(ofr_file_replace("/proc/none", "x", 1, 0600, &err), OFR_ENOENT);
    assert_int_equal(unlink(path), 0);
    bool empty;
    assert_int_equal(ofr_directory_is_empty(directory, &empty, &err), 0);
    assert_true(empty);
}

static void only_regular_files_are_opened(void **state)
{
    (void)state;
    ofr_error err = {0};
    ofr_file_map map;
    assert_int_equal(ofr_file_map_open(directory, &map, &err), OFR_EINVAL);
    assert_non_null(strstr(err.text, "is a directory"));
    const char *path = in_directory("fifo");
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(ofr_file_map_open(path, &map, &err), OFR_EINVAL); /* and does not hang */
    path = in_directory("empty");
    assert_int_equal(ofr_file_replace(path, "", 0, 0600, &err), 0);
    assert_int_equal(ofr_file_map_open(path, &map, &err), 0);
    assert_int_equal(map.size, 0);
    assert_null(map.data);
    ofr_file_map_close(&map);
}

static void positioned_reads_and_writes(void **state)
{
    (void)state;
    ofr_error err = {0};
    const char *path = in_directory("positions");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ofr_file_pwrite(fd, path, "tail", 4, 4, &err), 0);
    assert_int_equal(ofr_file_pwrite(fd, path, "head", 4, 0, &err), 0);
    char text[9] = "";
    assert_int_equal(ofr_file_pread(fd, path, text, 8, 0, &err), 0);
    assert_string_equal(text, "headtail");
    assert_int_equal(ofr_file_pread(fd, path, text, 8, 1, &err), OFR_EFORMAT);
    assert_int_equal(ofr_file_pread(fd, path, text, 1, UINT64_MAX, &err), OFR_EINVAL);
    assert_int_equal(ofr_file_pwrite(fd, path, text, SIZE_MAX, 0, &err), OFR_EINVAL);
    close(fd);
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    if (full >= 0)
        assert_int_equal(ofr_file_write_all(full, "/dev/full", "x", 1, &err), OFR_ENOSPACE);
    close(full);
}

static void directories(void **state)
{
    (void)state;
    ofr_error err = {0};
    char deep[256], file[300];
    snprintf(deep, sizeof deep, "%s/x//y/z/", directory);
    assert_int_equal(ofr_directory_make(deep, 0700, &err), 0);
    assert_int_equal(ofr_directory_make(deep, 0700, &err), 0);
    snprintf(file, sizeof file, "%s/f", deep);
    assert_int_equal(ofr_file_replace(file, "x", 1, 0600, &err), 0);
    assert_int_equal(ofr_directory_make(file, 0700, &err), OFR_EEXIST);
    /* A link out of the tree is removed, what it leads to is not. */
    char outside[256], link[300];
    snprintf(outside, sizeof outside, "%s/outside", directory);
    snprintf(link, sizeof link, "%s/link", deep);
    assert_int_equal(ofr_directory_make(outside, 0700, &err), 0);
    assert_int_equal(symlink(outside, link), 0);
    snprintf(deep, sizeof deep, "%s/x", directory);
    assert_int_equal(ofr_directory_remove(deep, &err), 0);
    assert_int_equal(access(deep, F_OK), -1);
    assert_int_equal(access(outside, F_OK), 0);
    assert_int_equal(ofr_directory_remove(deep, &err), 0);
}

static void check_text(char *actual, const char *expected)
{
    assert_non_null(actual);
    assert_string_equal(actual, expected);
    free(actual);
}

static void paths(void **state)
{
    (void)state;
    check_text(ofr_path_join("a", "b"), "a/b");
    check_text(ofr_path_join("a//", "/b"), "a/b");
    check_text(ofr_path_join("/", "b"), "/b");
    check_text(ofr_path_join("", "b"), "b");
    check_text(ofr_path_parent("a/b/"), "a");
    check_text(ofr_path_parent("a"), ".");
    check_text(ofr_path_parent("/a"), "/");
    check_text(ofr_path_base("a/b//"), "b");
    check_text(ofr_path_base("b"), "b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replace_and_read),
        cmocka_unit_test(only_regular_files_are_opened),
        cmocka_unit_test(positioned_reads_and_writes),
        cmocka_unit_test(directories),
        cmocka_unit_test(paths),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
