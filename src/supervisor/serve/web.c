/* The files of the web page, put into the program by the assembler. */
#include "supervisor/serve/web.h"

#include <string.h>

#define EMBED(symbol, file)                                                                        \
    __asm__(".pushsection .rodata\n"                                                               \
            ".balign 16\n"                                                                         \
            ".global " #symbol "_begin\n" #symbol "_begin:\n"                                      \
            ".incbin \"" OFR_WEB_DIR "/" file "\"\n"                                               \
            ".global " #symbol "_end\n" #symbol "_end:\n"                                          \
            ".popsection\n");                                                                      \
    extern const unsigned char symbol##_begin[] __attribute__((visibility("hidden")));             \
    extern const unsigned char symbol##_end[] __attribute__((visibility("hidden")))

EMBED(ofr_web_index, "index.html");
EMBED(ofr_web_style, "style.css");
EMBED(ofr_web_app, "app.js");
EMBED(ofr_web_markdown, "markdown.js");

static const struct {
    ofr_web_asset asset; /* without its size: the assembler knows it, the compiler does not */
    const unsigned char *end;
} files[] = {
    {{"/", "text/html; charset=utf-8", ofr_web_index_begin, 0}, ofr_web_index_end},
    {{"/style.css", "text/css; charset=utf-8", ofr_web_style_begin, 0}, ofr_web_style_end},
    {{"/app.js", "text/javascript; charset=utf-8", ofr_web_app_begin, 0}, ofr_web_app_end},
    {{"/markdown.js", "text/javascript; charset=utf-8", ofr_web_markdown_begin, 0},
     ofr_web_markdown_end},
};

bool ofr_web_find(const char *path, ofr_web_asset *ret_asset)
{
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        if (strcmp(files[i].asset.path, path) == 0) {
            *ret_asset = files[i].asset;
            ret_asset->size = (size_t)(files[i].end - files[i].asset.data);
            return true;
        }
    }
    return false;
}
