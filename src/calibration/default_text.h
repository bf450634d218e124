/* The text that models are calibrated on by default, inside the program: prose, manuals, code and
 * dialogue written for this project (src/calibration/text), and another text of the same kinds that
 * only the loss is measured on. */
#ifndef OFR_CALIBRATION_DEFAULT_TEXT_H
#define OFR_CALIBRATION_DEFAULT_TEXT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ofr_default_text {
    const char *kind; /* "prose", "manual", "code", "dialogue" */
    const char *text; /* UTF-8, not NUL-terminated */
    size_t size;
    bool held_out;
} ofr_default_text;

enum { OFR_DEFAULT_TEXTS = 8 };

/* index below OFR_DEFAULT_TEXTS; those to calibrate on first. */
ofr_default_text ofr_default_text_at(size_t index);

#endif
