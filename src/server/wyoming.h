/* Wyoming, the protocol that Home Assistant hears and speaks by: events over TCP (wyoming_frame.h), on a port of their own.
 *
 *   describe                                                          -> info
 *   ping                                                              -> pong
 *   transcribe, audio-start, audio-chunk ..., audio-stop              -> transcript-start, transcript-chunk ..., transcript, transcript-stop
 *   synthesize                                                        -> audio-start, audio-chunk ..., audio-stop
 *   synthesize-start, synthesize-chunk ..., synthesize, synthesize-stop -> the same, sentence by sentence, and synthesize-stopped
 *
 * Other events are dropped. What goes wrong is an error event, and the end of the connection, since clients wait for nothing else. The protocol knows
 * no keys: whoever reaches the port may ask.
 *
 * A thread a connection reads events and answers them, one after the other. One more thread accepts them and sees which clients leave: what they
 * asked for is cancelled. */
#ifndef OMNI_SERVER_WYOMING_H
#define OMNI_SERVER_WYOMING_H

#include "omni.h"

struct server;

typedef struct wyoming wyoming;

enum {
    WYOMING_CLIENTS = 64,       /* connections; more are closed at once, */
    WYOMING_OF_AN_ADDRESS = 32, /* and of one address, so that it cannot keep the others out */
};

/* Listens on the server's host and params.wyoming_port. *out is for wyoming_close. */
omni_status wyoming_open(struct server *s, wyoming **out, omni_error *err);
/* Tells the log where it listens. NULL is fine. */
void wyoming_announce(const wyoming *w);
/* Cuts whatever runs, and waits for its threads. NULL is fine. */
void wyoming_close(wyoming *w);

#endif
