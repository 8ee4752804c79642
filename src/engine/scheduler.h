/* The engine: requests in, one step after the other. */
#ifndef OMNI_ENGINE_SCHEDULER_H
#define OMNI_ENGINE_SCHEDULER_H

#include <pthread.h>
#include <semaphore.h>

#include "engine/decoder_runner.h"
#include "engine/request.h"

/* A list of requests, the oldest first. */
typedef struct request_list {
    omni_request *oldest, *newest;
    int count;
} request_list;

void request_list_add(request_list *l, omni_request *r);
void request_list_remove(request_list *l, omni_request *r);

struct omni_engine {
    omni_model *model;
    omni_engine_params params; /* zeros replaced */

    /* Shared with the threads that submit. */
    pthread_mutex_t lock;
    request_list submitted; /* not seen by a step yet */
    int accepted;           /* requests that have not ended, in whatever list */
    bool closing;
    int speaking; /* calls of omni_speak that have not returned */
    omni_engine_counters counters;
    sem_t wake; /* posted when there may be something to do; safe in signal handlers */
    pthread_t thread;
    _Atomic bool threaded;
    _Atomic bool speak_cancelled; /* by omni_speak_cancel, and no call has met it yet or not all that run have returned */

    /* The step's; whoever steps holds the model (computing). */
    request_list waiting, running;
    kv_pool *pool;
    prefix_cache *prefixes;
    decoder_runner *runner;
    float *hidden;           /* [slots of the pool, width] accepted hidden states, which the talker reads; NULL without a talker */
    runner_input *inputs;    /* [parallel] */
    omni_request **stepping; /* [parallel] whose inputs those are */
    decoder_row *rows;       /* [batch + parallel] */
    sample_row *samples;     /* [parallel] */
    int32_t *sampled;        /* in the backend's memory: [n] of a step's n tokens, and behind them the sample_logprobs of those that want them */
    int32_t *ids;            /* the same in the host's */
    int32_t *found;          /* [blocks of a context + 1] */
    float *row;              /* [max(vocab, width)] for traces; NULL until there is one */
    speech *speech;          /* NULL until the first one speaks */
    double seconds_a_row;    /* of a prompt, as measured; 0: not yet */
    double credit;           /* seconds that prompts may take, saved up since they last got rows */
    double media_credit;     /* seconds that encoders may take; below 0 after a unit that took longer */
};

/* engine/step.c */

/* Everything that can be done now, once. Returns false when there is nothing to do before something is submitted, cancelled or read. */
bool engine_step(omni_engine *e);

/* engine/admission.c */

/* Gives the oldest waiting requests slots and cache blocks while there are any. */
void engine_admit(omni_engine *e);
/* Blocks for n more rows of r, at others' cost if need be: of the requests that run the youngest gives its own back, to be computed again later.
 * False: r itself had to. */
bool engine_make_room(omni_engine *e, omni_request *r, int64_t rows);
/* Gives r's blocks back, full ones to the prefix cache. */
void engine_release_blocks(omni_engine *e, omni_request *r);
/* r has ended: status OMNI_OK, OMNI_CANCELLED or an error. */
void engine_finish(omni_engine *e, omni_request *r, omni_status status, const omni_error *err);

/* Who runs and what they hold, for omni_engine_count, which must not wait for a step. With e->lock held. */
void engine_count_running(omni_engine *e);

/* engine/pass.c */

/* One pass of the thinker: the next rows of every request that has some, and a token for those whose rows are complete. False: there were none.
 * whole: nobody else can do anything, so prompts may take what they want. */
bool engine_pass(omni_engine *e, bool whole);
/* Seconds of this step that prompts may take, and as many that encoders may: little when a listener is about to run out of sound. INFINITY: nobody
 * else waits. */
double engine_spare_seconds(omni_engine *e);

#endif
