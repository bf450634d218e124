/* Control messages: one JSON object per message of a Unix SOCK_SEQPACKET socket, at most 64 KiB.
 * The same framing is used between clients and the executive, and between it and its workers.
 *
 * Requests of a client, the first one being hello:
 *     {"op":"hello","version":1,"program":"supervisor"}
 *     {"op":"status"} {"op":"attach","plan":TEXT} {"op":"detach"} {"op":"stop"}
 * Each is answered by {"op":<same>,"ok":true,...} or {"op":<same>,"ok":false,"code":<OFR_E name>,
 * "text":...}. The answer to attach comes when the workers of the plan (absent: "auto") are ready;
 * it carries the descriptors of the session segment and of the slot ledger. Events for the attached
 * client, the notice also for one that is attaching:
 *     {"event":"notice","device":...,"text":...}    the device is refused, the plan goes without it
 *     {"event":"worker_down","generation":N,"text":...}
 *     {"event":"worker_up",...}                     as the answer to attach, after a worker_down
 *     {"event":"worker_failed","text":...}          no device is left
 *     {"event":"condition","device":...,"text":...} a device, or the machine, throttles or is well
 *     {"event":"stopping"}                          the executive ends after this answer
 * documentation/shared_memory.md has all fields. */
#ifndef OFR_EXECUTIVE_SHARD_CONTROL_H
#define OFR_EXECUTIVE_SHARD_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/status.h"

enum {
    OFR_CONTROL_VERSION = 1,
    OFR_CONTROL_MESSAGE_MAX = 64 * 1024,
    OFR_CONTROL_DESCRIPTORS_MAX = 4,
    OFR_CONTROL_PROGRAM_SIZE = 64,
    OFR_CONTROL_PLAN_SIZE = 512,
    OFR_CONTROL_NESTING_MAX = 16,
};

#define OFR_CONTROL_SOCKET "executive.sock"

enum ofr_control_operation {
    OFR_CONTROL_OPERATION_HELLO,
    OFR_CONTROL_OPERATION_STATUS,
    OFR_CONTROL_OPERATION_ATTACH,
    OFR_CONTROL_OPERATION_DETACH,
    OFR_CONTROL_OPERATION_STOP,
};

typedef struct ofr_control_request {
    enum ofr_control_operation operation;
    uint32_t version;                       /* hello */
    char program[OFR_CONTROL_PROGRAM_SIZE]; /* hello; printable ASCII */
    char plan[OFR_CONTROL_PLAN_SIZE];       /* attach; "auto" where absent */
} ofr_control_request;

/* Parses a client's request; anything else than a known operation with well-formed fields is
 * OFR_EPROTOCOL or OFR_EVERSION. */
int ofr_control_request_parse(const void *data, size_t size, ofr_control_request *ret_request,
                              ofr_error *err);
const char *ofr_control_operation_name(enum ofr_control_operation operation);

/* Any message as a JSON object; bounded in size and nesting. *ret_object is the caller's. */
int ofr_control_parse(const void *data, size_t size, json_t **ret_object, ofr_error *err);

/* Fields of a message: OFR_EPROTOCOL where absent, of another type or out of range. */
int ofr_control_get_u64(const json_t *object, const char *key, uint64_t maximum,
                        uint64_t *ret_value, ofr_error *err);
int ofr_control_get_u32(const json_t *object, const char *key, uint32_t *ret_value, ofr_error *err);
/* Copies; a text that does not fit is cut. */
int ofr_control_get_text(const json_t *object, const char *key, char *ret_text, size_t size,
                         ofr_error *err);
/* The code that stands for a short status name ("busy"); OFR_EIO for an unknown one. */
int ofr_control_code_parse(const char *name);
/* {"op":name,"ok":false,"code":...,"text":...}; NULL without memory. */
json_t *ofr_control_error_new(const char *operation, int code, const char *text);

/* Sends one message with up to OFR_CONTROL_DESCRIPTORS_MAX descriptors, which stay the caller's.
 * OFR_EAGAIN: the peer does not read (only where `wait` is false); OFR_EGONE: no peer. */
int ofr_control_send(int fd, const json_t *object, const int *descriptors, size_t n_descriptors,
                     bool wait, ofr_error *err);

/* Receives one message into `data` (OFR_CONTROL_MESSAGE_MAX bytes). Descriptors that came with it
 * become the caller's, close-on-exec. OFR_EGONE: end of the connection; OFR_EAGAIN: nothing there
 * (only where `wait` is false); OFR_EPROTOCOL: too long, or too many descriptors (all are closed).
 */
int ofr_control_receive(int fd, void *data, bool wait, size_t *ret_size,
                        int ret_descriptors[OFR_CONTROL_DESCRIPTORS_MAX], size_t *ret_n_descriptors,
                        ofr_error *err);

/* Connects to the socket of the instance whose runtime directory is open; refuses a server of
 * another user. OFR_ENOENT: nobody listens. *ret_pid is the server's. */
int ofr_control_connect(int directory_fd, int *ret_fd, pid_t *ret_pid, ofr_error *err);

/* Sends a request and waits for its answer, on a connection without events. An answer with
 * "ok":false becomes the error it names. *ret_answer (may be NULL) is the caller's. */
int ofr_control_call(int fd, const json_t *request, json_t **ret_answer, ofr_error *err);
/* An answer with "ok":false as an error; 0 for one with "ok":true. */
int ofr_control_answer_check(const json_t *answer, ofr_error *err);

#endif
