/* From a grammar's tree to its automaton: the states of every rule (Thompson's construction), characters as UTF-8; then what can be told of a state
 * once for all: whether the end can be reached from it, and without reading anything. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/grammar_tree.h"

enum {
    MOST_STATES = 400000,
    MOST_EDGES = 1200000,
    MOST_INLINED = 60, /* nodes of a rule that is built in at its places, not called: its text then is the caller's own */
};

typedef enum edge_kind { EDGE_FREE, EDGE_BYTES, EDGE_CALL } edge_kind;

typedef struct edge {
    int32_t from, to, rule; /* rule: its number, then its first state */
    uint8_t kind, low, high;
} edge;

typedef struct builder {
    const grammar_tree *t;
    omni_error *err;
    edge *edges;
    int32_t edge_count, edge_room, states;
    int32_t *start;     /* [rules] first states, or 0 */
    int32_t *weight;    /* [rules] nodes when built in, or MOST_INLINED + 1 */
    int32_t building;   /* the rule */
    int depth;          /* rules being weighed, one in another */
    omni_status status; /* the first error ends all work */
} builder;

static int32_t new_state(builder *b) {
    if (b->states >= MOST_STATES && b->status == OMNI_OK) {
        const grammar_rule *r = &b->t->rules[b->building];
        int32_t line, column;
        grammar_tree_place(b->t, r->defined, &line, &column);
        b->status = fail(b->err, OMNI_ERR_LIMIT, "grammar, line %d, column %d: with rule \"%.*s\" it has more than %d states: repeat less", line,
                         column, (int)(r->size < 60 ? r->size : 60), r->name, MOST_STATES);
    }
    return b->status == OMNI_OK ? b->states++ : 0;
}

static void add_edge(builder *b, edge e) {
    if (b->status == OMNI_OK && b->edge_count == b->edge_room) {
        const int32_t room = b->edge_room ? b->edge_room * 2 : 1024;
        edge *edges = room <= MOST_EDGES * 2 ? realloc(b->edges, (size_t)room * sizeof *edges) : NULL;
        if (!edges) {
            b->status = room <= MOST_EDGES * 2 ? fail(b->err, OMNI_ERR_MEMORY, "out of memory for a grammar")
                                               : fail(b->err, OMNI_ERR_LIMIT, "the grammar is too large: repeat less");
            return;
        }
        b->edges = edges;
        b->edge_room = room;
    }
    if (b->status == OMNI_OK) {
        b->edges[b->edge_count++] = e;
    }
}

static void add_free(builder *b, int32_t from, int32_t to) {
    add_edge(b, (edge){.from = from, .to = to, .kind = EDGE_FREE});
}

static void add_bytes(builder *b, int32_t from, uint8_t low, uint8_t high, int32_t to) {
    add_edge(b, (edge){.from = from, .to = to, .kind = EDGE_BYTES, .low = low, .high = high});
}

/* ---- characters ---- */

/* States from which that many bytes 80 to BF lead to the character's end; made when they are needed. */
typedef struct char_tails {
    int32_t state[4]; /* [0]: the end */
} char_tails;

static int32_t tail(builder *b, char_tails *t, int n) {
    if (n > 0 && t->state[n] == 0) {
        t->state[n] = new_state(b);
        add_bytes(b, t->state[n], 0x80, 0xbf, tail(b, t, n - 1));
    }
    return t->state[n];
}

/* Characters low to high, whose encodings have the same length. Split until each byte may be chosen whatever the others are. */
static void add_block(builder *b, int32_t from, uint32_t low, uint32_t high, char_tails *t) {
    char first[4], last[4];
    const int size = (int)utf8_encode(low, first);
    for (int i = 1; i < size; i++) {
        const uint32_t m = (1u << (6 * i)) - 1;
        if ((low & ~m) != (high & ~m)) {
            if ((low & m) != 0) {
                add_block(b, from, low, low | m, t);
                add_block(b, from, (low | m) + 1, high, t);
                return;
            }
            if ((high & m) != m) {
                add_block(b, from, low, (high & ~m) - 1, t);
                add_block(b, from, high & ~m, high, t);
                return;
            }
        }
    }
    utf8_encode(high, last);
    int whole = 0; /* bytes at the end that may be any */
    while (whole < size - 1 && (uint8_t)first[size - 1 - whole] == 0x80 && (uint8_t)last[size - 1 - whole] == 0xbf) {
        whole++;
    }
    for (int i = 0; i < size - whole; i++) {
        const int32_t to = i + 1 == size - whole ? tail(b, t, whole) : new_state(b);
        add_bytes(b, from, (uint8_t)first[i], (uint8_t)last[i], to);
        from = to;
    }
}

static void add_char(builder *b, int32_t from, const grammar_range *ranges, int32_t count, int32_t to) {
    static const grammar_range lengths[] = {{0, 0x7f}, {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, 0x10ffff}};
    char_tails t = {.state = {to}};
    for (int32_t i = 0; i < count && b->status == OMNI_OK; i++) {
        for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
            const uint32_t low = ranges[i].low > lengths[k].low ? ranges[i].low : lengths[k].low;
            const uint32_t high = ranges[i].high < lengths[k].high ? ranges[i].high : lengths[k].high;
            if (low <= high) {
                add_block(b, from, low, high, &t);
            }
        }
    }
}

/* ---- nodes ---- */

static int32_t add_node(builder *b, int32_t node, int32_t from);

static int32_t add_token(builder *b, int32_t id, int32_t from) {
    uint8_t bytes[GRAMMAR_TOKEN_BYTES];
    grammar_token_bytes(id, bytes);
    for (int i = 0; i < GRAMMAR_TOKEN_BYTES; i++) {
        const int32_t to = new_state(b);
        add_bytes(b, from, bytes[i], bytes[i], to);
        from = to;
    }
    return from;
}

static int32_t add_repeat(builder *b, const grammar_node *n, int32_t from) {
    for (int32_t i = 0; i < n->low && b->status == OMNI_OK; i++) {
        const int32_t before = b->states;
        from = add_node(b, n->a, from);
        if (b->states == before) { /* nothing: as often as you like */
            break;
        }
    }
    if (n->high < 0) {
        const int32_t loop = new_state(b), out = new_state(b);
        add_free(b, from, loop);
        add_free(b, add_node(b, n->a, loop), loop);
        add_free(b, loop, out);
        return out;
    }
    const int32_t out = new_state(b);
    for (int32_t i = n->low; i < n->high && b->status == OMNI_OK; i++) {
        const int32_t own = new_state(b); /* so that what leads back into from cannot leave by the edge */
        add_free(b, from, own);
        add_free(b, own, out);
        from = add_node(b, n->a, own);
    }
    add_free(b, from, out);
    return out;
}

/* The states of a node behind the state from; returns the one behind it. */
static int32_t add_node(builder *b, int32_t node, int32_t from) {
    const grammar_node *n = &b->t->nodes[node];
    if (b->status != OMNI_OK) {
        return 0;
    }
    switch (n->kind) {
    case GRAMMAR_CHAR: {
        const int32_t to = new_state(b);
        add_char(b, from, b->t->ranges + n->a, n->count, to);
        return to;
    }
    case GRAMMAR_TOKEN:
        return add_token(b, n->a, from);
    case GRAMMAR_RULE: {
        if (b->weight[n->a] <= MOST_INLINED) {
            return add_node(b, b->t->rules[n->a].body, from);
        }
        const int32_t to = new_state(b);
        add_edge(b, (edge){.from = from, .to = to, .rule = n->a, .kind = EDGE_CALL});
        return to;
    }
    case GRAMMAR_SEQUENCE:
        for (int32_t child = n->a; child >= 0; child = b->t->nodes[child].next) {
            from = add_node(b, child, from);
        }
        return from;
    case GRAMMAR_CHOICE: {
        if (b->t->nodes[n->a].next < 0) {
            return add_node(b, n->a, from);
        }
        const int32_t to = new_state(b);
        for (int32_t child = n->a; child >= 0 && b->status == OMNI_OK; child = b->t->nodes[child].next) {
            const int32_t own = new_state(b);
            add_free(b, from, own);
            add_free(b, add_node(b, child, own), to);
        }
        return to;
    }
    case GRAMMAR_REPEAT:
        return add_repeat(b, n, from);
    }
    return from;
}

/* ---- which rules are built in ---- */

/* Nodes of a tree of which rules are built in as far as they are small; > MOST_INLINED: too large. */
static int32_t weigh(builder *b, int32_t node);

/* 0: not known yet; -1: being weighed, so that it calls itself. */
static int32_t weigh_rule(builder *b, int32_t rule) {
    if (b->weight[rule] == 0) {
        if (b->depth >= MOST_INLINED) { /* too far down for whoever asks */
            return MOST_INLINED + 1;
        }
        b->weight[rule] = -1;
        b->depth++;
        b->weight[rule] = weigh(b, b->t->rules[rule].body);
        b->depth--;
    }
    return b->weight[rule] < 0 ? MOST_INLINED + 1 : b->weight[rule];
}

/* Only as deep as the weight allows: what is above MOST_INLINED is not looked into. */
static int32_t weigh_within(builder *b, int32_t node, int32_t left) {
    const grammar_node *n = &b->t->nodes[node];
    int32_t total = 1;
    if (left <= 0) {
        return MOST_INLINED + 1;
    }
    switch (n->kind) {
    case GRAMMAR_CHAR:
    case GRAMMAR_TOKEN:
        return 1;
    case GRAMMAR_RULE:
        return weigh_rule(b, n->a);
    case GRAMMAR_REPEAT:
        total = weigh_within(b, n->a, left - 1);
        total *= n->high < 0 ? n->low + 1 : n->high > 0 ? n->high : 1;
        return total > MOST_INLINED ? MOST_INLINED + 1 : total;
    case GRAMMAR_SEQUENCE:
    case GRAMMAR_CHOICE:
        for (int32_t child = n->a; child >= 0 && total <= MOST_INLINED; child = b->t->nodes[child].next) {
            total += weigh_within(b, child, left - 1);
        }
        return total > MOST_INLINED ? MOST_INLINED + 1 : total;
    }
    return total;
}

static int32_t weigh(builder *b, int32_t node) {
    return weigh_within(b, node, MOST_INLINED);
}

static void build_rules(builder *b) {
    const grammar_tree *t = b->t;
    b->states = 1; /* the end */
    for (int32_t i = 0; i < t->rule_count && b->status == OMNI_OK; i++) {
        if (i == t->root || b->weight[i] > MOST_INLINED) {
            b->building = i;
            b->start[i] = new_state(b);
            add_free(b, add_node(b, t->rules[i].body, b->start[i]), 0);
        }
    }
    for (int32_t i = 0; i < b->edge_count; i++) {
        b->edges[i].rule = b->edges[i].kind == EDGE_CALL ? b->start[b->edges[i].rule] : 0;
    }
}

/* ---- what is true of states ---- */

/* Edges by one of their ends: those of state q are list[first[q]] to list[first[q + 1] - 1]. */
typedef struct edge_index {
    int32_t *first, *list;
} edge_index;

typedef enum edge_end { BY_FROM, BY_TO, BY_RULE } edge_end;

static bool index_edges(const builder *b, edge_end end, edge_index *x) {
    x->first = calloc((size_t)b->states + 2, sizeof *x->first);
    x->list = malloc(((size_t)b->edge_count + 1) * sizeof *x->list);
    if (!x->first || !x->list) {
        return false;
    }
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < b->edge_count; i++) {
            const edge *e = &b->edges[i];
            if (end == BY_RULE && e->kind != EDGE_CALL) {
                continue;
            }
            const int32_t q = end == BY_FROM ? e->from : end == BY_TO ? e->to : e->rule;
            if (pass == 0) {
                x->first[q + 2]++;
            } else {
                x->list[x->first[q + 1]++] = i;
            }
        }
        for (int32_t q = 0; pass == 0 && q < b->states; q++) {
            x->first[q + 2] += x->first[q + 1];
        }
    }
    return true;
}

static void index_free(edge_index *x) {
    free(x->first);
    free(x->list);
}

/* reached[q]: from q the end of its rule can be reached; reading nothing, unless read. */
static bool find_reaching(const builder *b, const edge_index *to, const edge_index *calls, bool read, uint8_t *reached) {
    int32_t *queue = malloc(((size_t)b->states + 1) * sizeof *queue), count = 0;
    if (!queue) {
        return false;
    }
    reached[0] = 1;
    queue[count++] = 0;
    while (count > 0) {
        const int32_t q = queue[--count];
        for (int pass = 0; pass < 2; pass++) { /* edges that lead to q; calls of the rule that begins at q */
            const edge_index *x = pass == 0 ? to : calls;
            for (int32_t i = x->first[q]; i < x->first[q + 1]; i++) {
                const edge *e = &b->edges[x->list[i]];
                const bool passes = e->kind == EDGE_FREE || (e->kind == EDGE_BYTES && read) || (e->kind == EDGE_CALL && reached[e->rule]);
                if (passes && reached[e->to] && !reached[e->from]) {
                    reached[e->from] = 1;
                    queue[count++] = e->from;
                }
            }
        }
    }
    free(queue);
    return true;
}

/* Whether a rule can begin with itself: a cycle of edges that read nothing, with a call in it. Tarjan's strongly connected components, without
 * recursion. Returns the rule's first state, 0 when there is none, -1 without memory. */
static int32_t find_left_recursion(const builder *b, const edge_index *from, const uint8_t *empty) {
    const size_t n = (size_t)b->states;
    int32_t *number = calloc(n, sizeof *number), *low = calloc(n, sizeof *low), *component = calloc(n, sizeof *component);
    int32_t *stack = malloc((n + 1) * sizeof *stack), *path = malloc((n + 1) * sizeof *path), *next = calloc(n, sizeof *next);
    int32_t found = number && low && component && stack && path && next ? 0 : -1, counter = 0, components = 0, depth = 0, held = 0;
    for (int32_t root = 0; found == 0 && root < b->states; root++) {
        if (number[root]) {
            continue;
        }
        number[root] = low[root] = ++counter;
        stack[held++] = path[depth++] = root;
        while (depth > 0) {
            const int32_t q = path[depth - 1];
            const int32_t k = next[q]++, i = from->first[q] + k / 2; /* each edge twice: into the rule, and behind it */
            if (i < from->first[q + 1]) {
                const edge *e = &b->edges[from->list[i]];
                const bool into = k % 2 == 0;
                int32_t to = -1;
                if (e->kind == EDGE_FREE) {
                    to = into ? e->to : -1;
                } else if (e->kind == EDGE_CALL) {
                    to = into ? e->rule : empty[e->rule] ? e->to : -1;
                }
                if (to >= 0 && !number[to]) {
                    number[to] = low[to] = ++counter;
                    stack[held++] = path[depth++] = to;
                } else if (to >= 0 && !component[to] && number[to] < low[q]) {
                    low[q] = number[to];
                }
                continue;
            }
            depth--;
            if (depth > 0 && low[q] < low[path[depth - 1]]) {
                low[path[depth - 1]] = low[q];
            }
            if (low[q] == number[q]) {
                components++;
                int32_t member;
                do {
                    member = stack[--held];
                    component[member] = components;
                } while (member != q);
            }
        }
    }
    for (int32_t i = 0; found == 0 && i < b->edge_count; i++) {
        const edge *e = &b->edges[i];
        found = e->kind == EDGE_CALL && component[e->from] == component[e->rule] ? e->rule : 0;
    }
    int32_t *const all[] = {number, low, component, stack, path, next};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]);
    }
    return found;
}

/* ---- the finished automaton ---- */

static omni_status blame(const builder *b, int32_t state, const char *why) {
    for (int32_t i = 0; i < b->t->rule_count; i++) {
        const grammar_rule *r = &b->t->rules[i];
        if (b->start[i] == state) {
            int32_t line, column;
            grammar_tree_place(b->t, r->defined, &line, &column);
            return fail(b->err, OMNI_ERR_FORMAT, "grammar, line %d, column %d: rule \"%.*s\" %s", line, column, (int)(r->size < 60 ? r->size : 60),
                        r->name, why);
        }
    }
    return fail(b->err, OMNI_ERR_FORMAT, "grammar: a rule %s", why);
}

/* Whether nothing but the end follows q: free edges alone, one each. */
static bool only_ends(const builder *b, const edge_index *from, int32_t q) {
    for (int steps = 0; steps < 64 && q != 0; steps++) {
        const edge *e = from->first[q + 1] - from->first[q] == 1 ? &b->edges[from->list[from->first[q]]] : NULL;
        if (!e || e->kind != EDGE_FREE) {
            return false;
        }
        q = e->to;
    }
    return q == 0;
}

static void find_classes(const builder *b, grammar *g) {
    bool begins[257] = {[0] = true};
    for (int32_t i = 0; i < b->edge_count; i++) {
        if (b->edges[i].kind == EDGE_BYTES) {
            begins[b->edges[i].low] = begins[b->edges[i].high + 1] = true;
        }
    }
    g->classes = -1;
    for (int i = 0; i < 256; i++) {
        g->classes += begins[i];
        g->class_of[i] = (uint8_t)g->classes;
        if (begins[i]) {
            g->of_class[g->classes] = (uint8_t)i;
        }
    }
    g->classes++;
}

static omni_status finish(builder *b, const edge_index *from, const uint8_t *alive, const uint8_t *empty, grammar *g) {
    const size_t n = (size_t)b->states + 1, e = (size_t)b->edge_count + 1;
    g->states = b->states;
    g->start = b->start[b->t->root];
    g->first_byte = calloc(n, sizeof *g->first_byte);
    g->first_free = calloc(n, sizeof *g->first_free);
    g->first_call = calloc(n, sizeof *g->first_call);
    g->bytes = malloc(e * sizeof *g->bytes);
    g->frees = malloc(2 * e * sizeof *g->frees);
    g->calls = malloc(e * sizeof *g->calls);
    if (!g->first_byte || !g->first_free || !g->first_call || !g->bytes || !g->frees || !g->calls) {
        return fail(b->err, OMNI_ERR_MEMORY, "out of memory for a grammar");
    }
    int32_t bytes = 0, frees = 0, calls = 0;
    for (int32_t q = 0; q < b->states; q++) {
        for (int32_t i = from->first[q]; i < from->first[q + 1]; i++) {
            const edge *x = &b->edges[from->list[i]];
            if (!alive[x->to] || (x->kind == EDGE_CALL && !alive[x->rule])) {
                continue;
            }
            if (x->kind == EDGE_BYTES) {
                g->bytes[bytes++] = (grammar_byte_edge){x->low, x->high, x->to};
            } else if (x->kind == EDGE_FREE) {
                g->frees[frees++] = x->to;
            } else if (only_ends(b, from, x->to)) {
                g->frees[frees++] = x->rule;
            } else {
                g->calls[calls++] = (grammar_call_edge){x->rule, x->to};
                if (empty[x->rule]) {
                    g->frees[frees++] = x->to;
                }
            }
        }
        g->first_byte[q + 1] = bytes;
        g->first_free[q + 1] = frees;
        g->first_call[q + 1] = calls;
    }
    find_classes(b, g);
    return OMNI_OK;
}

static omni_status analyse(builder *b, grammar *g) {
    edge_index from = {0}, to = {0}, calls = {0};
    uint8_t *alive = calloc((size_t)b->states, 1), *empty = calloc((size_t)b->states, 1);
    omni_status status = OMNI_OK;
    int32_t itself = -1;
    if (alive && empty && index_edges(b, BY_FROM, &from) && index_edges(b, BY_TO, &to) && index_edges(b, BY_RULE, &calls) &&
        find_reaching(b, &to, &calls, true, alive) && find_reaching(b, &to, &calls, false, empty)) {
        itself = find_left_recursion(b, &from, empty);
    }
    if (itself < 0) {
        status = fail(b->err, OMNI_ERR_MEMORY, "out of memory for a grammar");
    } else if (itself > 0) {
        status = blame(b, itself, "can begin with itself (left recursion), which is not taken: write what it repeats as (...)*");
    } else if (!alive[b->start[b->t->root]]) {
        status = blame(b, b->start[b->t->root], "has no end: every text that begins it goes on for ever, or there is none");
    } else {
        status = finish(b, &from, alive, empty, g);
    }
    index_free(&from);
    index_free(&to);
    index_free(&calls);
    free(alive);
    free(empty);
    return status;
}

omni_status grammar_parse(const char *text, size_t size, grammar_find_token *find, const void *arg, grammar **out, omni_error *err) {
    grammar_tree t;
    grammar *g = calloc(1, sizeof *g);
    *out = NULL;
    builder b = {.t = &t, .err = err};
    b.status = grammar_tree_parse(text, size, find, arg, &t, err);
    if (b.status == OMNI_OK) {
        b.start = calloc((size_t)t.rule_count, sizeof *b.start);
        b.weight = calloc((size_t)t.rule_count, sizeof *b.weight);
        b.status = g && b.start && b.weight ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for a grammar");
    }
    if (b.status == OMNI_OK) {
        for (int32_t i = 0; i < t.rule_count; i++) {
            weigh_rule(&b, i);
        }
        build_rules(&b);
    }
    omni_status status = b.status == OMNI_OK ? analyse(&b, g) : b.status;
    free(b.edges);
    free(b.start);
    free(b.weight);
    grammar_tree_free(&t);
    if (status != OMNI_OK) {
        grammar_free(g);
        return status;
    }
    *out = g;
    return OMNI_OK;
}

void grammar_free(grammar *g) {
    if (g) {
        void *const all[] = {g->first_byte, g->first_free, g->first_call, g->bytes, g->frees, g->calls};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            free(all[i]);
        }
        free(g);
    }
}
