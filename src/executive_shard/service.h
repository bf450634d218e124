/* Living under a service manager (systemd's protocols, without its library): a listening socket
 * that is inherited, and telling when the service is ready or stops. */
#ifndef OFR_EXECUTIVE_SHARD_SERVICE_H
#define OFR_EXECUTIVE_SHARD_SERVICE_H

#include "base/status.h"

/* The socket that the service manager listens on for this process (LISTEN_PID, LISTEN_FDS), now
 * this process's and close-on-exec; -1 where there is none. OFR_EINVAL: there is one, but it is no
 * listening Unix SOCK_SEQPACKET socket. The variables are removed. */
int ofr_service_socket(int *ret_fd, ofr_error *err);

/* Sends "READY=1", "STOPPING=1" or "STATUS=..." to NOTIFY_SOCKET; nothing without one. */
void ofr_service_notify(const char *state);

#endif
