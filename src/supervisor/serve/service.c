/* The plan that is shown: written by the batch's thread, read by the handlers. */
#include "supervisor/serve/service.h"

#include <stdio.h>
#include <string.h>

void ofr_service_set_plan(ofr_service_plan *plan, const ofr_client_info *info)
{
    pthread_mutex_lock(&plan->lock);
    ofr_plan_shown *shown = &plan->shown;
    if (shown->plan[0] && strcmp(shown->plan, info->plan) != 0)
        shown->changes++;
    snprintf(shown->plan, sizeof shown->plan, "%s", info->plan);
    snprintf(shown->device, sizeof shown->device, "%s", info->device);
    pthread_mutex_unlock(&plan->lock);
}

void ofr_service_get_plan(ofr_service_plan *plan, ofr_plan_shown *ret_shown)
{
    pthread_mutex_lock(&plan->lock);
    *ret_shown = plan->shown;
    pthread_mutex_unlock(&plan->lock);
}
