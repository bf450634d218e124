/* Names of instances, the lock that decides who serves, and which one a command means. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "executive_shard/instance.h"

static char root[] = "/tmp/offering_instance_XXXXXX";

static int open_directory(const char *name)
{
    char path[OFR_RUNTIME_PATH_SIZE];
    int fd = -1;
    ofr_error err = {0};
    assert_int_equal(ofr_runtime_dir_open(name, true, &fd, path, &err), 0);
    return fd;
}

static void a_package_has_one_name(void **state)
{
    (void)state;
    char a[OFR_INSTANCE_NAME_SIZE];
    char b[OFR_INSTANCE_NAME_SIZE];
    char path[512];
    char link[512];
    ofr_error err = {0};
    snprintf(path, sizeof path, "%s/a model, (v2)", root);
    snprintf(link, sizeof link, "%s/link", root);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(symlink(path, link), 0);
    assert_int_equal(ofr_instance_for_package(path, a, &err), 0);
    assert_int_equal(ofr_instance_for_package(link, b, &err), 0);
    assert_string_equal(a, b); /* the real path decides */
    assert_int_equal(ofr_instance_name_check(a, &err), 0);
    snprintf(link, sizeof link, "%s/other", root);
    assert_int_equal(mkdir(link, 0700), 0);
    assert_int_equal(ofr_instance_for_package(link, b, &err), 0);
    assert_string_not_equal(a, b);
    snprintf(link, sizeof link, "%s/absent", root);
    assert_true(ofr_instance_for_package(link, b, &err) < 0);
    assert_non_null(strstr(err.text, "absent"));
}

static void one_serves(void **state)
{
    (void)state;
    int directory = open_directory("one");
    ofr_instance_lock lock = {-1};
    ofr_instance_lock second = {-1};
    pid_t holder = 0;
    ofr_error err = {0};
    assert_int_equal(ofr_instance_holder("one", &holder, &err), 0);
    assert_int_equal(holder, 0);
    assert_int_equal(ofr_instance_holder("never", &holder, &err), 0);
    assert_int_equal(holder, 0);
    assert_int_equal(ofr_instance_lock_acquire(directory, &lock, &holder, &err), 0);
    ofr_instance_lock_started(&lock);
    assert_int_equal(ofr_instance_holder("one", &holder, &err), 0);
    assert_int_equal(holder, getpid());
    holder = 0;
    assert_int_equal(ofr_instance_lock_acquire(directory, &second, &holder, &err), OFR_EBUSY);
    assert_int_equal(holder, getpid());
    assert_int_equal(second.fd, -1);
    ofr_instance_lock_release(&lock);
    assert_int_equal(ofr_instance_holder("one", &holder, &err), 0);
    assert_int_equal(holder, 0);
    assert_int_equal(ofr_instance_lock_acquire(directory, &second, &holder, &err), 0);
    ofr_instance_lock_release(&second);
    ofr_instance_lock_release(&second); /* twice is once */
    close(directory);
}

static void the_lock_ends_with_its_process(void **state)
{
    (void)state;
    int directory = open_directory("two");
    int ends[2];
    int back[2];
    char byte = 0;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(pipe(back), 0);
    pid_t child = fork();
    if (child == 0) {
        ofr_instance_lock lock = {-1};
        pid_t holder = 0;
        if (ofr_instance_lock_acquire(directory, &lock, &holder, NULL) < 0)
            _exit(1);
        ofr_instance_lock_started(&lock);
        if (write(ends[1], "x", 1) != 1 || read(back[0], &byte, 1) != 1)
            _exit(1);
        kill(getpid(), 9);
    }
    pid_t holder = 0;
    ofr_error err = {0};
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_int_equal(ofr_instance_holder("two", &holder, &err), 0);
    assert_int_equal(holder, child);
    assert_int_equal(write(back[1], "x", 1), 1);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(ofr_instance_holder("two", &holder, &err), 0);
    assert_int_equal(holder, 0);
    for (int i = 0; i < 2; i++) {
        close(ends[i]);
        close(back[i]);
    }
    close(directory);
}

static void the_only_one_that_runs(void **state)
{
    (void)state;
    char name[OFR_INSTANCE_NAME_SIZE] = "";
    char(*names)[OFR_INSTANCE_NAME_SIZE] = NULL;
    size_t count = 9;
    pid_t holder = 0;
    ofr_error err = {0};
    assert_int_equal(chdir(root), 0); /* no default package here */
    assert_int_equal(ofr_instance_list(&names, &count, &err), 0);
    assert_int_equal(count, 0);
    free(names);
    assert_int_equal(ofr_instance_resolve(NULL, NULL, name, &err), OFR_ENOENT);
    int b = open_directory("beta");
    int a = open_directory("alpha");
    ofr_instance_lock lock_a = {-1};
    ofr_instance_lock lock_b = {-1};
    assert_int_equal(ofr_instance_lock_acquire(b, &lock_b, &holder, &err), 0);
    assert_int_equal(ofr_instance_resolve(NULL, NULL, name, &err), 0);
    assert_string_equal(name, "beta");
    assert_int_equal(ofr_instance_lock_acquire(a, &lock_a, &holder, &err), 0);
    assert_int_equal(ofr_instance_list(&names, &count, &err), 0);
    assert_int_equal(count, 2);
    assert_string_equal(names[0], "alpha");
    assert_string_equal(names[1], "beta");
    free(names);
    /* Of two none is meant. */
    assert_int_equal(ofr_instance_resolve(NULL, NULL, name, &err), OFR_ENOENT);
    assert_non_null(strstr(err.text, "alpha"));
    assert_non_null(strstr(err.text, "beta"));
    assert_int_equal(ofr_instance_resolve(NULL, "gamma", name, &err), 0);
    assert_string_equal(name, "gamma");
    assert_int_equal(ofr_instance_resolve(NULL, "../etc", name, &err), OFR_EINVAL);
    ofr_instance_lock_release(&lock_a);
    ofr_instance_lock_release(&lock_b);
    close(a);
    close(b);
}

static bool bind_at(const char *path, int *ret_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.107s", path);
    *ret_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    return bind(*ret_fd, (struct sockaddr *)&address, sizeof address) == 0;
}

/* What a killed executive leaves is removed; what somebody serves or holds is not. */
static void a_socket_without_an_owner(void **state)
{
    (void)state;
    int directory = open_directory("left");
    int fd = -1;
    char through[128];
    char path[128];
    ofr_instance_lock lock = {-1};
    pid_t holder = 0;
    ofr_error err = {0};
    snprintf(through, sizeof through, "/proc/self/fd/%d/executive.sock", directory);
    snprintf(path, sizeof path, "%s/offering/left/executive.sock", root);
    ofr_instance_clear("never");
    ofr_instance_clear("left");
    assert_true(bind_at(through, &fd));
    close(fd);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(ofr_instance_lock_acquire(directory, &lock, &holder, &err), 0);
    ofr_instance_lock_started(&lock);
    ofr_instance_clear("left"); /* somebody serves */
    assert_int_equal(access(path, F_OK), 0);
    ofr_instance_lock_release(&lock);
    ofr_instance_clear("left");
    assert_int_equal(access(path, F_OK), -1);
    assert_true(bind_at(path, &fd)); /* as a service manager does */
    ofr_instance_clear("left");
    assert_int_equal(access(path, F_OK), 0);
    close(fd);
    ofr_instance_clear("left");
    assert_int_equal(access(path, F_OK), -1);
    close(directory);
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
        cmocka_unit_test(a_package_has_one_name),         cmocka_unit_test(one_serves),
        cmocka_unit_test(the_lock_ends_with_its_process), cmocka_unit_test(the_only_one_that_runs),
        cmocka_unit_test(a_socket_without_an_owner),
    };
    return cmocka_run_group_tests(tests, NULL, clean);
}
