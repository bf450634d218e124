/* The plan that "auto" stands for: the figures of this machine, measured once and kept, and the
 * planner's decision from them under the present conditions. documentation/plan.md. */
#ifndef OFR_SUPERVISOR_PLAN_AUTO_H
#define OFR_SUPERVISOR_PLAN_AUTO_H

#include <stdbool.h>

#include "engine/planner_figures.h"
#include "supervisor/engine_session.h"

enum { OFR_PLAN_SECONDS = 20 };

typedef struct ofr_plan_auto {
    ofr_planner_figures figures;
    ofr_planner_decision *decision; /* owned; NULL: nothing was measured, the CPU is alone */
    char plan[OFR_PLAN_TEXT_MAX];
    char reason[OFR_PLANNER_TEXT_MAX];
    char path[1024]; /* where the figures are kept; "": nowhere */
    bool measured_now;
    pid_t started;     /* the executive that was started for measuring; 0: none was */
    char instance[64]; /* its name */
} ofr_plan_auto;

/* Figures of the machine: those that were saved for these devices, drivers and package, or, with
 * `seconds` to measure for or where there are none, newly measured (see plan_measure.h: an
 * executive is started, progress is told on stderr) and saved in the package, or in the state
 * directory where that is read-only. A machine with the CPU alone is only measured when asked. Then
 * decides, with devices that the running executive calls throttled, out of memory or quarantined
 * counted as such. `session` is opened, not connected. Call it while the process has one thread:
 * children are forked to list the devices. */
int ofr_plan_auto_open(const ofr_engine_session *session, const ofr_common_options *common,
                       double seconds, ofr_plan_auto *ret_plan, ofr_error *err);
/* The same from saved figures only; OFR_ENOENT: there are none. For a process at work. */
int ofr_plan_auto_again(const ofr_engine_session *session, const ofr_common_options *common,
                        ofr_plan_auto *ret_plan, ofr_error *err);
/* Accepts a zeroed object. */
void ofr_plan_auto_done(ofr_plan_auto *plan);

/* What to ask the executive for: --plan, with the phases that it leaves open filled in; "auto" is
 * what a running executive was started with (its own --plan), or as above. With `end_started` an
 * executive that was started for measuring is ended again: the caller starts one with more options
 * than `common` has. */
int ofr_plan_auto_text(const ofr_engine_session *session, const ofr_common_options *common,
                       bool end_started, char ret_text[OFR_PLAN_TEXT_MAX], ofr_error *err);

#endif
