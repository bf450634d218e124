/* Forking a child that only has a pipe. */
#include "device/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static void prepare(int fd, pid_t parent, int quiet)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    int null = open("/dev/null", O_RDWR);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        if (quiet)
            dup2(null, STDERR_FILENO);
    }
    dup2(fd, 3);
    fcntl(3, F_SETFD, FD_CLOEXEC);
    /* Locks and sockets of the parent must end with the parent. */
    close_range(4, ~0U, 0);
}

int ofr_child_start(void (*body)(int fd, void *user), void *user, int quiet, pid_t *ret_pid,
                    int *ret_fd, ofr_error *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return ofr_fail_errno(err, errno, "cannot make a pipe");
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        int r = ofr_fail_errno(err, errno, "cannot start a child process");
        close(ends[0]);
        close(ends[1]);
        return r;
    }
    if (pid == 0) {
        prepare(ends[1], parent, quiet);
        body(3, user);
        _exit(0);
    }
    close(ends[1]);
    *ret_pid = pid;
    *ret_fd = ends[0];
    return 0;
}
