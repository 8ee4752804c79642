/* Media that requests name by http and https URLs, with --allow-fetch. Only public addresses are connected to (fetch_address.h): the check is on the
 * address of every socket, so names that resolve to others and redirects cannot lead elsewhere. */
#ifndef OMNI_SERVER_FETCH_H
#define OMNI_SERVER_FETCH_H

#include "server/internal.h"

/* Of one request: URLs, redirects of each, seconds for all, bytes of the heads of one. Of the server: downloads at once. */
enum { FETCH_URLS = 32, FETCH_REDIRECTS = 5, FETCH_SECONDS = 60, FETCH_HEADS = 256 << 10, FETCH_AT_ONCE = 16 };

/* Once before threads are started, and at the end; only with --allow-fetch. False: no memory. */
bool fetch_open(void);
void fetch_close(void);

/* Puts data: URLs in the place of the http and https URLs of a part of a message's content; others are left. Waits: for workers only; ends early when
 * the client goes away. Bytes count with the body for --max-body, and with all bodies until the exchange is freed or fetch_forget.
 * where: the part's name in errors, "messages[0].content[1]". False: an error has been answered. */
bool fetch_part(exchange *x, json_t *part, const char *where);
/* The same for the parts of messages of chat completions. */
bool fetch_messages(exchange *x, json_t *messages);
/* What was fetched is counted elsewhere from now on, or is gone; a new request of a session begins. */
void fetch_forget(exchange *x);

#endif
