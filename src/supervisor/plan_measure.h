/* Measures what the devices of this machine do with a package, through the executive: prefill at
 * several lengths, decode at several depths, the handoff from one device to another. */
#ifndef OFR_SUPERVISOR_PLAN_MEASURE_H
#define OFR_SUPERVISOR_PLAN_MEASURE_H

#include "engine/planner.h"
#include "supervisor/engine_session.h"

typedef struct ofr_plan_measure_options {
    const ofr_engine_session *session; /* opened; package and tokenizer are used */
    const ofr_common_options *common;
    double seconds; /* for all devices together; one that opens slowly may need more */
} ofr_plan_measure_options;

typedef struct ofr_plan_measure_result {
    double seconds;    /* what it took */
    pid_t started;     /* the executive that was started for it; 0: one was there */
    char instance[64]; /* its name */
} ofr_plan_measure_result;

/* Fills in the times of input->devices, whose names and kinds are known; one that has a `failure`
 * already is left out. A device that cannot be opened or measured gets its `failure`; the first
 * one, the CPU, must not fail. Tells on stderr what happens. OFR_ECANCELED after Ctrl-C, OFR_EBUSY
 * where another program holds the executive. */
int ofr_plan_measure_devices(const ofr_plan_measure_options *options, ofr_planner_input *input,
                             ofr_plan_measure_result *ret_result, ofr_error *err);

/* Runs a plan that hands over from one device to another and measures what that costs: sets hop_us
 * (and copy_gb_s of a device with memory of its own) of the decoding device. */
int ofr_plan_measure_handoff(const ofr_plan_measure_options *options, const char *prefill,
                             const char *decode, ofr_planner_input *input, ofr_error *err);

#endif
