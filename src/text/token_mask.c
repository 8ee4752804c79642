#include "text/token_mask.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "text/grammar_states.h"

enum {
    STATES_ROOM = 32 << 20, /* bytes that the states of a grammar may take */
    MASKS_ROOM = 16 << 20,  /* and what was found for them */
    MOST_SPARSE = 1024,     /* tokens that are kept as a list, not as a mask */
    RECENT = 64,            /* masks of whole states that are kept */
    MOST_WORK = 40000000,   /* of grammar_states_work, for one mask: some tenths of a second */
};

/* What was found for a local set. */
typedef struct found {
    int32_t *tokens; /* [count], or */
    uint32_t *bits;  /* [words] */
    int32_t count;
    int32_t *exits; /* [exit_count] nodes in which its rule may end */
    int32_t exit_count;
} found;

typedef struct recent {
    int32_t state; /* 0: none */
    uint32_t *bits;
} recent;

struct token_grammar {
    grammar *g;
    const token_trie *trie;
    _Atomic int holders;
    pthread_mutex_t lock; /* over the rest */
    grammar_states *states;
    bool broken;      /* the states must be forgotten before they are used */
    uint64_t version; /* counts how often they were */
    found **found;    /* [found_room] of local set i under the empty stack 2 i, else 2 i + 1 */
    int32_t found_room;
    size_t used;
    recent recent[RECENT];
    uint64_t work_before, walked; /* when this mask was begun; nodes since then */
    const tokenizer *t;
    /* for a walk */
    int32_t path[TRIE_MOST_DEPTH + 1];
    int32_t *tokens, *exits; /* [trie->count + 1], [trie->nodes] */
    uint32_t *bits;          /* [words] */
};

/* ---- making one ---- */

typedef struct vocabulary {
    const tokenizer *t;
    const token_trie *trie;
} vocabulary;

static int32_t find_token(const void *arg, const char *name, size_t size) {
    const vocabulary *v = arg;
    char text[128];
    int32_t id = -1;
    if (size >= sizeof text) {
        return -1;
    }
    memcpy(text, name, size);
    text[size] = 0;
    if (size > 4 && text[1] == '[' && text[size - 2] == ']') {
        int64_t n = 0;
        for (size_t i = 2; i < size - 2 && n >= 0; i++) {
            n = text[i] >= '0' && text[i] <= '9' && n < 1 << 24 ? n * 10 + (text[i] - '0') : -1;
        }
        id = n < v->trie->vocabulary ? (int32_t)n : -1;
    } else {
        id = tokenizer_find(v->t, text);
    }
    return id >= 0 && id < v->trie->vocabulary && tokenizer_kind(v->t, id) == TOKEN_ADDED ? id : -1;
}

omni_status token_grammar_create(const char *text, size_t size, const tokenizer *t, const token_trie *trie, token_grammar **out, omni_error *err) {
    token_grammar *g = calloc(1, sizeof *g);
    *out = NULL;
    if (!g) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a grammar");
    }
    atomic_init(&g->holders, 1);
    pthread_mutex_init(&g->lock, NULL);
    g->trie = trie;
    g->t = t;
    omni_status status = grammar_parse(text, size, find_token, &(vocabulary){t, trie}, &g->g, err);
    if (status == OMNI_OK) {
        g->states = grammar_states_create(g->g, STATES_ROOM);
        g->tokens = malloc(((size_t)trie->count + 1) * sizeof *g->tokens);
        g->exits = malloc((size_t)trie->nodes * sizeof *g->exits);
        g->bits = malloc((trie->words + 1) * sizeof *g->bits);
        status = g->states && g->tokens && g->exits && g->bits ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for a grammar");
    }
    if (status != OMNI_OK) {
        token_grammar_drop(g);
        return status;
    }
    *out = g;
    return OMNI_OK;
}

token_grammar *token_grammar_hold(token_grammar *g) {
    atomic_fetch_add(&g->holders, 1);
    return g;
}

static void forget_masks(token_grammar *g) {
    for (int32_t i = 0; i < g->found_room; i++) {
        if (g->found[i]) {
            free(g->found[i]->tokens);
            free(g->found[i]->bits);
            free(g->found[i]->exits);
            free(g->found[i]);
        }
    }
    free(g->found);
    g->found = NULL;
    g->found_room = 0;
    for (int i = 0; i < RECENT; i++) {
        free(g->recent[i].bits);
        g->recent[i] = (recent){0};
    }
    g->used = 0;
}

void token_grammar_drop(token_grammar *g) {
    if (g && atomic_fetch_sub(&g->holders, 1) == 1) {
        forget_masks(g);
        grammar_states_free(g->states);
        grammar_free(g->g);
        free(g->tokens);
        free(g->exits);
        free(g->bits);
        pthread_mutex_destroy(&g->lock);
        free(g);
    }
}

/* ---- walks ---- */

/* Tokens in and below the children of node that the state allows, to g->tokens; nodes at which its stack was used up to g->exits. plain: tokens of
 * so many plain characters are left out. < 0: no state, grammar_states.h says why. */
static int walk(token_grammar *g, int32_t node, int32_t state, int plain, int32_t *count, int32_t *exit_count) {
    const token_trie *t = g->trie;
    const int32_t end = t->end[node], top = t->depth[node];
    int32_t n = node + 1, tokens = *count, exits = 0;
    g->path[top] = state;
    while (n < end) {
        if (t->plain[n] <= plain) {
            n = t->end[n];
            continue;
        }
        const int32_t depth = t->depth[n], to = grammar_states_step(g->states, g->path[depth - 1], t->byte[n]);
        if (to == GRAMMAR_DEAD) {
            n = t->end[n];
            continue;
        }
        if (to < 0) {
            return to;
        }
        g->path[depth] = to;
        for (int32_t i = t->first[n]; i < t->first[n + 1]; i++) {
            g->tokens[tokens++] = t->tokens[i];
        }
        if (exit_count && grammar_states_ends(g->states, to)) {
            g->exits[exits++] = n;
        }
        n++;
        if (grammar_states_work(g->states) - g->work_before + ++g->walked > MOST_WORK) {
            return GRAMMAR_TOO_WIDE;
        }
    }
    *count = tokens;
    if (exit_count) {
        *exit_count = exits;
    }
    return 0;
}

/* Local sets that are reached from one by any plain character. */
enum { MOST_REACHED = 8 };
typedef struct reached {
    int32_t local[MOST_REACHED];
    int count;
} reached;

static bool reach(reached *r, int32_t local) {
    for (int i = 0; i < r->count; i++) {
        if (r->local[i] == local) {
            return true;
        }
    }
    if (r->count == MOST_REACHED) {
        return false;
    }
    r->local[r->count++] = local;
    return true;
}

/* Adds what from reaches by the rest of a character: by every byte of low to high, then by left bytes 80 to BF. */
static bool reach_by(token_grammar *g, int32_t from, int low, int high, int left, reached *out) {
    const uint8_t *class_of = g->g->class_of;
    for (int b = low; b <= high; b++) {
        if (b > low && class_of[b] == class_of[b - 1]) {
            continue;
        }
        if (b == '"' || b == '\\') { /* alone in its class, or the grammar does not tell it from plain ones: no harm */
            continue;
        }
        const int32_t to = grammar_states_local_step(g->states, from, (uint8_t)b);
        if (to <= 0 || !(left > 0 ? reach_by(g, to, 0x80, 0xbf, left - 1, out) : reach(out, to))) {
            return false;
        }
    }
    return true;
}

/* Whether every plain character may follow, and leads to a few local sets alone. */
static bool reach_by_plain(token_grammar *g, int32_t from, reached *out) {
    static const struct {
        int first, last, low, high, left;
    } longer[] = {{0xc2, 0xdf, 0, 0, 1}, {0xe0, 0xe0, 0xa0, 0xbf, 1}, {0xe1, 0xec, 0, 0, 2}, {0xed, 0xed, 0x80, 0x9f, 1},
                  {0xee, 0xef, 0, 0, 2}, {0xf0, 0xf0, 0x90, 0xbf, 2}, {0xf1, 0xf3, 0, 0, 3}, {0xf4, 0xf4, 0x80, 0x8f, 2}};
    if (!reach_by(g, from, 0x20, 0x21, 0, out) || !reach_by(g, from, 0x23, 0x5b, 0, out) || !reach_by(g, from, 0x5d, 0x7e, 0, out)) {
        return false;
    }
    for (size_t i = 0; i < sizeof longer / sizeof *longer; i++) {
        if (longer[i].high == 0) {
            if (!reach_by(g, from, longer[i].first, longer[i].last, longer[i].left, out)) {
                return false;
            }
            continue;
        }
        const int32_t to = grammar_states_local_step(g->states, from, (uint8_t)longer[i].first);
        if (to <= 0 || !reach_by(g, to, longer[i].low, longer[i].high, longer[i].left, out)) {
            return false;
        }
    }
    return true;
}

/* Whether no plain character may follow. */
static bool refuses_plain(token_grammar *g, int32_t from) {
    for (int b = 0x20; b <= 0xf4; b++) {
        if (b != '"' && b != '\\' && b != 0x7f && grammar_states_local_step(g->states, from, (uint8_t)b) != 0) {
            return false;
        }
    }
    return true;
}

/* How many plain characters may follow in a local set whatever they are, without its rule ending where that matters (not under the empty stack):
 * *length. Returns the length up to which plain tokens need no walk: those that are longer are refused, or they are to be walked. */
static int plain_run(token_grammar *g, int32_t local, bool root, int *length) {
    reached at = {{local}, 1};
    for (*length = 0; *length < TRIE_LENGTHS - 1; (*length)++) {
        reached next = {.count = 0};
        for (int i = 0; i < at.count; i++) {
            if (!reach_by_plain(g, at.local[i], &next)) {
                bool refused = *length > 0;
                for (int k = 0; refused && k < at.count; k++) {
                    refused = refuses_plain(g, at.local[k]);
                }
                return refused ? TRIE_NOT_PLAIN - 1 : *length;
            }
        }
        for (int i = 0; !root && i < next.count; i++) {
            if (grammar_states_local_ends(g->states, next.local[i])) {
                return *length;
            }
        }
        if (next.count == at.count && memcmp(next.local, at.local, (size_t)at.count * sizeof *at.local) == 0) {
            *length = TRIE_LENGTHS;
            return TRIE_NOT_PLAIN - 1;
        }
        at = next;
    }
    return *length;
}

/* ---- masks ---- */

static void set_bits(uint32_t *bits, const int32_t *tokens, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        bits[tokens[i] / 32] |= 1u << (tokens[i] % 32);
    }
}

static bool found_room(token_grammar *g, int32_t key) {
    if (key < g->found_room) {
        return true;
    }
    int32_t room = g->found_room ? g->found_room : 64;
    while (room <= key) {
        room *= 2;
    }
    found **list = realloc(g->found, (size_t)room * sizeof(found *));
    if (!list) {
        return false;
    }
    memset(list + g->found_room, 0, (size_t)(room - g->found_room) * sizeof(found *));
    g->found = list;
    g->found_room = room;
    return true;
}

/* Keeps what a walk has found: count tokens of g->tokens, exits, and plain tokens. NULL: out of memory. */
static found *keep(token_grammar *g, int plain, int32_t count, int32_t exits) {
    const token_trie *t = g->trie;
    found *f = calloc(1, sizeof *f);
    const bool dense = plain > 0 || count > MOST_SPARSE;
    if (!f) {
        return NULL;
    }
    f->exits = malloc(((size_t)exits + 1) * sizeof *f->exits);
    f->tokens = dense ? NULL : malloc(((size_t)count + 1) * sizeof *f->tokens);
    f->bits = dense ? malloc((t->words + 1) * sizeof *f->bits) : NULL;
    if (!f->exits || (!f->tokens && !f->bits)) {
        free(f->exits);
        free(f->tokens);
        free(f->bits);
        free(f);
        return NULL;
    }
    memcpy(f->exits, g->exits, (size_t)exits * sizeof *f->exits);
    f->exit_count = exits;
    if (dense) {
        memcpy(f->bits, t->up_to + (size_t)plain * t->words, t->words * sizeof *f->bits);
        set_bits(f->bits, g->tokens, count);
    } else {
        memcpy(f->tokens, g->tokens, (size_t)count * sizeof *f->tokens);
        f->count = count;
    }
    g->used += sizeof *f + (size_t)exits * sizeof *f->exits + (dense ? t->words * sizeof *f->bits : (size_t)count * sizeof *f->tokens);
    return f;
}

/* What is known of a local set, found out if need be. < 0: no state. */
static int look_up(token_grammar *g, int32_t local, bool root, const found **out) {
    const int32_t key = local * 2 + !root;
    if (!found_room(g, key)) {
        return GRAMMAR_NO_MEMORY;
    }
    if (!g->found[key]) {
        const int32_t state = grammar_states_alone(g->states, local, root ? GRAMMAR_STACK_ROOT : GRAMMAR_STACK_UNKNOWN);
        if (state < 0) {
            return state;
        }
        int plain;
        const int skipped = plain_run(g, local, root, &plain);
        int32_t count = 0, exits = 0;
        const int walked = walk(g, 0, state, skipped, &count, root ? NULL : &exits);
        if (walked < 0) {
            return walked;
        }
        if (!(g->found[key] = keep(g, plain, count, exits))) {
            return GRAMMAR_NO_MEMORY;
        }
    }
    *out = g->found[key];
    return 0;
}

/* The tokens that may follow in a state, without those at which an answer ends. */
static int mask_state(token_grammar *g, int32_t state, uint32_t *bits) {
    const token_trie *t = g->trie;
    int32_t pairs;
    grammar_states_pairs(g->states, state, &pairs);
    memset(bits, 0, t->words * sizeof *bits);
    for (int32_t i = 0; i < pairs; i++) {
        const grammar_pair p = grammar_states_pairs(g->states, state, &pairs)[i];
        const found *f = NULL;
        const int status = look_up(g, p.local, p.stack == GRAMMAR_STACK_ROOT, &f);
        if (status < 0) {
            return status;
        }
        if (f->bits) {
            for (size_t k = 0; k < t->words; k++) {
                bits[k] |= f->bits[k];
            }
        } else {
            set_bits(bits, f->tokens, f->count);
        }
        if (f->exit_count == 0) {
            continue;
        }
        const int32_t behind = grammar_states_behind(g->states, p.stack);
        int32_t count = 0;
        if (behind < 0) {
            return behind;
        }
        for (int32_t k = 0; k < f->exit_count; k++) {
            if (t->end[f->exits[k]] > f->exits[k] + 1) {
                count = 0;
                const int walked = walk(g, f->exits[k], behind, -1, &count, NULL);
                if (walked < 0) {
                    return walked;
                }
                set_bits(bits, g->tokens, count);
            }
        }
    }
    return 0;
}

static int cached_mask(token_grammar *g, int32_t state, const uint32_t **out) {
    recent *r = &g->recent[state % RECENT];
    if (g->used > MASKS_ROOM) {
        forget_masks(g);
    }
    if (!r->bits && !(r->bits = malloc((g->trie->words + 1) * sizeof *r->bits))) {
        return GRAMMAR_NO_MEMORY;
    }
    *out = r->bits;
    if (r->state == state) {
        return 0;
    }
    r->state = 0;
    const int status = mask_state(g, state, r->bits);
    r->state = status < 0 ? 0 : state;
    return status;
}

/* ---- an answer ---- */

enum { NOT_STARTED, REASONING, REASONED, ANSWERING };

void token_matcher_init(token_matcher *m, token_grammar *g, const tokenizer *t, bool may_reason) {
    *m = (token_matcher){.g = g, .may_reason = may_reason, .think = tokenizer_find(t, "<think>"), .think_end = tokenizer_find(t, "</think>")};
    m->may_reason &= m->think >= 0 && m->think_end >= 0;
}

static omni_status explain(int problem, omni_error *err) {
    switch (problem) {
    case GRAMMAR_NO_MEMORY:
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the states of a grammar");
    case GRAMMAR_FULL:
        return fail(err, OMNI_ERR_LIMIT, "the grammar takes more than %d MiB for this answer: make it simpler", STATES_ROOM >> 20);
    default:
        return fail(err, OMNI_ERR_LIMIT, "the grammar is too ambiguous: what was said can be read in more ways than can be followed");
    }
}

static bool is_end(const token_trie *t, int32_t id) {
    for (int32_t i = 0; i < t->end_count; i++) {
        if (t->ends[i] == id) {
            return true;
        }
    }
    return false;
}

/* Whether a token is line ends alone, as they follow </think>. */
static bool is_lines(const tokenizer *t, int32_t id) {
    size_t size;
    const char *s = tokenizer_piece(t, id, &size);
    for (size_t i = 0; i < size; i++) {
        if (s[i] != '\n') {
            return false;
        }
    }
    return size > 0 && size <= 2;
}

static int32_t step_token(token_grammar *g, int32_t state, int32_t id) {
    uint8_t added[GRAMMAR_TOKEN_BYTES];
    size_t size;
    const uint8_t *s = (const uint8_t *)tokenizer_piece(g->t, id, &size);
    if (tokenizer_kind(g->t, id) == TOKEN_ADDED) {
        grammar_token_bytes(id, added);
        s = added;
        size = sizeof added;
    }
    for (size_t i = 0; i < size && state > 0; i++) {
        state = grammar_states_step(g->states, state, s[i]);
    }
    return size > 0 ? state : GRAMMAR_DEAD;
}

/* Reads one more token. Returns the problem, < 0, or GRAMMAR_DEAD, when it cannot be. */
static int read_token(token_matcher *m, int32_t id) {
    token_grammar *g = m->g;
    if (m->reasoning == NOT_STARTED) {
        m->reasoning = m->may_reason && id == m->think ? REASONING : ANSWERING;
        if (m->reasoning == REASONING) {
            return 1;
        }
    } else if (m->reasoning == REASONING) {
        m->reasoning = id == m->think_end ? REASONED : REASONING;
        return 1;
    }
    if (is_end(g->trie, id)) { /* with ignore_eos it goes on */
        return 1;
    }
    const int32_t to = step_token(g, m->state, id);
    if (m->reasoning == REASONED && is_lines(g->t, id)) {
        return to < 0 ? to : 1;
    }
    m->reasoning = ANSWERING;
    if (to > 0) {
        m->state = to;
    }
    return to;
}

/* Brings the matcher up to the answer, from its beginning if what was kept is gone. */
static int catch_up(token_matcher *m, const int32_t *answer, size_t count) {
    token_grammar *g = m->g;
    if (m->version != g->version || m->read == 0 || m->read > count) {
        const int32_t start = grammar_states_start(g->states);
        if (start < 0) {
            return start;
        }
        m->state = start;
        m->version = g->version;
        m->read = 0;
        m->reasoning = NOT_STARTED;
    }
    for (; m->read < count; m->read++) {
        const int status = read_token(m, answer[m->read]);
        if (status <= 0) {
            return status < 0 ? status : GRAMMAR_DEAD;
        }
    }
    return 1;
}

/* Behind </think> line ends may come that are no part of the answer. */
static void allow_lines(const token_grammar *g, uint32_t *bits) {
    static const char *const lines[] = {"\n", "\n\n"};
    for (size_t i = 0; i < 2; i++) {
        int32_t end = g->trie->end[0], n = 1;
        const size_t size = strlen(lines[i]);
        for (size_t k = 0; k < size && n < end; k++) { /* the child by that byte */
            while (n < end && g->trie->byte[n] != (uint8_t)lines[i][k]) {
                n = g->trie->end[n];
            }
            if (n < end && k + 1 == size) {
                set_bits(bits, g->trie->tokens + g->trie->first[n], g->trie->first[n + 1] - g->trie->first[n]);
            }
            end = n < end ? g->trie->end[n] : n;
            n++;
        }
    }
}

/* The mask of what may follow, to *out. */
static int next_mask(token_matcher *m, const int32_t *answer, size_t count, const uint32_t **out) {
    token_grammar *g = m->g;
    const int status = catch_up(m, answer, count);
    if (status <= 0) {
        return status;
    }
    if (m->reasoning == REASONING) {
        memset(g->bits, 0xff, g->trie->words * sizeof *g->bits);
        for (int32_t i = 0; i < g->trie->end_count; i++) {
            g->bits[g->trie->ends[i] / 32] &= ~(1u << (g->trie->ends[i] % 32));
        }
        *out = g->bits;
        return 1;
    }
    const uint32_t *mask;
    const int made = cached_mask(g, m->state, &mask);
    if (made < 0) {
        return made;
    }
    memcpy(g->bits, mask, g->trie->words * sizeof *g->bits);
    if (grammar_states_ends(g->states, m->state)) {
        set_bits(g->bits, g->trie->ends, g->trie->end_count);
    }
    if (m->reasoning == NOT_STARTED && m->may_reason) {
        set_bits(g->bits, &m->think, 1);
    }
    if (m->reasoning == REASONED && answer[count - 1] == m->think_end) {
        allow_lines(g, g->bits);
    }
    *out = g->bits;
    return 1;
}

/* Runs out of memory at most once: then everything is forgotten and found again. */
static bool start_again(token_grammar *g, int status) {
    if (status != GRAMMAR_FULL && status != GRAMMAR_NO_MEMORY) {
        return false;
    }
    forget_masks(g);
    g->version++;
    g->broken = !grammar_states_forget(g->states);
    return !g->broken;
}

omni_status token_matcher_allow(token_matcher *m, const int32_t *answer, size_t count, uint32_t *bits, omni_error *err) {
    token_grammar *g = m->g;
    const uint32_t *mask = NULL;
    pthread_mutex_lock(&g->lock);
    if (g->broken) {
        g->broken = !grammar_states_forget(g->states);
    }
    g->work_before = grammar_states_work(g->states);
    g->walked = 0;
    int status = g->broken ? GRAMMAR_NO_MEMORY : next_mask(m, answer, count, &mask);
    if (!g->broken && start_again(g, status)) {
        status = next_mask(m, answer, count, &mask);
    }
    for (size_t i = 0; status > 0 && i < g->trie->words; i++) {
        bits[i] &= mask[i];
    }
    pthread_mutex_unlock(&g->lock);
    if (status == GRAMMAR_DEAD) {
        return fail(err, OMNI_ERR_ARGUMENT, "token %zu of the answer is none that the grammar allows", m->read + 1);
    }
    return status > 0 ? OMNI_OK : explain(status, err);
}

omni_status token_grammar_check(token_grammar *g, const char *text, size_t size, bool *begins, bool *whole, omni_error *err) {
    pthread_mutex_lock(&g->lock);
    int32_t state = g->broken ? GRAMMAR_NO_MEMORY : grammar_states_start(g->states);
    for (size_t i = 0; i < size && state > 0; i++) {
        state = grammar_states_step(g->states, state, (uint8_t)text[i]);
    }
    *begins = state > 0;
    *whole = state > 0 && grammar_states_ends(g->states, state);
    pthread_mutex_unlock(&g->lock);
    return state < 0 ? explain(state, err) : OMNI_OK;
}
