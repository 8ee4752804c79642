/* Which tokens of an answer are spoken. Tokens come in as they are sampled, with the text that each adds; verdicts on that text (text/answer.h)
 * come later and byte by byte; out come the ids for the talker, in order.
 *
 * Tokens are judged in groups that end where a character does. A group whose text is spoken as a whole comes out as it is, one whose text is
 * withheld not at all. Of a group in which something is withheld (a stop string began inside a token) the spoken text comes out, encoded anew:
 * so what is heard is what is shown. */
#ifndef OMNI_TEXT_SPOKEN_TOKENS_H
#define OMNI_TEXT_SPOKEN_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "text/tokenizer.h"

typedef struct spoken_tokens spoken_tokens;

/* t must outlive it. */
omni_status spoken_create(const tokenizer *t, spoken_tokens **out, omni_error *err);
void spoken_destroy(spoken_tokens *s); /* NULL is fine */

/* A token that adds size bytes of whole characters to the text; whole: it leaves no unfinished character behind. */
omni_status spoken_add(spoken_tokens *s, int32_t id, const char *text, size_t size, bool whole, omni_error *err);
/* Text that the end adds to the last token: U+FFFD for a character that it left unfinished. */
omni_status spoken_add_rest(spoken_tokens *s, const char *text, size_t size, omni_error *err);
/* The verdict on the next size bytes of the text. */
void spoken_judge(spoken_tokens *s, size_t size, bool spoken);
/* The last token is not spoken, whatever its text: it has not been taken out yet. */
void spoken_leave_out_last(spoken_tokens *s);
/* Appends to *out the ids of all groups on which there is a verdict. last: nothing comes any more, and what has no verdict is not spoken. */
omni_status spoken_take(spoken_tokens *s, bool last, token_list *out, omni_error *err);

#endif
