/* JSON as text the way Python's json.dumps(ensure_ascii=False) writes it, which is what the reference's template inserts: ", " and ": "
 * between items, keys in their order, the shortest digits that give a number back. */
#ifndef OMNI_TEXT_JSON_TEXT_H
#define OMNI_TEXT_JSON_TEXT_H

#include <jansson.h>

/* The caller frees it; NULL when out of memory. */
char *json_text(const json_t *value);

#endif
