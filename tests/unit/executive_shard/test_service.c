/* The service manager's protocols: what is taken for a socket of ours, and what is told. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "executive_shard/service.h"

/* In a child, whose descriptor 3 is a socket as given. Exit code: 0 none, 1 taken, 2 refused. */
static int try_socket(const char *pid, const char *fds, int type, bool listening)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char self[32];
        snprintf(self, sizeof self, "%d", (int)getpid());
        setenv("LISTEN_PID", pid ? pid : self, 1);
        setenv("LISTEN_FDS", fds, 1);
        int fd = socket(AF_UNIX, type, 0);
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "offering-test-%s", self);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
            (listening && listen(fd, 1) < 0) || (fd != 3 && dup2(fd, 3) < 0))
            _exit(9);
        int got = -2;
        ofr_error err = {0};
        int r = ofr_service_socket(&got, &err);
        if (getenv("LISTEN_PID") || getenv("LISTEN_FDS"))
            _exit(8); /* children of ours would take them for theirs */
        if (r < 0)
            _exit(strstr(err.text, "offering@.socket") && got == -1 ? 2 : 7);
        if (got == 3)
            _exit(fcntl(3, F_GETFD) & FD_CLOEXEC && fcntl(3, F_GETFL) & O_NONBLOCK ? 1 : 6);
        _exit(got == -1 ? 0 : 5);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void sockets_that_are_inherited(void **state)
{
    (void)state;
    assert_int_equal(try_socket(NULL, "1", SOCK_SEQPACKET, true), 1);
    assert_int_equal(try_socket("1", "1", SOCK_SEQPACKET, true), 0);
    assert_int_equal(try_socket("", "1", SOCK_SEQPACKET, true), 0);
    assert_int_equal(try_socket(NULL, "0", SOCK_SEQPACKET, true), 0);
    assert_int_equal(try_socket(NULL, "-1", SOCK_SEQPACKET, true), 0);
    assert_int_equal(try_socket(NULL, "2", SOCK_SEQPACKET, true), 2);
    assert_int_equal(try_socket(NULL, "1", SOCK_STREAM, true), 2);
    assert_int_equal(try_socket(NULL, "1", SOCK_DGRAM, false), 2);
    assert_int_equal(try_socket(NULL, "1", SOCK_SEQPACKET, false), 2);
}

static void readiness_is_told(void **state)
{
    (void)state;
    char text[64] = "";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int name = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "offering-notify-%d",
                        (int)getpid());
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)name);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    char variable[128];
    snprintf(variable, sizeof variable, "@%s", address.sun_path + 1);
    setenv("NOTIFY_SOCKET", variable, 1);
    ofr_service_notify("READY=1");
    assert_int_equal(recv(fd, text, sizeof text, 0), 7);
    assert_memory_equal(text, "READY=1", 7);
    /* What is no address is ignored, not written to. */
    static const char *const wrong[] = {"", "relative", "@", "/absent/notify"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        setenv("NOTIFY_SOCKET", wrong[i], 1);
        ofr_service_notify("READY=1");
    }
    char longer[300];
    memset(longer, 'x', sizeof longer - 1);
    longer[0] = '/';
    longer[sizeof longer - 1] = 0;
    setenv("NOTIFY_SOCKET", longer, 1);
    ofr_service_notify("READY=1");
    unsetenv("NOTIFY_SOCKET");
    ofr_service_notify("READY=1");
    assert_int_equal(recv(fd, text, sizeof text, MSG_DONTWAIT), -1);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sockets_that_are_inherited),
        cmocka_unit_test(readiness_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
