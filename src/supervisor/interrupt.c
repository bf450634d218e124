/* Ctrl-C: the signal flag. */
#include "supervisor/interrupt.h"

#include <stddef.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

void ofr_interrupt_catch(bool once)
{
    struct sigaction action = {.sa_handler = on_interrupt};
    action.sa_flags = SA_RESTART | (once ? (int)SA_RESETHAND : 0);
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

void ofr_interrupt_release(void)
{
    signal(SIGINT, SIG_DFL);
}

const volatile sig_atomic_t *ofr_interrupt_flag(void)
{
    return &interrupted;
}

void ofr_interrupt_clear(void)
{
    interrupted = 0;
}
