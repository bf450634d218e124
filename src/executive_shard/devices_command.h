/* The command `executive_shard devices`: discovery, printed. Needs no executive. */
#ifndef OFR_EXECUTIVE_SHARD_DEVICES_COMMAND_H
#define OFR_EXECUTIVE_SHARD_DEVICES_COMMAND_H

#include <stdbool.h>

/* root: the file system of the machine (NULL: "/"). Returns the exit code. */
int ofr_devices_command(const char *root, bool json);

#endif
