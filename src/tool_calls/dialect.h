/* What the files of tool_calls share. Nothing outside includes this. */
#ifndef OFR_TOOL_CALLS_DIALECT_H
#define OFR_TOOL_CALLS_DIALECT_H

#include "tool_calls/tool_calls.h"

enum { OFR_TOOLS_MAX = 256 };

/* U+FF5C and U+2581 in DeepSeek's markers. */
#define OFR_DEEPSEEK_BAR   "\xEF\xBD\x9C"
#define OFR_DEEPSEEK_SPACE "\xE2\x96\x81"
#define OFR_DEEPSEEK_MARK(text)                                                                    \
    "<" OFR_DEEPSEEK_BAR "tool" OFR_DEEPSEEK_SPACE text OFR_DEEPSEEK_BAR ">"
#define OFR_DEEPSEEK_CALLS_BEGIN OFR_DEEPSEEK_MARK("calls" OFR_DEEPSEEK_SPACE "begin")
#define OFR_DEEPSEEK_CALL_BEGIN  OFR_DEEPSEEK_MARK("call" OFR_DEEPSEEK_SPACE "begin")
#define OFR_DEEPSEEK_SEP         OFR_DEEPSEEK_MARK("sep")
#define OFR_DEEPSEEK_CALL_END    OFR_DEEPSEEK_MARK("call" OFR_DEEPSEEK_SPACE "end")
#define OFR_DEEPSEEK_CALLS_END   OFR_DEEPSEEK_MARK("calls" OFR_DEEPSEEK_SPACE "end")

/* NULL if the tool has none. */
const char *ofr_tool_name(const json_t *tool);

#endif
