/* Chat templates from arbitrary bytes: compiled, and rendered with a small conversation, they may
 * fail but not crash, leak or run without end. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "template/chat_template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief \\u00e9\"},"
    "{\"role\":\"user\",\"content\":\" Hi\\n\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"abcdef123\","
    "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,true]}}}]}],"
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"bos_token\":\"<s>\","
    "\"eos_token\":\"</s>\",\"add_generation_prompt\":true,\"n\":3,\"l\":[3,1,2]}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ofr_chat_template *tmpl = NULL;
    ofr_error err;
    if (size > 4096 ||
        ofr_chat_template_compile("fuzz", (const char *)data, size, &tmpl, &err) < 0) {
        return 0;
    }
    json_t *context = json_loads(conversation, 0, NULL);
    char *text = NULL;
    size_t text_size;
    if (context && ofr_chat_template_render(tmpl, context, 0, &text, &text_size, &err) == 0) {
        free(text);
    }
    json_decref(context);
    ofr_chat_template_free(tmpl);
    return 0;
}
