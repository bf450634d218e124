/* Futex waits on words in shared memory: the two system calls, nothing else. */
#include "base/futex.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/status.h"

int ofr_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
    struct timespec timeout = {
        .tv_sec = (time_t)(timeout_ns / 1000000000u),
        .tv_nsec = (long)(timeout_ns % 1000000000u),
    };
    /* Not FUTEX_PRIVATE_FLAG: the other side is another process. */
    long r = syscall(SYS_futex, word, FUTEX_WAIT, expected,
                     timeout_ns == UINT64_MAX ? NULL : &timeout, NULL, 0);
    if (r < 0 && errno == ETIMEDOUT)
        return OFR_ETIMEDOUT;
    return 0;
}

void ofr_futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
