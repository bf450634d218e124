/* Control messages: parsing, and sending and receiving them with descriptors. */
#include "executive_shard/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char *const operation_names[] = {
    [OFR_CONTROL_OPERATION_HELLO] = "hello",   [OFR_CONTROL_OPERATION_STATUS] = "status",
    [OFR_CONTROL_OPERATION_ATTACH] = "attach", [OFR_CONTROL_OPERATION_DETACH] = "detach",
    [OFR_CONTROL_OPERATION_STOP] = "stop",
};
enum { OPERATIONS = sizeof operation_names / sizeof operation_names[0] };

const char *ofr_control_operation_name(enum ofr_control_operation operation)
{
    return operation_names[operation];
}

/* jansson itself bounds the depth of nesting (JSON_PARSER_MAX_DEPTH); the size is bounded here. */
int ofr_control_parse(const void *data, size_t size, json_t **ret_object, ofr_error *err)
{
    if (size > OFR_CONTROL_MESSAGE_MAX)
        return ofr_fail(err, OFR_EPROTOCOL, "a control message of %zu bytes is too long", size);
    json_error_t why;
    json_t *object = json_loadb(data, size, JSON_REJECT_DUPLICATES, &why);
    if (!object)
        return ofr_fail(err, OFR_EPROTOCOL, "a control message is not JSON: %s", why.text);
    if (!json_is_object(object)) {
        json_decref(object);
        return ofr_fail(err, OFR_EPROTOCOL, "a control message is not a JSON object");
    }
    *ret_object = object;
    return 0;
}

int ofr_control_get_u64(const json_t *object, const char *key, uint64_t maximum,
                        uint64_t *ret_value, ofr_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uint64_t)json_integer_value(value) > maximum)
        return ofr_fail(err, OFR_EPROTOCOL, "control message: '%s' is absent or out of range", key);
    *ret_value = (uint64_t)json_integer_value(value);
    return 0;
}

int ofr_control_get_u32(const json_t *object, const char *key, uint32_t *ret_value, ofr_error *err)
{
    uint64_t value = 0;
    int r = ofr_control_get_u64(object, key, UINT32_MAX, &value, err);
    if (r == 0)
        *ret_value = (uint32_t)value;
    return r;
}

int ofr_control_get_text(const json_t *object, const char *key, char *ret_text, size_t size,
                         ofr_error *err)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (!text)
        return ofr_fail(err, OFR_EPROTOCOL, "control message: '%s' is no text", key);
    size_t length = strnlen(text, size - 1);
    memcpy(ret_text, text, length);
    ret_text[length] = 0;
    return 0;
}

int ofr_control_code_parse(const char *name)
{
    static const int codes[] = {
#define CODE(symbol, value, short_name, message) symbol,
        OFR_STATUS_TABLE(CODE)
#undef CODE
    };
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i] < 0 && strcmp(name, ofr_status_name(codes[i])) == 0)
            return codes[i];
    return OFR_EIO;
}

json_t *ofr_control_error_new(const char *operation, int code, const char *text)
{
    return json_pack("{s:s, s:b, s:s, s:s%}", "op", operation, "ok", 0, "code",
                     ofr_status_name(code), "text", text, strlen(text));
}

int ofr_control_request_parse(const void *data, size_t size, ofr_control_request *ret_request,
                              ofr_error *err)
{
    json_t *object = NULL;
    int r = ofr_control_parse(data, size, &object, err);
    if (r < 0)
        return r;
    ofr_control_request request = {0};
    char name[16];
    r = ofr_control_get_text(object, "op", name, sizeof name, err);
    int operation = 0;
    while (r == 0 && operation < OPERATIONS && strcmp(name, operation_names[operation]) != 0)
        operation++;
    if (r == 0 && operation == OPERATIONS)
        r = ofr_fail(err, OFR_EPROTOCOL, "unknown operation '%s'", name);
    request.operation = (enum ofr_control_operation)operation;
    if (r == 0 && operation == OFR_CONTROL_OPERATION_HELLO) {
        r = ofr_control_get_u32(object, "version", &request.version, err);
        if (r == 0 && request.version != OFR_CONTROL_VERSION)
            r = ofr_fail(err, OFR_EVERSION,
                         "control version %u, this executive speaks %d: use programs of one build",
                         request.version, OFR_CONTROL_VERSION);
        if (r == 0)
            r = ofr_control_get_text(object, "program", request.program, sizeof request.program,
                                     err);
        for (char *c = request.program; *c; c++)
            if (*c < 0x20 || *c > 0x7e)
                *c = '?';
    }
    if (r == 0 && operation == OFR_CONTROL_OPERATION_ATTACH) {
        const json_t *plan = json_object_get(object, "plan");
        if (plan && (!json_is_string(plan) || json_string_length(plan) >= sizeof request.plan))
            r = ofr_fail(err, OFR_EPROTOCOL,
                         "control message: 'plan' is no text of up to %zu bytes",
                         sizeof request.plan - 1);
        if (r == 0 && plan)
            ofr_control_get_text(object, "plan", request.plan, sizeof request.plan, NULL);
        else
            strcpy(request.plan, "auto");
    }
    json_decref(object);
    if (r == 0)
        *ret_request = request;
    return r;
}

int ofr_control_send(int fd, const json_t *object, const int *descriptors, size_t n_descriptors,
                     bool wait, ofr_error *err)
{
    if (!object || n_descriptors > OFR_CONTROL_DESCRIPTORS_MAX)
        return ofr_fail(err, OFR_ENOMEM, "cannot build a control message");
    char *text = json_dumps(object, JSON_COMPACT);
    if (!text)
        return ofr_fail(err, OFR_ENOMEM, "cannot build a control message");
    struct iovec part = {text, strlen(text)};
    union {
        char bytes[CMSG_SPACE(sizeof(int) * OFR_CONTROL_DESCRIPTORS_MAX)];
        struct cmsghdr align;
    } buffer = {{0}};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (n_descriptors) {
        message.msg_control = buffer.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * n_descriptors);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * n_descriptors);
        memcpy(CMSG_DATA(header), descriptors, sizeof(int) * n_descriptors);
    }
    ssize_t sent;
    do
        sent = sendmsg(fd, &message, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
    while (sent < 0 && errno == EINTR);
    int r = 0;
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
        r = ofr_fail(err, OFR_EGONE, "the peer closed the control connection");
    else if (sent < 0)
        r = ofr_fail_errno(err, errno, "cannot send a control message");
    free(text);
    return r;
}

int ofr_control_receive(int fd, void *data, bool wait, size_t *ret_size,
                        int ret_descriptors[OFR_CONTROL_DESCRIPTORS_MAX], size_t *ret_n_descriptors,
                        ofr_error *err)
{
    struct iovec part = {data, OFR_CONTROL_MESSAGE_MAX};
    union {
        char bytes[CMSG_SPACE(sizeof(int) * OFR_CONTROL_DESCRIPTORS_MAX)];
        struct cmsghdr align;
    } buffer;
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = buffer.bytes,
                             .msg_controllen = sizeof buffer.bytes};
    ssize_t got;
    do
        got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno == ECONNRESET) /* it went with what we sent unread */
        return ofr_fail(err, OFR_EGONE, "the peer closed the control connection");
    if (got < 0)
        return ofr_fail_errno(err, errno, "cannot receive a control message");
    size_t count = 0;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&message); h; h = CMSG_NXTHDR(&message, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        size_t here = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < here; i++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(h) + i * sizeof(int), sizeof descriptor);
            if (count < OFR_CONTROL_DESCRIPTORS_MAX)
                ret_descriptors[count++] = descriptor;
            else
                close(descriptor);
        }
    }
    if (got == 0 || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        while (count)
            close(ret_descriptors[--count]);
        return got == 0 ? ofr_fail(err, OFR_EGONE, "the peer closed the control connection")
                        : ofr_fail(err, OFR_EPROTOCOL, "a control message is too long");
    }
    *ret_size = (size_t)got;
    *ret_n_descriptors = count;
    return 0;
}

int ofr_control_connect(int directory_fd, int *ret_fd, pid_t *ret_pid, ofr_error *err)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ofr_fail_errno(err, errno, "cannot make a socket");
    /* Through the descriptor, so that a long runtime path still fits sun_path. */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/" OFR_CONTROL_SOCKET,
             directory_fd);
    int r = 0;
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int why = errno;
        r = why == ENOENT || why == ECONNREFUSED
                ? ofr_fail(err, OFR_ENOENT, "no executive serves here")
                : ofr_fail_errno(err, why, "cannot connect to the executive");
    } else if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) {
        r = ofr_fail_errno(err, errno, "cannot ask who the executive is");
    } else if (peer.uid != geteuid()) {
        r = ofr_fail(err, OFR_EACCESS, "the executive runs as another user (%u)",
                     (unsigned)peer.uid);
    }
    if (r < 0) {
        close(fd);
        return r;
    }
    *ret_pid = peer.pid;
    *ret_fd = fd;
    return 0;
}

int ofr_control_answer_check(const json_t *answer, ofr_error *err)
{
    if (json_is_true(json_object_get(answer, "ok")))
        return 0;
    const char *code = json_string_value(json_object_get(answer, "code"));
    const char *text = json_string_value(json_object_get(answer, "text"));
    if (!code || !text)
        return ofr_fail(err, OFR_EPROTOCOL, "the executive answered without a result");
    return ofr_fail(err, ofr_control_code_parse(code), "%s", text);
}

int ofr_control_call(int fd, const json_t *request, json_t **ret_answer, ofr_error *err)
{
    int r = ofr_control_send(fd, request, NULL, 0, true, err);
    if (r < 0)
        return r;
    char *data = malloc(OFR_CONTROL_MESSAGE_MAX);
    if (!data)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a control message");
    size_t size = 0;
    size_t count = 0;
    int descriptors[OFR_CONTROL_DESCRIPTORS_MAX];
    json_t *answer = NULL;
    r = ofr_control_receive(fd, data, true, &size, descriptors, &count, err);
    while (r == 0 && count)
        close(descriptors[--count]);
    if (r == 0)
        r = ofr_control_parse(data, size, &answer, err);
    if (r == 0)
        r = ofr_control_answer_check(answer, err);
    free(data);
    if (r == 0 && ret_answer)
        *ret_answer = answer;
    else
        json_decref(answer);
    return r;
}
