/* test_file.c on a file system without files that have no name: opening one is made to fail, and output lies beside under a new name. */
#define _GNU_SOURCE
#include <fcntl.h>
#undef O_TMPFILE
#define O_TMPFILE (O_DIRECTORY | O_CREAT) /* no folder can be opened so */
#include "base/file_out.c"
#define NAMED 1
#include "test_file.c"
