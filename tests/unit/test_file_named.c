/* test_file.c on a file system without files that have no name or several: opening one is made to fail, and output lies beside under a new name. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#undef O_TMPFILE
#define O_TMPFILE (O_DIRECTORY | O_CREAT) /* no folder can be opened so */
static int no_link(void) {
    errno = EPERM;
    return -1;
}
#define linkat(...) no_link()
#include "base/file_out.c"
#define NAMED 1
#include "test_file.c"
