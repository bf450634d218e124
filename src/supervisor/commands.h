/* The commands of the program: argv[0] is the command's name; the return value is the exit code. */
#ifndef OFR_SUPERVISOR_COMMANDS_H
#define OFR_SUPERVISOR_COMMANDS_H

int ofr_command_chat(int argc, char **argv);
int ofr_command_run(int argc, char **argv);
int ofr_command_bench(int argc, char **argv);
int ofr_command_tokenize(int argc, char **argv);
int ofr_command_render(int argc, char **argv);
int ofr_command_score(int argc, char **argv);
int ofr_command_plan(int argc, char **argv);
int ofr_command_serve(int argc, char **argv);

/* Chooses the command from the program's whole command line; without one it is chat. */
int ofr_supervisor_main(int argc, char **argv);

#endif
