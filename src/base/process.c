/* Starting programs and reading what /proc says of them. */
#include "base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int prepare(const ofr_spawn_options *options, posix_spawn_file_actions_t *actions,
                   posix_spawnattr_t *attributes)
{
    int r = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (r == 0 && options->stdout_fd >= 0)
        r = posix_spawn_file_actions_adddup2(actions, options->stdout_fd, STDOUT_FILENO);
    else if (r == 0)
        r = posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (r == 0 && options->stderr_fd >= 0)
        r = posix_spawn_file_actions_adddup2(actions, options->stderr_fd, STDERR_FILENO);
    /* glibc clears close-on-exec even where both numbers are the same. */
    if (r == 0 && options->inherit_fd >= 0)
        r = posix_spawn_file_actions_adddup2(actions, options->inherit_fd, 3);
    sigset_t all;
    sigset_t none;
    sigfillset(&all);
    sigemptyset(&none);
    if (r == 0)
        r = posix_spawnattr_setsigdefault(attributes, &all);
    if (r == 0)
        r = posix_spawnattr_setsigmask(attributes, &none);
    if (r == 0)
        r = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    return r;
}

int ofr_process_spawn(const ofr_spawn_options *options, pid_t *ret_pid, ofr_error *err)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int r = posix_spawn_file_actions_init(&actions);
    if (r != 0)
        return ofr_fail_errno(err, r, "cannot start %s", options->path);
    r = posix_spawnattr_init(&attributes);
    if (r == 0) {
        r = prepare(options, &actions, &attributes);
        pid_t pid = -1;
        if (r == 0)
            r = posix_spawn(&pid, options->path, &actions, &attributes,
                            (char *const *)(uintptr_t)options->argv, environ);
        if (r == 0)
            *ret_pid = pid;
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    if (r != 0)
        return ofr_fail_errno(err, r, "cannot start %s", options->path);
    return 0;
}

static size_t read_proc(pid_t pid, const char *name, char *text, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, size - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    return (size_t)n;
}

uint64_t ofr_process_resident_bytes(pid_t pid)
{
    char text[256];
    uint64_t total = 0;
    uint64_t resident = 0;
    if (!read_proc(pid, "statm", text, sizeof text) ||
        sscanf(text, "%" SCNu64 " %" SCNu64, &total, &resident) != 2)
        return 0;
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t ofr_process_cpu_ns(pid_t pid)
{
    char text[1024];
    if (!read_proc(pid, "stat", text, sizeof text))
        return 0;
    /* The second field, the name, may hold spaces and parentheses: begin after the last one. */
    const char *rest = strrchr(text, ')');
    uint64_t user = 0;
    uint64_t system = 0;
    if (!rest ||
        sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64, &user,
               &system) != 2)
        return 0;
    return (user + system) * (1000000000u / (uint64_t)sysconf(_SC_CLK_TCK));
}

int ofr_process_self_path(char *ret_path, size_t size, ofr_error *err)
{
    ssize_t n = readlink("/proc/self/exe", ret_path, size);
    if (n < 0)
        return ofr_fail_errno(err, errno, "cannot read /proc/self/exe");
    if ((size_t)n >= size)
        return ofr_fail(err, OFR_ELIMIT, "the path of this program is longer than %zu bytes", size);
    ret_path[n] = 0;
    return 0;
}

void ofr_process_describe_status(int wait_status, char *ret_text, size_t size)
{
    if (WIFSIGNALED(wait_status)) {
        const char *name = sigabbrev_np(WTERMSIG(wait_status));
        snprintf(ret_text, size, "killed by signal %d (SIG%s)", WTERMSIG(wait_status),
                 name ? name : "?");
    } else {
        snprintf(ret_text, size, "ended with exit code %d", WEXITSTATUS(wait_status));
    }
}
