/* Ctrl-C: a flag that the generation loop looks at.
 * Process-wide, like the signal itself; commands use it, libraries take a pointer to the flag. */
#ifndef OFR_SUPERVISOR_INTERRUPT_H
#define OFR_SUPERVISOR_INTERRUPT_H

#include <signal.h>
#include <stdbool.h>

/* From now on SIGINT sets the flag. With `once` a second SIGINT ends the process as usual. */
void ofr_interrupt_catch(bool once);
/* SIGINT ends the process again. */
void ofr_interrupt_release(void);
/* The flag: not 0 after a SIGINT. The pointer stays valid. */
const volatile sig_atomic_t *ofr_interrupt_flag(void);
void ofr_interrupt_clear(void);

#endif
