/* A mapped file that is cut short while in use. */
#ifndef OMNI_CLI_LOST_FILE_H
#define OMNI_CLI_LOST_FILE_H

/* From now on, a fault in a file's mapping ends the program with a message that names the file, and exit status 1. */
void report_lost_files(void);

#endif
