/* The runtime directory: private, and never one that another user has prepared. */
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
#include "base/runtime_dir.h"

static char root[] = "/tmp/offering_runtime_XXXXXX";

static int try_open(const char *instance, bool create, ofr_error *err)
{
    char path[OFR_RUNTIME_PATH_SIZE] = "";
    int fd = -1;
    int r = ofr_runtime_dir_open(instance, create, &fd, path, err);
    if (r == 0) {
        struct stat info;
        struct stat by_path;
        assert_int_equal(fstat(fd, &info), 0);
        assert_int_equal(stat(path, &by_path), 0);
        assert_true(info.st_ino == by_path.st_ino);
        assert_int_equal(info.st_mode & 07777, 0700);
        close(fd);
    }
    return r;
}

static const char *below(const char *name)
{
    static _Thread_local char path[256];
    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

static void it_is_private_whatever_the_umask(void **state)
{
    (void)state;
    ofr_error err = {0};
    assert_int_equal(try_open("x", false, &err), OFR_ENOENT);
    mode_t mask = umask(0);
    assert_int_equal(try_open("x", true, &err), 0);
    umask(mask);
    assert_int_equal(try_open("x", false, &err), 0);
    assert_int_equal(try_open(NULL, false, &err), 0);
}

static void what_others_prepared_is_refused(void **state)
{
    (void)state;
    ofr_error err = {0};
    assert_int_equal(try_open("x", true, &err), 0);
    /* Open to others. */
    assert_int_equal(chmod(below("offering"), 0755), 0);
    assert_int_equal(try_open("x", true, &err), OFR_EACCESS);
    assert_non_null(strstr(err.text, "chmod 700"));
    assert_int_equal(chmod(below("offering"), 0700), 0);
    assert_int_equal(chmod(below("offering/x"), 0701), 0);
    assert_int_equal(try_open("x", true, &err), OFR_EACCESS);
    assert_int_equal(rmdir(below("offering/x")), 0);
    /* A link, a file. */
    assert_int_equal(symlink("/tmp", below("offering/x")), 0);
    assert_int_equal(try_open("x", true, &err), OFR_EACCESS);
    assert_int_equal(unlink(below("offering/x")), 0);
    FILE *file = fopen(below("offering/x"), "we");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(try_open("x", true, &err), OFR_EACCESS);
    assert_int_equal(unlink(below("offering/x")), 0);
    /* Another user's. */
    if (geteuid() != 0)
        return;
    assert_int_equal(mkdir(below("offering/x"), 0700), 0);
    assert_int_equal(chown(below("offering/x"), 65534, 65534), 0);
    assert_int_equal(try_open("x", true, &err), OFR_EACCESS);
    assert_non_null(strstr(err.text, "65534"));
}

static void a_variable_of_another_user_is_ignored(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    ofr_error err = {0};
    char path[OFR_RUNTIME_PATH_SIZE] = "";
    int fd = -1;
    assert_int_equal(mkdir(below("theirs"), 0700), 0);
    assert_int_equal(chown(below("theirs"), 65534, 65534), 0);
    setenv("XDG_RUNTIME_DIR", below("theirs"), 1);
    int r = ofr_runtime_dir_open(NULL, false, &fd, path, &err);
    assert_true(r == 0 || r == OFR_ENOENT);
    if (r == 0) {
        assert_memory_equal(path, "/tmp/offering-", strlen("/tmp/offering-"));
        close(fd);
    }
    setenv("XDG_RUNTIME_DIR", root, 1);
}

static void names(void **state)
{
    (void)state;
    ofr_error err = {0};
    static const char *const good[] = {"a", "default", "A.b_c-9"};
    static const char *const bad[] = {"", ".", "..", ".hidden", "a/b", "a b", "\xc3\xa9", "a\n"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_int_equal(ofr_instance_name_check(good[i], &err), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(ofr_instance_name_check(bad[i], &err), OFR_EINVAL);
        assert_int_equal(try_open(bad[i], true, &err), OFR_EINVAL);
    }
    char longest[OFR_INSTANCE_NAME_SIZE + 1];
    memset(longest, 'n', sizeof longest);
    longest[OFR_INSTANCE_NAME_SIZE] = 0;
    assert_int_equal(ofr_instance_name_check(longest, &err), OFR_EINVAL);
    longest[OFR_INSTANCE_NAME_SIZE - 1] = 0;
    assert_int_equal(ofr_instance_name_check(longest, &err), 0);
}

static int clean(void **state)
{
    (void)state;
    return ofr_directory_remove(root, NULL);
}

int main(void)
{
    if (!mkdtemp(root) || setenv("XDG_RUNTIME_DIR", root, 1) < 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_private_whatever_the_umask),
        cmocka_unit_test(what_others_prepared_is_refused),
        cmocka_unit_test(a_variable_of_another_user_is_ignored),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, clean);
}
