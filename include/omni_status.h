/* Status codes and error text, shared by the public API and every module below it. */
#ifndef OMNI_STATUS_H
#define OMNI_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum omni_status {
    OMNI_OK = 0,
    OMNI_ERR_ARGUMENT = -1,    /* a value the caller gave cannot be used */
    OMNI_ERR_IO = -2,          /* the operating system refused a read, write or map */
    OMNI_ERR_FORMAT = -3,      /* a file's content is damaged or of another kind */
    OMNI_ERR_UNSUPPORTED = -4, /* well formed, but not something this program does */
    OMNI_ERR_MEMORY = -5,      /* an allocation failed */
    OMNI_ERR_LIMIT = -6,       /* over a stated limit (pixels, frames, seconds, context) */
    OMNI_CANCELLED = -7,       /* a callback or a call that cancels asked to stop */
    OMNI_ERR_BUSY = -8,        /* another call has not returned yet */
} omni_status;

/* What went wrong, where (file, tensor, field, offset) and what to do about it. A function that returns a status other
 * than OMNI_OK has filled the text; the caller owns the struct. NULL is accepted wherever an error is taken. */
typedef struct omni_error {
    omni_status code;
    char text[1000];
} omni_error;

#ifdef __cplusplus
}
#endif
#endif
