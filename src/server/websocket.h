/* A WebSocket's messages. The event thread brings those of the client and writes out the others; one thread of the connection's own, a worker, waits
 * for what comes and answers. Text messages alone. */
#ifndef OMNI_SERVER_WEBSOCKET_H
#define OMNI_SERVER_WEBSOCKET_H

#include "server/exchange.h"
#include "server/text.h"

enum {
    WEBSOCKET_MOST = 256,             /* connections at once; each has a thread */
    WEBSOCKET_IN_HELD = 1 << 20,      /* bytes that wait to be read before no more are taken from the client */
    WEBSOCKET_OUT_HELD = 256 << 10,   /* bytes that wait for the client before answers wait, */
    WEBSOCKET_OUT_FULL = 4 << 20,     /* and before its messages do as well */
    WEBSOCKET_MESSAGE_MOST = 20 << 20 /* bytes of one message */
};

typedef struct websocket_message {
    struct websocket_message *next;
    size_t size;
    char *text; /* size bytes and a zero byte, in the same allocation */
} websocket_message;

typedef struct websocket_queue {
    websocket_message *first, *last;
    size_t bytes; /* of memory */
} websocket_queue;

/* Guarded by the exchange's lock, but for what is said to be the event thread's. */
typedef struct websocket {
    websocket_queue in, out; /* what out holds is in server.body_bytes */
    bytes partial;           /* event thread: of a message that is not whole yet */
    bool paused;             /* event thread: nothing is taken from the client */
    bool woken;
    size_t received; /* bytes of the client that wait to be read, the partial message's, too; they are in server.body_bytes */
    int close_code;  /* not 0: once everything is written the connection is closed with it */
    char close_reason[120];
    bool beta, transcribes; /* of the request: OpenAI-Beta: realtime=v1; ?intent=transcription. Constant */
} websocket;

/* NULL: no memory. */
websocket *websocket_create(void);
void websocket_free(websocket *w); /* NULL: nothing */

/* ---- for the connection's thread ---- */

/* The next message, the caller's to free(); NULL when websocket_wake was called, the connection is gone, the server is shutting down or the time is
 * up. */
websocket_message *websocket_wait(exchange *x, double seconds);
/* Waits for websocket_wake, or until the time is up or the connection is gone. */
void websocket_pause(exchange *x, double seconds);
/* Sends a text, in order, never waiting. Without memory, or where the server holds as much of its clients as it may, the connection is closed: a
 * client must not miss a message without noticing. */
void websocket_send(exchange *x, const char *text, size_t size);
/* Whether answers may go on: not too much waits for the client. websocket_wait returns when it has become so. */
bool websocket_has_room(exchange *x);
/* Closes the connection once everything is written. reason: at most 119 bytes of it are told. */
void websocket_close(exchange *x, int code, const char *reason);
/* From any thread: websocket_wait returns. x is an exchange. */
void websocket_wake(void *x);

/* ---- for the event thread ---- */

/* A piece of a message. Returns 0, or the code to close with. */
int websocket_receive(exchange *x, const void *data, size_t size, bool last);
/* What to write next, the caller's to free(); NULL: nothing now. *room: the client may be read again. */
websocket_message *websocket_take_out(exchange *x, bool *room);

/* LWS_PRE bytes lie before text in memory, as libwebsockets wants them. */
enum { WEBSOCKET_HEAD = 32 };

#endif
