/* Futex waits on 32-bit words that may lie in memory shared between processes (futex(2)). */
#ifndef OFR_BASE_FUTEX_H
#define OFR_BASE_FUTEX_H

#include <stdatomic.h>
#include <stdint.h>

/* Sleeps while *word == expected. Returns 0 after a wake-up, a changed word or a signal (the caller
 * looks again), OFR_ETIMEDOUT after timeout_ns; UINT64_MAX waits without a limit. */
int ofr_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);

/* Wakes every process and thread that sleeps on the word. */
void ofr_futex_wake(_Atomic uint32_t *word);

#endif
