/* The files of src/calibration/text as read-only data of the program. */
#include "calibration/default_text.h"

/* OFR_CALIBRATION_TEXT_DIR comes from the build, which knows the files as dependencies. */
#define INCLUDE_TEXT(symbol, file)                                                                 \
    __asm__(".pushsection .rodata\n"                                                               \
            ".global ofr_text_" #symbol "\n"                                                       \
            ".global ofr_text_" #symbol "_end\n"                                                   \
            "ofr_text_" #symbol ":\n"                                                              \
            ".incbin \"" OFR_CALIBRATION_TEXT_DIR "/" file "\"\n"                                  \
            "ofr_text_" #symbol "_end:\n"                                                          \
            ".popsection\n");                                                                      \
    extern const char ofr_text_##symbol[], ofr_text_##symbol##_end[]

INCLUDE_TEXT(prose, "prose.txt");
INCLUDE_TEXT(manual, "manual.txt");
INCLUDE_TEXT(code, "code.txt");
INCLUDE_TEXT(dialogue, "dialogue.txt");
INCLUDE_TEXT(held_out_prose, "held_out_prose.txt");
INCLUDE_TEXT(held_out_manual, "held_out_manual.txt");
INCLUDE_TEXT(held_out_code, "held_out_code.txt");
INCLUDE_TEXT(held_out_dialogue, "held_out_dialogue.txt");

ofr_default_text ofr_default_text_at(size_t index)
{
    const struct {
        const char *kind, *begin, *end;
        bool held_out;
    } table[OFR_DEFAULT_TEXTS] = {
        {"prose", ofr_text_prose, ofr_text_prose_end, false},
        {"manual", ofr_text_manual, ofr_text_manual_end, false},
        {"code", ofr_text_code, ofr_text_code_end, false},
        {"dialogue", ofr_text_dialogue, ofr_text_dialogue_end, false},
        {"prose", ofr_text_held_out_prose, ofr_text_held_out_prose_end, true},
        {"manual", ofr_text_held_out_manual, ofr_text_held_out_manual_end, true},
        {"code", ofr_text_held_out_code, ofr_text_held_out_code_end, true},
        {"dialogue", ofr_text_held_out_dialogue, ofr_text_held_out_dialogue_end, true},
    };
    return (ofr_default_text){table[index].kind, table[index].begin,
                              (size_t)(table[index].end - table[index].begin),
                              table[index].held_out};
}
