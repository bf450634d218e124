/* Children for drivers: what they inherit, and how little of it. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "device/child.h"

/* What a child found, written to its pipe. */
struct report {
    int open_above, default_signals, nothing_blocked, no_core, argument;
};

static void look_around(int fd, void *user)
{
    struct report report = {.argument = *(const int *)user};
    for (int i = 4; i < 256; i++)
        report.open_above += fcntl(i, F_GETFD) != -1;
    struct sigaction action;
    report.default_signals = sigaction(SIGTERM, NULL, &action) == 0 && action.sa_handler == SIG_DFL;
    sigset_t blocked;
    report.nothing_blocked =
        sigprocmask(SIG_SETMASK, NULL, &blocked) == 0 && !sigismember(&blocked, SIGTERM);
    struct rlimit core;
    report.no_core = getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur == 0;
    printf("this must not be seen\n");
    ssize_t n = write(fd, &report, sizeof report);
    (void)n;
}

static int read_all(int fd, void *data, size_t size)
{
    size_t used = 0;
    ssize_t n = 0;
    while (used < size && (n = read(fd, (char *)data + used, size - used)) > 0)
        used += (size_t)n;
    return (int)used;
}

static void it_gets_a_pipe_and_nothing_else(void **state)
{
    (void)state;
    int inherited = open("/dev/null", O_RDONLY); /* not close-on-exec, and yet not the child's */
    assert_true(inherited >= 0);
    assert_true(dup2(inherited, 200) == 200);
    signal(SIGTERM, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pid_t pid = 0;
    int fd = -1;
    int number = 4711;
    ofr_error err = {0};
    assert_int_equal(ofr_child_start(look_around, &number, 1, &pid, &fd, &err), 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    struct report report = {0};
    assert_int_equal(read_all(fd, &report, sizeof report), sizeof report);
    assert_int_equal(report.argument, 4711);
    assert_int_equal(report.open_above, 0);
    assert_true(report.default_signals && report.nothing_blocked && report.no_core);
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(fd);
    close(inherited);
    close(200);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    signal(SIGTERM, SIG_DFL);
}

static void crash(int fd, void *user)
{
    (void)fd;
    (void)user;
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}

static void a_crash_is_an_end_of_file(void **state)
{
    (void)state;
    pid_t pid = 0;
    int fd = -1;
    char byte;
    ofr_error err = {0};
    assert_int_equal(ofr_child_start(crash, NULL, 1, &pid, &fd, &err), 0);
    assert_int_equal(read(fd, &byte, 1), 0);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    close(fd);
}

static void sleep_on(int fd, void *user)
{
    (void)user;
    pid_t me = getpid();
    ssize_t n = write(fd, &me, sizeof me);
    (void)n;
    for (;;)
        pause();
}

/* A grandchild writes its pid to the test's pipe and must not outlive its parent. */
static void it_ends_with_its_parent(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t parent = fork();
    if (parent == 0) {
        pid_t pid = 0;
        pid_t told = 0;
        int fd = -1;
        close(ends[0]);
        if (ofr_child_start(sleep_on, NULL, 1, &pid, &fd, NULL) < 0 ||
            read_all(fd, &told, sizeof told) != (int)sizeof told ||
            write(ends[1], &told, sizeof told) != (ssize_t)sizeof told)
            _exit(1);
        /* The read end stays open in this process only; the child holds the write end. */
        raise(SIGKILL);
    }
    close(ends[1]);
    pid_t child = 0;
    assert_int_equal(read_all(ends[0], &child, sizeof child), sizeof child);
    close(ends[0]);
    assert_int_equal(waitpid(parent, NULL, 0), parent);
    char path[64];
    char text[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)child);
    /* Gone, or dead and not yet reaped by whoever adopted it. */
    for (int i = 0; i < 6000; i++) {
        FILE *file = fopen(path, "re");
        if (!file)
            return;
        size_t n = fread(text, 1, sizeof text - 1, file);
        text[n] = 0;
        fclose(file);
        const char *end = strrchr(text, ')');
        if (!end || end[2] == 'Z' || end[2] == 'X')
            return;
        usleep(10000);
    }
    fail_msg("the child outlives its parent: %s", text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_gets_a_pipe_and_nothing_else),
        cmocka_unit_test(a_crash_is_an_end_of_file),
        cmocka_unit_test(it_ends_with_its_parent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
