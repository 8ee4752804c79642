#include "text/grammar_states.h"

#include <stdlib.h>
#include <string.h>

enum {
    UNKNOWN = -1,
    MOST_LOCAL = 4096, /* states of a grammar in one set */
    MOST_PAIRS = 4096, /* pairs in one state */
    NO_LIST = -1,
};

typedef struct local {
    int32_t first, count;           /* in elements, sorted */
    int32_t first_call, call_count; /* in calls; NO_LIST: not found out yet */
} local;

/* A call that may begin where a local set is: into the rule's beginning, and the set behind it. */
typedef struct local_call {
    int32_t into, behind;
} local_call;

typedef struct stack {
    int32_t behind, parent, depth;
} stack;

typedef struct state {
    int32_t first, count; /* in pairs, the deepest stacks first */
    bool ends;
} state;

/* A table of numbers by the hash of what they stand for. */
typedef struct table {
    int32_t *slots;
    int32_t room, count;
} table;

/* A growing list. */
typedef struct list {
    void *data;
    int32_t count, room;
} list;

typedef struct open_pair {
    int32_t local, stack, depth;
} open_pair;

struct grammar_states {
    const grammar *g;
    size_t room, used;
    uint64_t work;
    list elements, calls, locals, local_next, stacks, pairs, states, state_next; /* .._next: [count][classes] */
    list slot;                                                                   /* [stacks] place in open, right where stamp says so */
    table local_table, stack_table, state_table;
    int32_t *mark; /* [g->states] */
    int32_t marked, stamp;
    list found, todo, seeds; /* int32_t */
    list open, order;        /* pairs of a state being made */
    int32_t problem;
};

typedef struct slot_of {
    int32_t stamp, place;
} slot_of;

#define AT(type, l, i) (((type *)(l).data)[i])

/* Room for n more of a list. kept: it counts as memory that is kept. */
static bool reserve(grammar_states *s, list *l, int32_t n, size_t each, bool kept) {
    if (n <= l->room - l->count) {
        return true;
    }
    int64_t room = l->room ? l->room : 64;
    while (room < (int64_t)l->count + n) {
        room *= 2;
    }
    const size_t more = (size_t)(room - l->room) * each;
    if (kept && s->used + more > s->room) {
        s->problem = GRAMMAR_FULL;
        return false;
    }
    void *data = room < INT32_MAX / 2 ? realloc(l->data, (size_t)room * each) : NULL;
    if (!data) {
        s->problem = GRAMMAR_NO_MEMORY;
        return false;
    }
    l->data = data;
    l->room = (int32_t)room;
    s->used += kept ? more : 0;
    return true;
}

static bool push_int(grammar_states *s, list *l, int32_t x) {
    if (!reserve(s, l, 1, sizeof x, false)) {
        return false;
    }
    AT(int32_t, *l, l->count++) = x;
    return true;
}

/* ---- tables ---- */

static uint32_t mix(uint32_t h, uint32_t x) {
    h = (h ^ x) * 0x9e3779b1u;
    return h ^ h >> 15;
}

static uint32_t hash_ints(const int32_t *x, int32_t n, uint32_t h) {
    for (int32_t i = 0; i < n; i++) {
        h = mix(h, (uint32_t)x[i]);
    }
    return h;
}

static uint32_t hash_local(const grammar_states *s, int32_t i) {
    const local *l = &AT(local, s->locals, i);
    return hash_ints(&AT(int32_t, s->elements, l->first), l->count, 1);
}

static uint32_t hash_stack(const grammar_states *s, int32_t i) {
    const stack *k = &AT(stack, s->stacks, i);
    return mix(mix(2, (uint32_t)k->behind), (uint32_t)k->parent);
}

static uint32_t hash_state(const grammar_states *s, int32_t i) {
    const state *q = &AT(state, s->states, i);
    return hash_ints(&AT(grammar_pair, s->pairs, q->first).local, q->count * 2, 3 + q->ends);
}

typedef uint32_t hasher(const grammar_states *s, int32_t i);

static bool table_grow(grammar_states *s, table *t, hasher *hash) {
    if (t->count * 2 < t->room) {
        return true;
    }
    const int32_t room = t->room ? t->room * 2 : 64;
    const size_t more = (size_t)(room - t->room) * sizeof *t->slots;
    int32_t *slots = s->used + more <= s->room ? malloc((size_t)room * sizeof *slots) : NULL;
    if (!slots) {
        s->problem = s->used + more <= s->room ? GRAMMAR_NO_MEMORY : GRAMMAR_FULL;
        return false;
    }
    memset(slots, 0xff, (size_t)room * sizeof *slots);
    for (int32_t i = 0; i < t->room; i++) {
        if (t->slots[i] >= 0) {
            uint32_t k = hash(s, t->slots[i]) & (uint32_t)(room - 1);
            while (slots[k] >= 0) {
                k = (k + 1) & (uint32_t)(room - 1);
            }
            slots[k] = t->slots[i];
        }
    }
    free(t->slots);
    t->slots = slots;
    t->room = room;
    s->used += more;
    return true;
}

/* ---- local sets ---- */

static int by_number(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static void sort_ints(int32_t *x, int32_t n) {
    if (n > 24) {
        qsort(x, (size_t)n, sizeof *x, by_number);
        return;
    }
    for (int32_t i = 1; i < n; i++) {
        const int32_t v = x[i];
        int32_t k = i;
        for (; k > 0 && x[k - 1] > v; k--) {
            x[k] = x[k - 1];
        }
        x[k] = v;
    }
}

/* The number of the set of n sorted elements, which may lie in s->found. */
static int32_t intern_local(grammar_states *s, const int32_t *x, int32_t n) {
    if (n > MOST_LOCAL) {
        return s->problem = GRAMMAR_TOO_WIDE;
    }
    s->work += (uint64_t)n;
    if (!table_grow(s, &s->local_table, hash_local)) {
        return s->problem;
    }
    const uint32_t mask = (uint32_t)s->local_table.room - 1;
    uint32_t k = hash_ints(x, n, 1) & mask;
    for (; s->local_table.slots[k] >= 0; k = (k + 1) & mask) {
        const int32_t i = s->local_table.slots[k];
        const local *l = &AT(local, s->locals, i);
        if (l->count == n && (n == 0 || memcmp(&AT(int32_t, s->elements, l->first), x, (size_t)n * sizeof *x) == 0)) {
            return i;
        }
    }
    const int32_t classes = s->g->classes;
    if (!reserve(s, &s->elements, n + 1, sizeof *x, true) || !reserve(s, &s->locals, 1, sizeof(local), true) ||
        !reserve(s, &s->local_next, classes, sizeof(int32_t), true)) {
        return s->problem;
    }
    if (n > 0) {
        memcpy(&AT(int32_t, s->elements, s->elements.count), x, (size_t)n * sizeof *x);
    }
    AT(local, s->locals, s->locals.count) = (local){s->elements.count, n, NO_LIST, 0};
    s->elements.count += n;
    memset(&AT(int32_t, s->local_next, s->local_next.count), 0xff, (size_t)classes * sizeof(int32_t));
    s->local_next.count += classes;
    s->local_table.slots[k] = s->locals.count;
    s->local_table.count++;
    return s->locals.count++;
}

/* The local set of the states in s->seeds and of what free edges lead to from there. */
static int32_t close_local(grammar_states *s) {
    const grammar *g = s->g;
    s->marked++;
    s->found.count = s->todo.count = 0;
    for (int32_t i = 0; i < s->seeds.count || s->todo.count > 0;) {
        const int32_t q = s->todo.count > 0 ? AT(int32_t, s->todo, --s->todo.count) : AT(int32_t, s->seeds, i++);
        if (s->mark[q] == s->marked) {
            continue;
        }
        s->mark[q] = s->marked;
        s->work++;
        if (q == 0 || g->first_byte[q + 1] > g->first_byte[q] || g->first_call[q + 1] > g->first_call[q]) {
            if (!push_int(s, &s->found, q)) {
                return s->problem;
            }
        }
        for (int32_t k = g->first_free[q]; k < g->first_free[q + 1]; k++) {
            if (s->mark[g->frees[k]] != s->marked && !push_int(s, &s->todo, g->frees[k])) {
                return s->problem;
            }
        }
    }
    sort_ints(s->found.data, s->found.count);
    return intern_local(s, s->found.data, s->found.count);
}

static int32_t close_one(grammar_states *s, int32_t q) {
    s->seeds.count = 0;
    return push_int(s, &s->seeds, q) ? close_local(s) : s->problem;
}

static int32_t unite(grammar_states *s, int32_t a, int32_t b) {
    const local *x = &AT(local, s->locals, a), *y = &AT(local, s->locals, b);
    if (a == b || x->count == 0 || y->count == 0) {
        return x->count == 0 ? b : a;
    }
    s->found.count = 0;
    if (!reserve(s, &s->found, x->count + y->count, sizeof(int32_t), false)) {
        return s->problem;
    }
    const int32_t *p = &AT(int32_t, s->elements, x->first), *q = &AT(int32_t, s->elements, y->first);
    int32_t *out = s->found.data, i = 0, k = 0, n = 0;
    while (i < x->count || k < y->count) {
        const int32_t v = k == y->count || (i < x->count && p[i] <= q[k]) ? p[i] : q[k];
        i += i < x->count && p[i] == v;
        k += k < y->count && q[k] == v;
        out[n++] = v;
    }
    return intern_local(s, out, n);
}

bool grammar_states_local_ends(const grammar_states *s, int32_t i) {
    const local *l = &AT(local, s->locals, i);
    return l->count > 0 && AT(int32_t, s->elements, l->first) == 0;
}

static int32_t step_local(grammar_states *s, int32_t i, int32_t class) {
    const int32_t known = AT(int32_t, s->local_next, i * s->g->classes + class);
    if (known != UNKNOWN) {
        return known;
    }
    const grammar *g = s->g;
    const uint8_t byte = g->of_class[class];
    const local l = AT(local, s->locals, i);
    s->seeds.count = 0;
    for (int32_t e = 0; e < l.count; e++) {
        const int32_t q = AT(int32_t, s->elements, l.first + e);
        for (int32_t k = g->first_byte[q]; k < g->first_byte[q + 1]; k++) {
            s->work++;
            if (byte >= g->bytes[k].low && byte <= g->bytes[k].high && !push_int(s, &s->seeds, g->bytes[k].to)) {
                return s->problem;
            }
        }
    }
    const int32_t next = close_local(s);
    if (next >= 0) {
        AT(int32_t, s->local_next, i * s->g->classes + class) = next;
    }
    return next;
}

int32_t grammar_states_local_step(grammar_states *s, int32_t i, uint8_t byte) {
    return step_local(s, i, s->g->class_of[byte]);
}

static int by_rule(const void *a, const void *b) {
    const grammar_call_edge *x = a, *y = b;
    return x->rule != y->rule ? (x->rule > y->rule) - (x->rule < y->rule) : (x->to > y->to) - (x->to < y->to);
}

/* Finds out what a local set calls. */
static bool find_calls(grammar_states *s, int32_t i) {
    const grammar *g = s->g;
    const local l = AT(local, s->locals, i);
    if (l.first_call != NO_LIST) {
        return true;
    }
    int32_t n = 0;
    for (int32_t e = 0; e < l.count; e++) {
        const int32_t q = AT(int32_t, s->elements, l.first + e);
        n += g->first_call[q + 1] - g->first_call[q];
    }
    grammar_call_edge *edges = malloc(((size_t)n + 1) * sizeof *edges);
    if (!edges || !reserve(s, &s->calls, n, sizeof(local_call), true)) {
        s->problem = edges ? s->problem : GRAMMAR_NO_MEMORY;
        free(edges);
        return false;
    }
    n = 0;
    for (int32_t e = 0; e < l.count; e++) {
        const int32_t q = AT(int32_t, s->elements, l.first + e);
        for (int32_t k = g->first_call[q]; k < g->first_call[q + 1]; k++) {
            edges[n++] = g->calls[k];
        }
    }
    qsort(edges, (size_t)n, sizeof *edges, by_rule);
    const int32_t first = s->calls.count;
    bool ok = true;
    for (int32_t k = 0; ok && k < n;) {
        const int32_t rule = edges[k].rule, into = close_one(s, rule);
        s->seeds.count = 0;
        for (; into >= 0 && ok && k < n && edges[k].rule == rule; k++) {
            ok = push_int(s, &s->seeds, edges[k].to);
        }
        const int32_t behind = into >= 0 && ok ? close_local(s) : -1;
        ok = ok && into >= 0 && behind >= 0;
        if (ok) {
            AT(local_call, s->calls, s->calls.count++) = (local_call){into, behind};
        }
    }
    free(edges);
    if (!ok) {
        s->calls.count = first;
        return false;
    }
    AT(local, s->locals, i).first_call = first;
    AT(local, s->locals, i).call_count = s->calls.count - first;
    return true;
}

/* ---- stacks ---- */

static int32_t add_stack(grammar_states *s, stack k) {
    if (!reserve(s, &s->stacks, 1, sizeof k, true) || !reserve(s, &s->slot, 1, sizeof(slot_of), true)) {
        return s->problem;
    }
    AT(stack, s->stacks, s->stacks.count++) = k;
    AT(slot_of, s->slot, s->slot.count++) = (slot_of){0, 0};
    return s->stacks.count - 1;
}

static int32_t intern_stack(grammar_states *s, int32_t behind, int32_t parent) {
    if (!table_grow(s, &s->stack_table, hash_stack)) {
        return s->problem;
    }
    const uint32_t mask = (uint32_t)s->stack_table.room - 1;
    uint32_t k = mix(mix(2, (uint32_t)behind), (uint32_t)parent) & mask;
    for (; s->stack_table.slots[k] >= 0; k = (k + 1) & mask) {
        const stack *x = &AT(stack, s->stacks, s->stack_table.slots[k]);
        if (x->behind == behind && x->parent == parent) {
            return s->stack_table.slots[k];
        }
    }
    const int32_t made = add_stack(s, (stack){behind, parent, AT(stack, s->stacks, parent).depth + 1});
    if (made >= 0) {
        s->stack_table.slots[k] = made;
        s->stack_table.count++;
    }
    return made;
}

/* ---- states ---- */

static int by_depth(const void *a, const void *b) {
    const open_pair *x = a, *y = b;
    return x->depth != y->depth ? (x->depth < y->depth) - (x->depth > y->depth) : (x->stack > y->stack) - (x->stack < y->stack);
}

/* The state of the pairs in s->open that are not empty. */
static int32_t intern_state(grammar_states *s, bool ends) {
    open_pair *open = s->open.data;
    if (s->open.count > 1) {
        qsort(open, (size_t)s->open.count, sizeof *open, by_depth);
    }
    if (!reserve(s, &s->pairs, s->open.count + 1, sizeof(grammar_pair), true) || !table_grow(s, &s->state_table, hash_state)) {
        return s->problem;
    }
    grammar_pair *pairs = &AT(grammar_pair, s->pairs, s->pairs.count);
    int32_t n = 0;
    for (int32_t i = 0; i < s->open.count; i++) {
        const local *l = &AT(local, s->locals, open[i].local);
        if (l->count > 1 || (l->count == 1 && AT(int32_t, s->elements, l->first) != 0)) { /* the end alone was followed already */
            pairs[n++] = (grammar_pair){open[i].local, open[i].stack};
        }
    }
    s->work += (uint64_t)n + 1;
    const uint32_t mask = (uint32_t)s->state_table.room - 1;
    uint32_t k = hash_ints(&pairs->local, n * 2, 3 + ends) & mask;
    for (; s->state_table.slots[k] >= 0; k = (k + 1) & mask) {
        const int32_t i = s->state_table.slots[k];
        const state *q = &AT(state, s->states, i);
        if (q->count == n && q->ends == ends && memcmp(&AT(grammar_pair, s->pairs, q->first), pairs, (size_t)n * sizeof *pairs) == 0) {
            return i;
        }
    }
    const int32_t classes = s->g->classes;
    if (!reserve(s, &s->states, 1, sizeof(state), true) || !reserve(s, &s->state_next, classes, sizeof(int32_t), true)) {
        return s->problem;
    }
    AT(state, s->states, s->states.count) = (state){s->pairs.count, n, ends};
    s->pairs.count += n;
    memset(&AT(int32_t, s->state_next, s->state_next.count), 0xff, (size_t)classes * sizeof(int32_t));
    s->state_next.count += classes;
    s->state_table.slots[k] = s->states.count;
    s->state_table.count++;
    return s->states.count++;
}

/* Adds a local set under a stack to the state being made. */
static bool open_add(grammar_states *s, int32_t at, int32_t under) {
    slot_of *slot = &AT(slot_of, s->slot, under);
    s->work++;
    if (slot->stamp == s->stamp) {
        const int32_t both = unite(s, AT(open_pair, s->open, slot->place).local, at);
        AT(open_pair, s->open, slot->place).local = both >= 0 ? both : 0;
        return both >= 0;
    }
    if (s->open.count >= MOST_PAIRS) {
        s->problem = GRAMMAR_TOO_WIDE;
        return false;
    }
    if (!reserve(s, &s->open, 1, sizeof(open_pair), false)) {
        return false;
    }
    *slot = (slot_of){s->stamp, s->open.count};
    AT(open_pair, s->open, s->open.count++) = (open_pair){at, under, AT(stack, s->stacks, under).depth};
    return true;
}

static void open_begin(grammar_states *s) {
    s->stamp++;
    s->open.count = 0;
}

/* Of the pairs in s->open, the deepest first: rules that end go on under the stack below. The order in which they were met goes to s->order. */
static bool follow_ends(grammar_states *s, bool *ends) {
    const int32_t given = s->open.count;
    int32_t a = 0, b = given;
    s->order.count = 0;
    while (a < given || b < s->open.count) {
        const open_pair *open = s->open.data;
        const int32_t i = b == s->open.count || (a < given && open[a].depth >= open[b].depth) ? a++ : b++;
        const int32_t at = open[i].local, under = open[i].stack;
        if (!push_int(s, &s->order, i)) {
            return false;
        }
        if (!grammar_states_local_ends(s, at)) {
            continue;
        }
        if (under < GRAMMAR_STACKS) {
            *ends = true;
        } else if (!open_add(s, AT(stack, s->stacks, under).behind, AT(stack, s->stacks, under).parent)) {
            return false;
        }
    }
    return true;
}

/* The deepest last: calls are entered. */
static bool follow_calls(grammar_states *s) {
    int32_t a = s->order.count, b = s->open.count; /* those in s->order are before b */
    while (a > 0 || b < s->open.count) {
        const open_pair *open = s->open.data;
        const int32_t *order = s->order.data;
        const int32_t i = b == s->open.count || (a > 0 && open[order[a - 1]].depth <= open[b].depth) ? order[--a] : b++;
        const int32_t at = open[i].local, under = open[i].stack;
        if (!find_calls(s, at)) {
            return false;
        }
        const local l = AT(local, s->locals, at);
        for (int32_t k = 0; k < l.call_count; k++) {
            const local_call c = AT(local_call, s->calls, l.first_call + k);
            const int32_t deeper = intern_stack(s, c.behind, under);
            if (deeper < 0 || !open_add(s, c.into, deeper)) {
                return false;
            }
        }
    }
    return true;
}

/* The state of the pairs in s->open, which are sorted, and of what follows from them. */
static int32_t finish_state(grammar_states *s) {
    bool ends = false;
    return follow_ends(s, &ends) && follow_calls(s) ? intern_state(s, ends) : s->problem;
}

int32_t grammar_states_start(grammar_states *s) {
    const int32_t first = close_one(s, s->g->start);
    open_begin(s);
    return first >= 0 && open_add(s, first, GRAMMAR_STACK_ROOT) ? finish_state(s) : s->problem;
}

int32_t grammar_states_alone(grammar_states *s, int32_t at, int32_t under) {
    open_begin(s);
    return open_add(s, at, under) ? intern_state(s, false) : s->problem;
}

int32_t grammar_states_behind(grammar_states *s, int32_t under) {
    const stack k = AT(stack, s->stacks, under);
    open_begin(s);
    return open_add(s, k.behind, k.parent) ? finish_state(s) : s->problem;
}

int32_t grammar_states_step(grammar_states *s, int32_t from, uint8_t byte) {
    const int32_t class = s->g->class_of[byte];
    const int32_t known = AT(int32_t, s->state_next, from * s->g->classes + class);
    if (known != UNKNOWN) {
        return known;
    }
    const state q = AT(state, s->states, from);
    open_begin(s);
    for (int32_t i = 0; i < q.count; i++) {
        const grammar_pair p = AT(grammar_pair, s->pairs, q.first + i);
        const int32_t next = step_local(s, p.local, class);
        if (next < 0 || (AT(local, s->locals, next).count > 0 && !open_add(s, next, p.stack))) {
            return s->problem;
        }
    }
    const int32_t to = finish_state(s);
    if (to >= 0) {
        AT(int32_t, s->state_next, from * s->g->classes + class) = to;
    }
    return to;
}

bool grammar_states_ends(const grammar_states *s, int32_t i) {
    return AT(state, s->states, i).ends;
}

const grammar_pair *grammar_states_pairs(const grammar_states *s, int32_t i, int32_t *count) {
    *count = AT(state, s->states, i).count;
    return &AT(grammar_pair, s->pairs, AT(state, s->states, i).first);
}

uint64_t grammar_states_work(const grammar_states *s) {
    return s->work;
}

/* ---- all of it ---- */

static void release(grammar_states *s) {
    list *const lists[] = {&s->elements,   &s->calls, &s->locals, &s->local_next, &s->stacks, &s->pairs, &s->states,
                           &s->state_next, &s->slot,  &s->found,  &s->todo,       &s->seeds,  &s->open,  &s->order};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        free(lists[i]->data);
        *lists[i] = (list){0};
    }
    table *const tables[] = {&s->local_table, &s->stack_table, &s->state_table};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        free(tables[i]->slots);
        *tables[i] = (table){0};
    }
    s->used = 0;
}

/* The empty local set, both stacks without a parent, and the dead state. */
static bool begin(grammar_states *s) {
    open_begin(s);
    return intern_local(s, NULL, 0) == 0 && add_stack(s, (stack){0, -1, 0}) == GRAMMAR_STACK_ROOT &&
           add_stack(s, (stack){0, -1, 0}) == GRAMMAR_STACK_UNKNOWN && reserve(s, &s->open, 1, sizeof(open_pair), false) &&
           intern_state(s, false) == GRAMMAR_DEAD;
}

grammar_states *grammar_states_create(const grammar *g, size_t room) {
    grammar_states *s = calloc(1, sizeof *s);
    if (s) {
        s->g = g;
        s->room = room;
        s->mark = calloc((size_t)g->states, sizeof *s->mark);
    }
    if (!s || !s->mark || !begin(s)) {
        grammar_states_free(s);
        return NULL;
    }
    return s;
}

void grammar_states_free(grammar_states *s) {
    if (s) {
        release(s);
        free(s->mark);
        free(s);
    }
}

bool grammar_states_forget(grammar_states *s) {
    release(s);
    s->stamp = 0;
    s->marked = 0;
    memset(s->mark, 0, (size_t)s->g->states * sizeof *s->mark);
    return begin(s);
}
