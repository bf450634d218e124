/* supervisor: what people use. Chat, one-shot prompt, and the tools around them. */
#include "supervisor/commands.h"

int main(int argc, char **argv)
{
    return ofr_supervisor_main(argc, argv);
}
